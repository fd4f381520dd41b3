"""What is kept of a request that has ended, as JSON has it: where its time went, and which workers had it and why.

No prompt, no answer, nothing that a client wrote. Whatever a record holds is bounded, so that so many records are.
"""

from collections.abc import Mapping

import msgspec

from engine.errors import KEY_LIMITS, TandemError, codes
from frontend.router import Placement

MAX_ATTEMPTS = 8
"""Of one request, that are told: the first and the latest. All are counted."""
MAX_MESSAGE_CHARS = 300


class RouterDecision(msgspec.Struct, frozen=True):
    """Which workers had a request, and what that was decided by."""

    choice: str
    """local: the decode worker computed the prompt; or remote."""
    why: str
    decode: str
    prefill: str | None
    cached_tokens: int
    """That the decode worker had."""
    local_ms: float | None
    """Predicted time to the first token; None where nothing was estimated."""
    remote_ms: float | None
    local_loss_ms: float | None
    """What that would have taken from those who stream, over all of them."""
    remote_loss_ms: float | None

    @classmethod
    def of(cls, placement: Placement) -> "RouterDecision":
        prefill = placement.prefill
        estimated = placement.local_s or placement.remote_s
        return cls(
            choice="local" if prefill is None else "remote",
            why=placement.why.value,
            decode=placement.decode.worker_id,
            prefill=None if prefill is None else prefill.worker_id,
            cached_tokens=placement.cached_tokens,
            local_ms=_ms(placement.local_s) if estimated else None,
            remote_ms=_ms(placement.remote_s) if estimated else None,
            local_loss_ms=_ms(placement.local_loss_s) if estimated else None,
            remote_loss_ms=_ms(placement.remote_loss_s) if estimated else None,
        )


class RequestAttempt(msgspec.Struct, frozen=True):
    """One time that workers were tried."""

    number: int
    at_ms: float
    """After the request's arrival: when workers had taken it, or when they had failed to."""
    decision: RouterDecision | None
    """None: it failed before workers had taken it."""
    failed: str = ""
    """Why, if it did."""


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A request that has ended."""

    request_id: str
    trace_id: str
    """Empty where nothing is traced and the client brought none."""
    traced: bool = False
    """Whether the trace is exported, by us or by the client's side, so that it can be looked at."""
    key: str
    """The name of the client's key; empty: it needs none or has the server's own."""
    model: str
    operation: str
    """chat or text_completion."""
    arrived_s: float
    """Unix."""
    outcome: str
    """stop, length or tool_calls; or why there is no whole answer, as errors name it, or CANCELLED."""
    failed: bool
    limit: str = ""
    """Of what was refused: what there was no room within (`engine.errors.Limit`)."""
    error: str = ""
    """What the client was told. Empty where that may have words of its own in it."""
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    e2e_ms: float
    """From arrival to the end."""
    ttft_ms: float | None
    """None: there was no first token."""
    ttft_segments: dict[str, float]
    """Milliseconds; they sum to `ttft_ms`, or to `e2e_ms` if that is None: the last is what the request was in."""
    second_token_ms: float | None
    second_token_segments: dict[str, float]
    client_ms: float = 0.0
    """That tokens waited for the client to take those before them."""
    way_ms: float = 0.0
    """Of the segment egress, what was before prefill_queue: the way to the worker."""
    clock_within_ms: float | None = None
    """Where workers' parts begin and end may be so much off, for they have clocks of their own; null: nobody knows."""
    num_attempts: int
    attempts: list[RequestAttempt]

    @property
    def used_up_key(self) -> bool:
        """Whether it was refused for what its own key may ask, whatever the server had to do."""
        return self.limit in KEY_LIMITS


def rounded(segments: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds to the microsecond."""
    return {name: round(ms, 3) for name, ms in segments.items()}


def message_of(error: TandemError) -> str:
    """What may be kept of an error's words: those about a request's own fields can quote it."""
    status = codes(error).http
    if status == 429 or status >= 500:
        return error.message[:MAX_MESSAGE_CHARS]
    return f"the field {error.field[:100]}" if error.field else ""


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
