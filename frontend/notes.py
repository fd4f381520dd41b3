"""What is noted of one request under way, from which its record is made when it has ended.

Costs a few assignments per attempt, and a record at the end; nothing per token. Does not know spans or metrics.
"""

import time
from dataclasses import dataclass, field

import msgspec

from engine import telemetry
from frontend.events import Finished
from frontend.job import Job
from frontend.ledger import Ledger
from frontend.recorder import LatestDecision
from frontend.records import (
    MAX_ATTEMPTS,
    MAX_MESSAGE_CHARS,
    RequestAttempt,
    RequestRecord,
    RouterDecision,
    rounded,
)

CANCELLED = "CANCELLED"


@dataclass(slots=True, kw_only=True)
class Notes:
    """One request."""

    request_id: str
    traceparent: str
    key: str
    """Name of the client's."""
    model: str
    operation: str
    ledger: Ledger
    job: Job | None = None
    """None: it was not found to be sound."""
    finished: Finished | None = None
    """None: its answer is not complete."""
    _ended_ns: int = 0
    _attempts: list[RequestAttempt] = field(default_factory=list)
    """The first and the latest."""

    @property
    def trace_id(self) -> str:
        """Empty where there is no trace."""
        return telemetry.trace_id_of(self.traceparent)

    @property
    def e2e_s(self) -> float:
        """From arrival to the end of the answer, or to now if it has not ended."""
        return ((self._ended_ns or time.monotonic_ns()) - self.ledger.arrived_ns) / 1e9

    def placed(self, job: Job) -> LatestDecision:
        """Workers have taken an attempt."""
        assert job.placement is not None
        decision = RouterDecision.of(job.placement)
        self._add(RequestAttempt(job.attempt, self._at_ms(), decision))
        at_s = self.ledger.unix_ns(time.monotonic_ns()) / 1e9
        return LatestDecision(self.request_id, self.key, at_s, job.attempt, decision)

    def failed(self, job: Job, why: str) -> None:
        """An attempt has."""
        why = why[:MAX_MESSAGE_CHARS]
        if self._attempts and self._attempts[-1].number == job.attempt:
            self._attempts[-1] = msgspec.structs.replace(self._attempts[-1], failed=why)
        else:
            self._add(RequestAttempt(job.attempt, self._at_ms(), None, why))

    def finish(self, finished: Finished) -> None:
        """The answer is complete."""
        self.finished, self._ended_ns = finished, time.monotonic_ns()

    def record(self, error: str | None, message: str, limit: str = "") -> RequestRecord:
        """`error` is the word for why there is no whole answer, None if there is; `limit` what there was no room in."""
        ledger, job, now_ns = self.ledger, self.job, self._ended_ns or time.monotonic_ns()
        timing = ledger.timing() if ledger.first_token_ns else None
        second_ms = timing.second_token_ms if timing else None
        within_ms = timing.clock_within_ms if timing else None
        # A client that leaves in the middle has what it wanted; one that leaves before has perhaps waited too long.
        failed = error is not None and (error != CANCELLED or timing is None)
        return RequestRecord(
            request_id=self.request_id,
            trace_id=self.trace_id,
            key=self.key,
            model=self.model,
            operation=self.operation,
            arrived_s=ledger.arrived_unix_ns / 1e9,
            outcome=self.finished.reason.value if error is None and self.finished else error or CANCELLED,
            failed=failed,
            limit=limit,
            error=message,
            prompt_tokens=job.num_prompt if job else 0,
            cached_tokens=job.cached_tokens if job else 0,
            output_tokens=job.num_output if job else 0,
            e2e_ms=round((now_ns - ledger.arrived_ns) / 1e6, 3),
            ttft_ms=round(timing.ttft_ms, 3) if timing else None,
            ttft_segments=rounded(timing.ttft_segments if timing else ledger.so_far(now_ns)),
            second_token_ms=None if second_ms is None else round(second_ms, 3),
            second_token_segments=rounded(timing.second_token_segments) if timing else {},
            client_ms=round(ledger.client_ns / 1e6, 3),
            way_ms=round(timing.way_ms, 3) if timing else 0.0,
            clock_within_ms=None if within_ms is None else round(within_ms, 3),
            num_attempts=job.attempt if job else 0,
            attempts=self._attempts,
        )

    def _add(self, attempt: RequestAttempt) -> None:
        self._attempts.append(attempt)
        if len(self._attempts) > MAX_ATTEMPTS:
            del self._attempts[1]

    def _at_ms(self) -> float:
        return round((time.monotonic_ns() - self.ledger.arrived_ns) / 1e6, 3)
