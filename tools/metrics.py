"""Writes the tables of docs/metrics.md, of every metric that a frontend has: python -m tools.metrics.

The names, helps, kinds and labels are those of the code: of a frontend to which everything has happened once.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Metric

from frontend.api import KvLinkStatus, ModelStatus, WorkerStatus
from frontend.events import Finish, Timing, Usage
from frontend.gaps import Pool
from frontend.ledger import SECOND_TOKEN_SEGMENTS, TTFT_SEGMENTS
from frontend.metrics import FrontendMetrics
from frontend.regret import Judged
from frontend.tally import Counts

PAGE = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"
OURS, VLLM = "<!-- tandem -->", "<!-- vllm -->"
"""Where a table stands in the page: between two of its marks. What is said of it is written by hand."""
COUNTS = Counts()
LINK = KvLinkStatus(
    decode="d",
    transport="t",
    size_bytes=1,
    transfers=1,
    failures={"lost": 1},
    bytes_per_s=1.0,
    in_flight=0,
    in_flight_bytes=0,
)
WORKER = WorkerStatus(
    worker_id="p",
    role="prefill",
    address="",
    model="m",
    ready=True,
    num_blocks=1,
    free_blocks=1,
    cached_blocks=0,
    promised_blocks=0,
    leaked_blocks=0,
    block_tokens=16,
    running=0,
    queued=0,
    links=(LINK,),
    clock_ahead_s=0.0,
    clock_within_s=0.0,
    counts=COUNTS,
)
MODEL = ModelStatus(name="m", aliases=(), fallback=(), ready=True, reason="", queued_requests=0, max_queued_requests=1)


@dataclass(slots=True)
class _Server:
    """As much of `frontend.api.Inference` as is asked at a scrape."""

    queued_requests: int = 0
    queued_tokens: int = 0
    max_queued_requests: int = 1
    counts: Counts = COUNTS
    fleet: list[WorkerStatus] = field(default_factory=lambda: [WORKER])

    def workers(self) -> list[WorkerStatus]:
        return self.fleet

    def statuses(self) -> list[ModelStatus]:
        return [MODEL]


def families() -> list[Metric]:
    """Of a frontend to which everything has happened once."""
    registry = CollectorRegistry()
    metrics = FrontendMetrics(registry)
    server: Any = _Server()
    metrics.watch(server)
    timing = Timing(9.0, dict.fromkeys(TTFT_SEGMENTS, 1.0), 4.0, dict.fromkeys(SECOND_TOKEN_SEGMENTS, 1.0))
    metrics.observe_finished("m", timing, Usage(2, 2, 1), 1.0, Finish.STOP, max_tokens=2)
    metrics.observe_gaps("m", Pool())
    metrics.observe_routed("local", 0.1)
    metrics.observe_judged(Judged("local", 1.0, 0.0))
    metrics.observe_refused("OVERLOADED", limit="queue")
    return list(registry.collect())


def page() -> str:
    """The page with its tables made anew."""
    found = sorted(families(), key=_name)
    text = PAGE.read_text()
    for mark, is_vllm in ((OURS, False), (VLLM, True)):
        before, _, after = text.partition(mark)
        table = "\n".join(_table([family for family in found if family.name.startswith("vllm:") == is_vllm]))
        text = f"{before}{mark}\n\n{table}\n\n{mark}{after.partition(mark)[2]}"
    return text


def _table(found: list[Metric]) -> Iterator[str]:
    yield "| name | kind | labels | |"
    yield "|---|---|---|---|"
    for family in found:
        labels = ", ".join(f"`{label}`" for label in _labels(family))
        yield f"| `{_name(family)}` | {family.type} | {labels} | {family.documentation} |"


def _name(family: Metric) -> str:
    """As it is scraped."""
    suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
    return family.name + suffix


def _labels(family: Metric) -> list[str]:
    return list(dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le"))


def main() -> int:
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
