"""Times between the tokens of answers (ITL), one value for each token after the first, pooled by their buckets.

Tokens that are handed on together were not made together: a gap is by the clock of the worker that made both. Where two
made them (the first of an attempt may come from prefill, the next from decode), it is by when the frontend heard of
them. Costs a search among the buckets' edges per token. Does not know models or Prometheus.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from frontend.leg_events import Row

# fmt: off
EDGES = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0,
)
# fmt: on
"""Seconds. From 0.01 on they are vLLM's."""
_EDGES_NS = [round(edge * 1e9) for edge in EDGES]
_NUM_HEARD = 2
"""Tokens of an attempt whose gaps are by the frontend's clock."""


@dataclass(slots=True)
class Pool:
    """How many gaps fell into each bucket; the last is of those beyond all edges."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(EDGES) + 1))
    sum_ns: int = 0

    def add(self, other: "Pool") -> None:
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.sum_ns += other.sum_ns


@dataclass(slots=True)
class Gaps:
    """Those of one answer."""

    pool: Pool = field(default_factory=Pool)
    _last: Row | None = None
    _num_heard: int = _NUM_HEARD

    def took(self, rows: Sequence[Row]) -> None:
        """The next tokens, in order."""
        last, num_heard = self._last, self._num_heard
        for row in rows:
            if last is not None:
                gap_ns = row.heard_ns - last.heard_ns if num_heard else row.end_ns - last.end_ns
                self.pool.counts[bisect_left(_EDGES_NS, gap_ns)] += 1
                self.pool.sum_ns += gap_ns if gap_ns > 0 else 0
            if num_heard:
                num_heard -= 1
            last = row
        self._last, self._num_heard = last, num_heard

    def interrupted(self) -> None:
        """Other workers make the tokens that follow."""
        self._num_heard = _NUM_HEARD
