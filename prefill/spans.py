"""The prefill worker's part of a request's trace: `prefill`, with its chunks as events, and `kv.transfer`."""

import time
from dataclasses import dataclass

from opentelemetry.trace import Span

from engine import telemetry
from engine.clock import Axis
from engine.leg import Leg
from engine.telemetry import SpanEvent, Telemetry
from kvtransfer.transport import Endpoint, Ticket
from prefill.worker import FirstToken


class PrefillSpans:
    """Both are children of the frontend's span, so siblings of `decode`."""

    def __init__(self, tracing: Telemetry, worker_id: str) -> None:
        self._tracing = tracing
        self._worker_id = worker_id

    def keep(self, trace_id: bytes) -> None:
        """A trace that was not sampled is wanted after all."""
        self._tracing.keep(trace_id)

    def prefilled(self, leg: Leg, event: FirstToken) -> None:
        if not self._tracing.enabled:
            return
        done, axis = event.done, leg.axis
        chunks = [
            SpanEvent("chunk", axis.unix_ns(chunk.start_ns), {"tandem.chunk.num_tokens": chunk.num_tokens})
            for chunk in event.chunks
        ]
        self._tracing.record(
            "prefill",
            parent=leg.traceparent,
            start_ns=axis.unix_ns(event.queued_ns),
            end_ns=axis.unix_ns(event.end_ns),
            attributes={
                telemetry.TANDEM_REQUEST_ID: leg.request_id,
                telemetry.TANDEM_ATTEMPT: leg.attempt,
                telemetry.TANDEM_WORKER_ID: self._worker_id,
                telemetry.TANDEM_CACHED_TOKENS: done.num_cached,
                telemetry.TANDEM_NUM_CHUNKS: done.num_chunks,
                **telemetry.clock_attributes(axis),
            },
            events=[SpanEvent("queued", axis.unix_ns(event.queued_ns)), *chunks],
        )

    def transfer(self, leg: Leg, ticket: Ticket, endpoint: Endpoint) -> "TransferSpan":
        """Start the transfer's span; the caller finishes it."""
        num_blocks, axis = ticket.num_blocks - ticket.first_block, leg.axis
        span = self._tracing.start(
            "kv.transfer",
            context=telemetry.context_from(leg.traceparent),
            start_ns=axis.unix_ns(time.monotonic_ns()),
            attributes={
                telemetry.TANDEM_REQUEST_ID: leg.request_id,
                telemetry.TANDEM_ATTEMPT: leg.attempt,
                telemetry.TANDEM_WORKER_ID: self._worker_id,
                telemetry.TANDEM_DECODE_WORKER_ID: ticket.worker_id,
                telemetry.TANDEM_TRANSPORT: endpoint.transport,
                telemetry.TANDEM_TRANSFER_BLOCKS: num_blocks,
                telemetry.TANDEM_TRANSFER_BYTES: num_blocks * ticket.block_bytes,
                **telemetry.clock_attributes(axis),
            },
        )
        return TransferSpan(span, axis)


@dataclass(frozen=True, slots=True)
class TransferSpan:
    """A transfer under way."""

    _span: Span
    _axis: Axis
    """It ends on the one that it began on."""

    @property
    def traceparent(self) -> str:
        return telemetry.inject(self._span)

    def finish(self, error: str | None) -> None:
        telemetry.finish(self._span, end_ns=self._axis.unix_ns(time.monotonic_ns()), error=error)
