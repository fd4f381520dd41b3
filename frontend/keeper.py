"""Which traces are exported although they were not sampled: of requests that failed, that lost a worker, or whose first
token was slow. So many a minute at most: where everything fails, a few say why.

Does not know spans: every process holds its own (`engine.unsampled`) until it hears of the decision.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from engine.telemetry import Telemetry
from frontend.callers import Bucket
from frontend.records import RequestRecord

KEPT_PER_MINUTE = 60
SLOW_TTFT_S = 1.0


@dataclass(slots=True)
class Keeper:
    """Decides for one frontend."""

    tracing: Telemetry
    tell: Callable[[bytes], None] = lambda _: None
    """Workers of a trace that is kept."""
    slow_ttft_s: float = SLOW_TTFT_S
    """0: none is slow."""
    _left: Bucket = field(default_factory=lambda: Bucket(KEPT_PER_MINUTE))

    def is_slow(self, ttft_ms: float) -> bool:
        return 0 < self.slow_ttft_s < ttft_ms / 1000

    def wants(self, record: RequestRecord) -> bool:
        """Whether a request that has ended was one of those."""
        return record.failed or record.num_attempts > 1 or self.is_slow(record.ttft_ms or 0.0)

    def keep(self, trace_id: str) -> bool:
        """Whether there is a trace that can be found from now on."""
        if not trace_id or self._left.wait_s(1) > 0:
            return False
        self._left.take(1)
        ident = bytes.fromhex(trace_id)
        self.tracing.keep(ident)
        self.tell(ident)
        return True
