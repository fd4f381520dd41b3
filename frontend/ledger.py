"""Where one request's time to its first and second token went. Segments do not overlap and add up by construction.

    admit           arrival to the end of checks
    tokenize        template and tokenizer
    route           choosing workers
    grant           waiting for room and for a decode worker's promise of it (and anything lost to attempts that failed)
    prefill_queue   on the worker that prefills, before the first chunk
    prefill_compute first chunk to first token
    transfer_wait   what the first token waited for KV to move: nothing, it goes straight to the frontend
    egress          the hops to the worker and back, and handing the token to the client's stream

    transfer_tail   from token one to the commit of the KV on decode, with the hops there
    decode_queue    from there to the step that joins it
    decode_step     that step

Durations measured on a worker are of its own clock; only frontend times are subtracted from one another.
"""

import time
from dataclasses import dataclass, field

from frontend.request import Timing

TTFT_SEGMENTS = (
    "admit",
    "tokenize",
    "route",
    "grant",
    "prefill_queue",
    "prefill_compute",
    "transfer_wait",
    "egress",
)
SECOND_TOKEN_SEGMENTS = ("transfer_tail", "decode_queue", "decode_step")


@dataclass(slots=True)
class Ledger:
    """Filled in as a request goes along. Times are `time.monotonic_ns()` of this process."""

    arrived_ns: int = field(default_factory=time.monotonic_ns)
    arrived_unix_ns: int = field(default_factory=time.time_ns)
    checked_ns: int = 0
    tokenized_ns: int = 0
    route_ns: int = 0
    """Spent choosing workers, over all attempts."""
    granted_ns: int = 0
    queue_ns: int = 0
    """Of the worker that prefilled."""
    compute_ns: int = 0
    first_token_ns: int = 0
    second_token_ns: int = 0
    commit_ns: int = 0
    """Of the decode worker's clock, as `step_start_ns` and `step_end_ns` of the second token's step."""
    step_start_ns: int = 0
    step_end_ns: int = 0

    def unix_ns(self, monotonic_ns: int) -> int:
        """The wall-clock time of a moment of this request."""
        return self.arrived_unix_ns + monotonic_ns - self.arrived_ns

    def timing(self) -> Timing:
        ttft_ns = self.first_token_ns - self.arrived_ns
        admit = self.checked_ns - self.arrived_ns
        tokenize = self.tokenized_ns - self.checked_ns
        grant = self.granted_ns - self.tokenized_ns - self.route_ns
        rest = ttft_ns - admit - tokenize - self.route_ns - grant
        compute = min(self.compute_ns, rest)
        queue = min(self.queue_ns, rest - compute)
        parts = (admit, tokenize, self.route_ns, grant, queue, compute, 0, rest - queue - compute)
        ttft = dict(zip(TTFT_SEGMENTS, (_ms(part) for part in parts), strict=True))
        if not self.second_token_ns:
            return Timing(_ms(ttft_ns), ttft)
        second_ns = self.second_token_ns - self.first_token_ns
        return Timing(_ms(ttft_ns), ttft, _ms(second_ns), self._second(second_ns))

    def so_far(self, now_ns: int) -> dict[str, float]:
        """Where the time went of a request that has no first token: the last segment is the one it is in. Once it has
        room that is `prefill`, of which only the worker knows the parts."""
        moments = {"admit": self.checked_ns, "tokenize": self.tokenized_ns, "grant": self.granted_ns, "prefill": 0}
        segments, began_ns = {}, self.arrived_ns
        for name, ended_ns in moments.items():
            segments[name] = _ms((ended_ns or now_ns) - began_ns)
            if not ended_ns:
                break
            began_ns = ended_ns
        if self.route_ns and "grant" in segments:
            segments = {"admit": 0.0, "tokenize": 0.0, "route": _ms(self.route_ns)} | segments
            segments["grant"] -= segments["route"]
        return segments

    def _second(self, second_ns: int) -> dict[str, float]:
        step = min(self.step_end_ns - self.step_start_ns, second_ns)
        queue = second_ns - step
        if self.commit_ns:
            queue = min(max(self.step_start_ns - self.commit_ns, 0), queue)
        parts = (second_ns - step - queue, queue, step)
        return dict(zip(SECOND_TOKEN_SEGMENTS, (_ms(part) for part in parts), strict=True))


def _ms(ns: int) -> float:
    return ns / 1e6
