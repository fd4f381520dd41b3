"""The decode worker's part of a request's trace: `decode`, from the grant to the last token, linked to the transfer."""

from dataclasses import dataclass

from engine import telemetry
from engine.leg import Leg
from engine.sequence import SequenceId
from engine.telemetry import SpanEvent, Telemetry


@dataclass(slots=True)
class _Open:
    leg: Leg
    granted_ns: int
    events: list[tuple[str, int]]
    """Names and times."""
    link: str = ""
    num_tokens: int = 0


class DecodeSpans:
    """Spans of the legs that are here; each is recorded when its leg ends. Costs nothing without tracing."""

    def __init__(self, tracing: Telemetry, worker_id: str) -> None:
        self._tracing = tracing
        self._worker_id = worker_id
        self._open: dict[SequenceId, _Open] = {}

    def keep(self, trace_id: bytes) -> None:
        """A trace that was not sampled is wanted after all."""
        self._tracing.keep(trace_id)

    def granted(self, leg: Leg, now_ns: int) -> None:
        if self._tracing.enabled:
            self._open.setdefault(leg.id, _Open(leg, now_ns, []))  # a second time if a prefill worker was lost

    def note(self, sequence_id: SequenceId, name: str, at_ns: int, *, link: str = "") -> None:
        """Something happened to the leg: its KV arrived, its prompt was computed here."""
        if span := self._open.get(sequence_id):
            span.events.append((name, at_ns))
            span.link = link or span.link

    def token(self, sequence_id: SequenceId) -> None:
        if span := self._open.get(sequence_id):
            span.num_tokens += 1

    def ended(self, sequence_id: SequenceId, end_ns: int, *, given_up: bool = False) -> None:
        span = self._open.pop(sequence_id, None)
        if span is None:
            return
        if given_up:
            span.events.append(("given_up", end_ns))
        axis = span.leg.axis
        self._tracing.record(
            "decode",
            parent=span.leg.traceparent,
            start_ns=axis.unix_ns(span.granted_ns),
            end_ns=axis.unix_ns(end_ns),
            attributes={
                telemetry.TANDEM_REQUEST_ID: span.leg.request_id,
                telemetry.TANDEM_ATTEMPT: span.leg.attempt,
                telemetry.TANDEM_WORKER_ID: self._worker_id,
                telemetry.GEN_AI_USAGE_OUTPUT_TOKENS: span.num_tokens,
                **telemetry.clock_attributes(axis),
            },
            events=[SpanEvent(name, axis.unix_ns(at_ns)) for name, at_ns in span.events],
            links=[span.link] if span.link else [],
        )
