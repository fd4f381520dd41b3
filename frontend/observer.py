"""Watches requests: one SERVER span each, the metrics they feed, and one log line when they end."""

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry.trace import Span, SpanKind

from engine import telemetry
from engine.errors import TandemError
from engine.telemetry import Telemetry
from frontend.job import Job
from frontend.ledger import Ledger
from frontend.metrics import FrontendMetrics
from frontend.request import Chat, Finished, GenerateRequest, Timing

log = logging.getLogger(__name__)


class Observer:
    """What every request of a frontend is watched by."""

    def __init__(self, tracing: Telemetry, metrics: FrontendMetrics) -> None:
        self._tracing = tracing
        self._metrics = metrics

    @contextmanager
    def watch(self, request: GenerateRequest, model: str, ledger: Ledger) -> Iterator["Watched"]:
        """Cover one request from arrival to its end, however it ends."""
        operation = "chat" if isinstance(request.prompt, Chat) else "text_completion"
        span = self._tracing.start(
            f"{operation} {model}",
            context=telemetry.extract(request.trace_headers),
            kind=SpanKind.SERVER,
            start_ns=ledger.arrived_unix_ns,
            attributes={
                telemetry.GEN_AI_OPERATION_NAME: operation,
                telemetry.GEN_AI_PROVIDER_NAME: telemetry.PROVIDER,
                telemetry.GEN_AI_REQUEST_MODEL: request.model or model,
                telemetry.GEN_AI_REQUEST_MAX_TOKENS: request.max_tokens,
                telemetry.GEN_AI_REQUEST_TEMPERATURE: request.temperature,
                telemetry.GEN_AI_REQUEST_TOP_P: request.top_p,
                telemetry.GEN_AI_REQUEST_TOP_K: request.top_k,
                telemetry.GEN_AI_REQUEST_SEED: request.seed,
                telemetry.GEN_AI_REQUEST_FREQUENCY_PENALTY: request.frequency_penalty,
                telemetry.GEN_AI_REQUEST_PRESENCE_PENALTY: request.presence_penalty,
                telemetry.GEN_AI_REQUEST_STOP_SEQUENCES: list(request.stop) or None,
            },
        )
        watched = Watched(self._tracing, self._metrics, span, model, ledger)
        self._metrics.in_flight.inc()
        error: str | None = None
        try:
            yield watched
        except TandemError as failure:
            error = failure.reason
            self._metrics.observe_refused(failure.reason)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            if not watched.done:
                error = "CANCELLED"
                self._metrics.observe_refused("CANCELLED")
            raise
        except BaseException:
            error = "INTERNAL"
            self._metrics.observe_refused("INTERNAL")
            raise
        finally:
            self._metrics.in_flight.dec()
            telemetry.finish(span, error=error)
            if error is not None:
                log.info("%s ended: %s", watched.request_id or "a request", error)


class Watched:
    """One request under watch."""

    def __init__(self, tracing: Telemetry, metrics: FrontendMetrics, span: Span, model: str, ledger: Ledger) -> None:
        self.traceparent = telemetry.inject(span)
        self.request_id = ""
        self.done = False
        self._tracing = tracing
        self._metrics = metrics
        self._span = span
        self._model = model
        self._ledger = ledger

    def tokenized(self, job: Job) -> None:
        """The request is checked and is a job now."""
        self.request_id = job.request_id
        ledger = self._ledger
        if self._tracing.enabled:
            self._span.set_attribute(telemetry.TANDEM_REQUEST_ID, job.request_id)
            self._tracing.record(
                "admission",
                parent=self.traceparent,
                start_ns=ledger.arrived_unix_ns,
                end_ns=ledger.unix_ns(ledger.tokenized_ns),
                attributes={telemetry.GEN_AI_USAGE_INPUT_TOKENS: job.num_prompt},
            )

    def taken(self, job: Job) -> None:
        """A decode worker has granted room."""
        placement, ledger = job.placement, self._ledger
        assert placement is not None
        choice = "local" if placement.prefill is None else "remote"
        self._metrics.observe_routed(choice, ledger.route_ns / 1e9)
        if self._tracing.enabled:
            self._tracing.record(
                "route",
                parent=self.traceparent,
                start_ns=ledger.unix_ns(ledger.tokenized_ns),
                end_ns=ledger.unix_ns(ledger.granted_ns),
                attributes={
                    telemetry.TANDEM_ROUTE_CHOICE: choice,
                    telemetry.TANDEM_ROUTE_LOCAL_S: placement.local_s,
                    telemetry.TANDEM_ROUTE_REMOTE_S: placement.remote_s,
                    telemetry.TANDEM_ROUTE_LOCAL_LOSS_S: placement.local_loss_s,
                    telemetry.TANDEM_ROUTE_REMOTE_LOSS_S: placement.remote_loss_s,
                    telemetry.TANDEM_DECODE_WORKER_ID: placement.decode.worker_id,
                    telemetry.TANDEM_PREFILL_WORKER_ID: placement.prefill.worker_id if placement.prefill else None,
                    telemetry.TANDEM_CACHED_TOKENS: placement.cached_tokens,
                    telemetry.TANDEM_ATTEMPT: job.attempt,
                },
            )

    def retried(self, job: Job, reason: str) -> None:
        """An attempt failed and another is made."""
        self._metrics.observe_retry()
        self._span.add_event("retry", {telemetry.TANDEM_ATTEMPT: job.attempt, "tandem.retry.reason": reason})

    def finished(self, finished: Finished) -> None:
        """The answer is complete."""
        self.done = True
        usage, timing = finished.usage, finished.timing
        e2e_s = (time.monotonic_ns() - self._ledger.arrived_ns) / 1e9
        self._metrics.observe_finished(self._model, timing, usage, e2e_s, finished.reason)
        log.info(
            "%s %s prompt=%d cached=%d output=%d ttft_ms=%.1f e2e_ms=%.1f",
            self.request_id,
            finished.reason,
            usage.prompt_tokens,
            usage.cached_tokens,
            usage.completion_tokens,
            timing.ttft_ms,
            e2e_s * 1e3,
        )
        if self._span.is_recording():
            self._span.set_attributes(
                {
                    telemetry.GEN_AI_RESPONSE_ID: self.request_id,
                    telemetry.GEN_AI_RESPONSE_MODEL: self._model,
                    telemetry.GEN_AI_RESPONSE_FINISH_REASONS: [finished.reason],
                    telemetry.GEN_AI_USAGE_INPUT_TOKENS: usage.prompt_tokens,
                    telemetry.GEN_AI_USAGE_OUTPUT_TOKENS: usage.completion_tokens,
                    telemetry.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: usage.cached_tokens,
                    **_ledger_attributes(timing),
                }
            )


def _ledger_attributes(timing: Timing) -> Mapping[str, float]:
    attributes = {telemetry.TANDEM_TTFT_MS: timing.ttft_ms}
    for name, ms in timing.ttft_segments.items():
        attributes[telemetry.TANDEM_TTFT_SEGMENT_MS.format(name)] = ms
    if timing.second_token_ms is not None:
        attributes[telemetry.TANDEM_SECOND_TOKEN_MS] = timing.second_token_ms
        for name, ms in timing.second_token_segments.items():
            attributes[telemetry.TANDEM_SECOND_TOKEN_SEGMENT_MS.format(name)] = ms
    return attributes
