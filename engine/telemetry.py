"""Traces and logs of a process. Knows OpenTelemetry, W3C trace context and the names of attributes.

Spans are started where a request arrives and recorded after the fact everywhere else: durations travel by value, and
whoever knows them calls `Telemetry.record` with times in Unix nanoseconds. A parent is a W3C `traceparent`, as it
travels. Without an endpoint nothing is recorded, and the caller's trace context is passed on as it came. What is not
sampled is held for a while (`engine.unsampled`): `keep` exports it after all.

Does not know requests or workers. A collector that is slow or gone costs spans, never an answer.
"""

import asyncio
import json
import logging
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, NoOpTracer, Span, SpanKind, Status, StatusCode, Tracer, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from engine.clock import Axis, own_axis
from engine.errors import ConfigError
from engine.unsampled import Unsampled, unsampled

GEN_AI_OPERATION_NAME = "gen_ai.operation.name"
GEN_AI_PROVIDER_NAME = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL = "gen_ai.request.model"
GEN_AI_REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
GEN_AI_REQUEST_TEMPERATURE = "gen_ai.request.temperature"
GEN_AI_REQUEST_TOP_P = "gen_ai.request.top_p"
GEN_AI_REQUEST_TOP_K = "gen_ai.request.top_k"
GEN_AI_REQUEST_SEED = "gen_ai.request.seed"
GEN_AI_REQUEST_FREQUENCY_PENALTY = "gen_ai.request.frequency_penalty"
GEN_AI_REQUEST_PRESENCE_PENALTY = "gen_ai.request.presence_penalty"
GEN_AI_REQUEST_STOP_SEQUENCES = "gen_ai.request.stop_sequences"
GEN_AI_RESPONSE_ID = "gen_ai.response.id"
GEN_AI_RESPONSE_MODEL = "gen_ai.response.model"
GEN_AI_RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"
GEN_AI_USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS = "gen_ai.usage.cache_read.input_tokens"
ERROR_TYPE = "error.type"

PROVIDER = "tandem"
"""Value of gen_ai.provider.name."""

TANDEM_REQUEST_ID = "tandem.request_id"
TANDEM_ATTEMPT = "tandem.attempt"
TANDEM_WORKER_ID = "tandem.worker_id"
TANDEM_DECODE_WORKER_ID = "tandem.decode.worker_id"
TANDEM_PREFILL_WORKER_ID = "tandem.prefill.worker_id"
TANDEM_ROUTE_CHOICE = "tandem.route.choice"
TANDEM_ROUTE_LOCAL_S = "tandem.route.local_s"
TANDEM_ROUTE_REMOTE_S = "tandem.route.remote_s"
TANDEM_ROUTE_LOCAL_LOSS_S = "tandem.route.local_loss_s"
TANDEM_ROUTE_REMOTE_LOSS_S = "tandem.route.remote_loss_s"
TANDEM_CACHED_TOKENS = "tandem.cached_tokens"
TANDEM_NUM_CHUNKS = "tandem.num_chunks"
TANDEM_TRANSPORT = "tandem.transfer.transport"
TANDEM_TRANSFER_BYTES = "tandem.transfer.size_bytes"
TANDEM_TRANSFER_BLOCKS = "tandem.transfer.num_blocks"
TANDEM_TTFT_MS = "tandem.ttft_ms"
TANDEM_TTFT_SEGMENT_MS = "tandem.ttft.{}_ms"
"""Of one segment of the ledger, by its name."""
TANDEM_SECOND_TOKEN_MS = "tandem.second_token_ms"
TANDEM_SECOND_TOKEN_SEGMENT_MS = "tandem.second_token.{}_ms"
TANDEM_CLIENT_MS = "tandem.client_ms"
"""That tokens waited for the client."""
TANDEM_CLOCK_WITHIN_MS = "tandem.clock.within_ms"
"""Of what a worker has measured: so much later or earlier it may have been."""
TANDEM_CLOCK_AHEAD_MS = "tandem.clock.ahead_ms"
"""The worker's wall clock, of its frontend's: the span's times are on that one's."""

AttributeValue = str | bool | int | float | Sequence[str] | Sequence[bool] | Sequence[int] | Sequence[float]
Attributes = Mapping[str, AttributeValue | None]
"""None is "not given" and is left out."""

SCOPE = "tandem"
FLUSH_TIMEOUT_S = 3.0
EXPORT_TIMEOUT_S = 5.0
MAX_QUEUED_SPANS = 4096
EXPORT_BATCH = 128  # encoding holds the interpreter: small batches keep the event loop's delays small
EXPORT_INTERVAL_MS = 1000

_PROPAGATOR = TraceContextTextMapPropagator()

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """Something that happened at one moment within a span."""

    name: str
    at_ns: int
    attributes: Attributes = field(default_factory=dict)


class Telemetry:
    """The traces of this process; made by `setup_tracing`."""

    def __init__(self, pipeline: "_Pipeline | None" = None) -> None:
        self.tracer: Tracer = pipeline.provider.get_tracer(SCOPE) if pipeline else NoOpTracer()
        self._pipeline = pipeline

    @property
    def enabled(self) -> bool:
        return self._pipeline is not None

    def start(
        self,
        name: str,
        *,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        start_ns: int | None = None,
        attributes: Attributes | None = None,
    ) -> Span:
        """A span that is under way; the caller calls `finish`. Without `context` it begins a trace."""
        context = Context() if context is None else context  # never what happens to be current in this task
        parent = get_current_span(context)
        if self._pipeline is None:
            return parent
        given, held = _given(attributes), self._pipeline.unsampled
        above = parent.get_span_context()
        if above.is_valid and not above.trace_flags.sampled:
            return held.start(name, above, kind, given, start_ns=start_ns)
        span = self.tracer.start_span(name, context, kind, given, start_time=start_ns)
        return span if span.is_recording() else held.begin(name, span.get_span_context(), kind, given, start_ns)

    def record(
        self,
        name: str,
        *,
        parent: str,
        start_ns: int,
        end_ns: int,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes | None = None,
        events: Sequence[SpanEvent] = (),
        links: Sequence[str] = (),
        error: str | None = None,
    ) -> str:
        """Record what is over already; return its `traceparent`, for children and links.

        `parent` and `links` are `traceparent` values; what is not valid is as if it were not there.
        """
        if self._pipeline is None:
            return parent
        given, linked = _given(attributes), [*map(_link, links)]
        span: Span
        if (above := unsampled(parent)) is not None:
            span = self._pipeline.unsampled.start(name, above, kind, given, linked, start_ns)
        else:
            span = self.tracer.start_span(name, context_from(parent), kind, given, linked, start_time=start_ns)
        for event in events if span.is_recording() else ():
            span.add_event(event.name, _given(event.attributes), event.at_ns)
        finish(span, end_ns=end_ns, error=error)
        return inject(span)

    def keep(self, trace_id: bytes) -> None:
        """Export a trace that is not sampled: what is still held of it here, and what comes."""
        if self._pipeline is not None:
            self._pipeline.unsampled.keep(int.from_bytes(trace_id))

    def shutdown(self, timeout_s: float = FLUSH_TIMEOUT_S) -> None:
        """Export what is waiting, for at most `timeout_s`. Blocks: not for the event loop."""
        if self._pipeline is None:
            return
        flush = threading.Thread(target=self._pipeline.provider.shutdown, name="telemetry-flush", daemon=True)
        flush.start()
        flush.join(timeout_s)
        if flush.is_alive():
            log.warning("spans were not exported within %g s and are lost", timeout_s)
            self._pipeline.exporter.shutdown()

    async def aclose(self) -> None:
        """`shutdown`, off the event loop."""
        await asyncio.to_thread(self.shutdown)


def setup_tracing(
    service_name: str, endpoint: str, *, attributes: Mapping[str, str] | None = None, sample_ratio: float = 1.0
) -> Telemetry:
    """Traces of this process go to `endpoint`, OTLP over gRPC; empty: nowhere, at no cost.

    A caller's decision to sample is followed; of traces that begin here, `sample_ratio` are recorded. Raises
    ConfigError when `endpoint` is not an http:// (plain) or https:// (TLS) URL.
    """
    if not endpoint:
        return Telemetry()
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https") or not url.netloc:
        raise ConfigError(f"the OTLP endpoint must look like http://host:4317 or https://host:4317, not {endpoint!r}")
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it logs every retry; ours says it once
    insecure = url.scheme == "http"
    exporter = _QuietExporter(OTLPSpanExporter(endpoint, insecure=insecure, timeout=EXPORT_TIMEOUT_S), endpoint)
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
        resource=Resource.create({"service.name": service_name, **(attributes or {})}),
        shutdown_on_exit=False,  # it would wait for longer than we do
        span_limits=SpanLimits(max_span_attribute_length=4096),
    )
    batches = BatchSpanProcessor(exporter, MAX_QUEUED_SPANS, EXPORT_INTERVAL_MS, EXPORT_BATCH)
    provider.add_span_processor(batches)
    return Telemetry(_Pipeline(provider, exporter, Unsampled(batches, provider.resource, SCOPE)))


@dataclass(frozen=True, slots=True)
class _Pipeline:
    """Where spans go, and those that may yet."""

    provider: TracerProvider
    exporter: SpanExporter
    unsampled: Unsampled


def extract(headers: Mapping[str, str]) -> Context:
    """The trace context in lower-case `traceparent` and `tracestate`; empty where there is none or it is malformed."""
    return _PROPAGATOR.extract(headers, Context())


def context_from(traceparent: str) -> Context:
    return _PROPAGATOR.extract({"traceparent": traceparent}, Context()) if traceparent else Context()


def inject(span: Span) -> str:
    """The `traceparent` that makes others children of `span`; empty where there is no trace."""
    context = span.get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def finish(
    span: Span, *, end_ns: int | None = None, attributes: Attributes | None = None, error: str | None = None
) -> None:
    """End `span`; `error` is the stable word of what went wrong (`TandemError.reason`), if anything did."""
    if not span.is_recording():
        return
    if attributes:
        span.set_attributes(_given(attributes))
    if error is not None:
        span.set_attribute(ERROR_TYPE, error)
        span.set_status(Status(StatusCode.ERROR, error))
    span.end(end_ns)


def clock_attributes(axis: Axis) -> Attributes:
    """How a worker's span came by its times; none where they are of its own wall clock."""
    if axis.within_ns is None:
        return {}
    ahead_ns = own_axis().unix_at_zero_ns - axis.unix_at_zero_ns
    return {TANDEM_CLOCK_WITHIN_MS: axis.within_ns / 1e6, TANDEM_CLOCK_AHEAD_MS: ahead_ns / 1e6}


def _given(attributes: Attributes | None) -> dict[str, AttributeValue]:
    return {name: value for name, value in (attributes or {}).items() if value is not None}


def _link(traceparent: str) -> Link:
    return Link(unsampled(traceparent) or get_current_span(context_from(traceparent)).get_span_context())


class _QuietExporter(SpanExporter):
    """Says once that the collector is gone and once that it is back."""

    def __init__(self, exporter: SpanExporter, endpoint: str) -> None:
        self._exporter = exporter
        self._endpoint = endpoint
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        failed = result is not SpanExportResult.SUCCESS
        if failed and not self._failing:
            log.warning("spans cannot be exported to %s; until they can they are dropped", self._endpoint)
        elif self._failing and not failed:
            log.info("spans are exported to %s again", self._endpoint)
        self._failing = failed
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


LOG_FIELDS = "tandem_fields"
"""In a record's `extra`: what the line tells besides its message, by name."""

_log_context: ContextVar[Mapping[str, str]] = ContextVar("log_context")


def set_log_context(request_id: str, trace_id: str) -> None:
    """Lines of this task, and of those that it starts from now on, are about this request; empty: about none."""
    _log_context.set(_about(request_id, trace_id))


def about(request_id: str, traceparent: str) -> dict[str, object]:
    """`extra` of one line that is about a request, where many are worked on at once."""
    return {LOG_FIELDS: _about(request_id, trace_id_of(traceparent))}


def _about(request_id: str, trace_id: str) -> dict[str, str]:
    given = {"request_id": request_id, "trace_id": trace_id}
    return {name: value for name, value in given.items() if value}


def trace_id_of(traceparent: str) -> str:
    """Of a `traceparent` that we have made; empty where that is."""
    return traceparent[3:35]


def setup_logging(level: str, service: str, log_format: Literal["text", "json"] = "text") -> None:
    """One line per record to stderr, in UTC. Text is `2026-01-31T12:00:00.123Z INFO service module: message` and
    `name=value` for whatever else is known; JSON is an object of the same."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter(service) if log_format == "json" else _LineFormatter(service))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """What the line tells besides its message; whose it is comes last."""
    return {**getattr(record, LOG_FIELDS, {}), **_log_context.get({})}


class _LineFormatter(logging.Formatter):
    """A record's message stays on one line whatever a client puts into it; only tracebacks follow on their own."""

    converter = staticmethod(time.gmtime)

    def __init__(self, service: str) -> None:
        line = f"%(asctime)s.%(msecs)03dZ %(levelname)s {service.replace('%', '%%')} %(name)s: %(message)s"
        super().__init__(line, "%Y-%m-%dT%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        told = " ".join((super().formatMessage(record), *_pairs(_fields(record))))
        return told.replace("\r", "\\r").replace("\n", "\\n")


def _pairs(fields: Mapping[str, object]) -> Iterator[str]:
    for name, value in fields.items():
        if isinstance(value, Mapping):  # a ledger, whose segments have names of their own
            yield from _pairs(value)
        elif isinstance(value, str) and " " in value:
            yield f"{name}={json.dumps(value)}"
        else:
            yield f"{name}={value}"


class _JsonFormatter(logging.Formatter):
    """One object per line, tracebacks in it."""

    converter = staticmethod(time.gmtime)

    def __init__(self, service: str) -> None:
        super().__init__(datefmt="%Y-%m-%dT%H:%M:%S")
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": f"{self.formatTime(record, self.datefmt)}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
