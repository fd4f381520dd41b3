"""Writes docs/metrics.md, the table of every metric that a frontend has: python -m tools.metrics.

The names, helps, kinds and labels are those of the code: of a frontend to which everything has happened once.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Metric

from frontend.api import KvLinkStatus, ServedModel, WorkerStatus
from frontend.gaps import Pool
from frontend.ledger import SECOND_TOKEN_SEGMENTS, TTFT_SEGMENTS
from frontend.metrics import FrontendMetrics
from frontend.regret import Judged
from frontend.request import Finish, Timing, Usage
from frontend.tally import Counts

PAGE = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"
HEAD = """\
# Metrics

What a frontend's `/metrics` has, made of the code by `python -m tools.metrics` (`make metrics`); a test says when it is stale. It needs no key. Who accepts `application/openmetrics-text` gets the same with
exemplars: on histograms of whole requests, on refusals and on the router's regret stands the `trace_id` of one request, if its trace is recorded.

Seconds, bytes, tokens and blocks are in the names. Labels are bounded: models that are served, workers that are there, links between these (64 of each prefill worker), segments, and words of fixed lists. Workers' figures are what they
last said, four times a second while anything changes; theirs and links' begin anew with the worker.

## What some of them mean

- `tandem_ttft_segment_seconds` and `tandem_second_token_segment_seconds`: [the ledger](observability.md). The segments of a request sum to `tandem_ttft_seconds` and `tandem_second_token_seconds` (TTST).
- `tandem_inter_token_seconds` (ITL) has one value for each token after the first, by the clock of the worker that made it; `tandem_time_per_output_token_seconds` (TPOT) one for each answer, its mean.
- `tandem_client_wait_seconds`: how long tokens of an answer, all together, were in the frontend and waited for the client to take those before them.
- `tandem_link_bytes_per_second` is bytes by the time in which anything was under way. `tandem_link_failures_total` by reason: `refused` (decode did not want the blocks any more), `stalled` (it took nothing), `lost` (the
  connection), `unreachable` (this transport does not get there; the next one was taken).
- `tandem_refusals_total` by limit: `queue`, `queue_timeout`, `ttft_slo`, `deadline`; `key_requests` and `key_tokens` are what a client's own key may ask in a minute.
- `tandem_router_prediction_ratio` and `tandem_router_regret_seconds` are of first attempts where both ways, local and remote, were estimated. With *actual* the time from the decision to the first token, and *loss* what a way was
  predicted to take from those who stream:

      ratio  = actual / predicted                        of the way that was taken
      regret = max(0, (actual + its loss) - (other + other's loss))     seconds, `other` by its estimate

- `tandem_worker_step_*`: a decode worker's step is a token of everybody who runs, and chunks of prompts that are computed there; a prefill worker's, chunks of prompts. Their buckets double.
- `tandem_migrations_total`: the worker that had the answer was lost, and another one, or its next start, went on after the tokens so far.

## All of them

"""
VLLM_HEAD = """
## The `vllm:` names

From the same values, for dashboards, autoscalers and endpoint pickers that know vLLM. A request's have the engine 0; a worker is an engine of its own, by its name, and so is `frontend`, where those wait that no worker has taken.
Not there, because there is nothing to tell: LoRA adapters, speculation, sleeping engines, multimodal caches. `promtool check metrics` finds fault with the colon in these names, and with nothing else.

"""
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
    counts=COUNTS,
)


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

    def models(self) -> list[ServedModel]:
        return []


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
    found = sorted(families(), key=lambda family: _name(family))
    ours = [family for family in found if not family.name.startswith("vllm:")]
    theirs = [family for family in found if family.name.startswith("vllm:")]
    return HEAD + "\n".join(_table(ours)) + "\n" + VLLM_HEAD + "\n".join(_table(theirs)) + "\n"


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
