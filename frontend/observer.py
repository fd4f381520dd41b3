"""Watches requests: one SERVER span each, the metrics they feed, and when they end, a record and a line in the log."""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec
from opentelemetry.trace import Span, SpanKind

from engine import telemetry
from engine.errors import Overloaded, TandemError
from engine.telemetry import Telemetry
from frontend.accounts import Accounts
from frontend.events import Finished, Timing
from frontend.gaps import Gaps
from frontend.job import Job
from frontend.keeper import Keeper
from frontend.ledger import Ledger
from frontend.leg_events import Row
from frontend.metrics import Exemplar, FrontendMetrics
from frontend.notes import CANCELLED, Notes
from frontend.recorder import Recorder
from frontend.records import RequestRecord, message_of
from frontend.regret import judge
from frontend.request import Chat, GenerateRequest, new_request_id
from frontend.worker_view import WorkerView

LOGGED = (
    "outcome",
    "error",
    "key",
    "model",
    "operation",
    "prompt_tokens",
    "cached_tokens",
    "output_tokens",
    "num_attempts",
    "e2e_ms",
    "ttft_ms",
    "ttft_segments",
    "second_token_ms",
    "second_token_segments",
    "client_ms",
)
"""Of a record, in the line that tells of its end."""

log = logging.getLogger(__name__)


class Observer:
    """What every request of a frontend is watched by."""

    def __init__(self, tracing: Telemetry, metrics: FrontendMetrics, keeper: Keeper | None = None) -> None:
        self._tracing = tracing
        self._metrics = metrics
        self._keeper = keeper or Keeper(tracing)
        self.recorder = Recorder()
        self.accounts = Accounts()

    @contextmanager
    def watch(self, request: GenerateRequest, model: str, ledger: Ledger) -> Iterator["Watched"]:
        """Cover one request for `model` from arrival to its end, however it ends."""
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
        notes = Notes(
            request_id=request.request_id or new_request_id(),
            traceparent=telemetry.inject(span),
            key=request.caller.name,
            model=model,
            operation=operation,
            ledger=ledger,
        )
        watched = Watched(self._tracing, self._metrics, self.recorder, self._keeper, span, notes)
        self._metrics.in_flight.inc()
        self.recorder.in_flight += 1
        error: str | None = None
        message = limit = ""
        telemetry.set_log_context(notes.request_id, notes.trace_id)
        try:
            yield watched
        except TandemError as failure:
            error, message = failure.reason, message_of(failure)
            limit = failure.limit if isinstance(failure, Overloaded) else ""
            self._metrics.observe_refused(failure.reason, limit=limit, exemplar=watched.exemplar)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            if notes.finished is None:
                error = CANCELLED
                self._metrics.observe_refused(CANCELLED)
            raise
        except BaseException:
            error = "INTERNAL"
            self._metrics.observe_refused("INTERNAL", exemplar=watched.exemplar)
            raise
        finally:
            self._metrics.in_flight.dec()
            self.recorder.in_flight -= 1
            self._metrics.observe_gaps(notes.model, watched.gaps.pool)
            telemetry.finish(span, error=error)
            record = notes.record(error, message, limit)
            if self._keeper.wants(record):
                watched.keep_trace()
            record = msgspec.structs.replace(record, traced=watched.exemplar is not None)
            self.recorder.add(record)
            self.accounts.add(record)
            _log(record)
            telemetry.set_log_context("", "")


class Watched:
    """One request under watch."""

    def __init__(
        self,
        tracing: Telemetry,
        metrics: FrontendMetrics,
        recorder: Recorder,
        keeper: Keeper,
        span: Span,
        notes: Notes,
    ) -> None:
        self.request_id = notes.request_id
        self.traceparent = notes.traceparent
        self.gaps = Gaps()
        self.exemplar: Exemplar = {"trace_id": notes.trace_id} if span.get_span_context().trace_flags.sampled else None
        """None where the trace is not exported: nobody would find it."""
        self._decode: WorkerView | None = None
        """Who has the answer."""
        self._tracing = tracing
        self._metrics = metrics
        self._recorder = recorder
        self._keeper = keeper
        self._span = span
        self._notes = notes

    def tokenized(self, job: Job) -> None:
        """The request is checked and is a job now, perhaps of another model that answers for the one that was asked."""
        self._notes.job, self._notes.model = job, job.model
        ledger = job.ledger
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
        placement, ledger = job.placement, job.ledger
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

    def placed(self, job: Job) -> None:
        """Workers have taken an attempt."""
        assert job.placement is not None
        before, self._decode = self._decode, job.placement.decode
        if job.num_output and before is not None and before is not self._decode:
            self._metrics.observe_migration()
        self._recorder.decided(self._notes.placed(job))

    def took(self, rows: Sequence[Row]) -> None:
        """The next tokens, in order; none where another attempt begins."""
        if not rows:
            self.gaps.interrupted()
            return
        self._notes.ledger.took(rows)
        self.gaps.took(rows)
        job = self._notes.job
        if rows[0].index == 0 and job is not None and job.placement is not None and job.attempt == 1:
            actual_s = (self._notes.ledger.first_token_ns - job.placed_ns) / 1e9
            if (judged := judge(job.placement, actual_s)) is not None:
                self._metrics.observe_judged(judged, self.exemplar)

    def retried(self, job: Job, reason: str) -> None:
        """An attempt failed and another is made."""
        self._notes.failed(job, reason)
        self._metrics.observe_retry()
        self._span.add_event("retry", {telemetry.TANDEM_ATTEMPT: job.attempt, "tandem.retry.reason": reason})

    def keep_trace(self) -> None:
        """It is worth looking at: have it exported if it is not anyway."""
        if self._tracing.enabled and self.exemplar is None and self._keeper.keep(self._notes.trace_id):
            self.exemplar = {"trace_id": self._notes.trace_id}

    def finished(self, finished: Finished) -> None:
        """The answer is complete."""
        notes = self._notes
        notes.finish(finished)
        usage, timing = finished.usage, finished.timing
        if self._keeper.is_slow(timing.ttft_ms):
            self.keep_trace()
        self._metrics.observe_finished(
            notes.model,
            timing,
            usage,
            notes.e2e_s,
            finished.reason,
            max_tokens=notes.job.params.max_tokens if notes.job else 0,
            exemplar=self.exemplar,
        )
        if self._span.is_recording():
            self._span.set_attributes(
                {
                    telemetry.GEN_AI_RESPONSE_ID: self.request_id,
                    telemetry.GEN_AI_RESPONSE_MODEL: notes.model,
                    telemetry.GEN_AI_RESPONSE_FINISH_REASONS: [finished.reason],
                    telemetry.GEN_AI_USAGE_INPUT_TOKENS: usage.prompt_tokens,
                    telemetry.GEN_AI_USAGE_OUTPUT_TOKENS: usage.completion_tokens,
                    telemetry.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: usage.cached_tokens,
                    **_ledger_attributes(timing),
                }
            )


def _log(record: RequestRecord) -> None:
    """The one line of a request: what it was, what came of it, its ledger."""
    if log.isEnabledFor(logging.INFO):
        given = {name: getattr(record, name) for name in LOGGED}
        fields = {name: value for name, value in given.items() if value not in (None, "", {})}
        if not record.client_ms:
            del fields["client_ms"]
        log.info("request ended", extra={telemetry.LOG_FIELDS: fields})


def _ledger_attributes(timing: Timing) -> Mapping[str, float]:
    attributes = {telemetry.TANDEM_TTFT_MS: timing.ttft_ms}
    for name, ms in timing.ttft_segments.items():
        attributes[telemetry.TANDEM_TTFT_SEGMENT_MS.format(name)] = ms
    if timing.second_token_ms is not None:
        attributes[telemetry.TANDEM_SECOND_TOKEN_MS] = timing.second_token_ms
        for name, ms in timing.second_token_segments.items():
            attributes[telemetry.TANDEM_SECOND_TOKEN_SEGMENT_MS.format(name)] = ms
    if timing.client_ms:
        attributes[telemetry.TANDEM_CLIENT_MS] = timing.client_ms
    if timing.clock_within_ms is not None:
        attributes[telemetry.TANDEM_CLOCK_WITHIN_MS] = timing.clock_within_ms
    return attributes
