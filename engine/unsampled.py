"""Spans of traces that nobody samples, held for a while in case they turn out to be worth keeping.

Whether a request was slow or failed is known when most of its spans are over. So each process holds those of unsampled
traces as they were given, and whoever knows how a request ended says `keep`: what is held of its trace is exported, and
whatever comes of it later. Knows OpenTelemetry. Does not know requests.

The store is bounded, the oldest trace goes first: a span that is held costs a few microseconds and some hundred bytes.
"""

import random
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

MAX_SPANS = 8192
"""Held at a time."""
MAX_KEPT = 1024
"""Traces that are kept whatever still comes of them."""
_TRACEPARENT_CHARS = 55


def unsampled(traceparent: str) -> SpanContext | None:
    """What a `traceparent` says if its trace is not sampled; None if it is, or if it says nothing."""
    if len(traceparent) != _TRACEPARENT_CHARS or traceparent[:3] != "00-":
        return None
    try:
        flags = int(traceparent[53:], 16)
        context = SpanContext(int(traceparent[3:35], 16), int(traceparent[36:52], 16), True, TraceFlags(flags))
    except ValueError:
        return None
    return context if context.is_valid and not flags & TraceFlags.SAMPLED else None


class HeldSpan(Span):
    """One span, under way or over."""

    __slots__ = (
        "_context",
        "_parent",
        "_store",
        "attributes",
        "end_ns",
        "events",
        "kind",
        "links",
        "name",
        "start_ns",
        "status",
    )

    def __init__(
        self,
        store: "Unsampled",
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: Mapping[str, AttributeValue],
        links: Sequence[Link],
        start_ns: int,
    ) -> None:
        self._store = store
        self._context = context
        self._parent = parent
        self.name = name
        self.kind = kind
        self.attributes = dict(attributes)
        self.links = links
        self.events: list[Event] = []
        self.status = Status(StatusCode.UNSET)
        self.start_ns = start_ns
        self.end_ns: int | None = None

    def get_span_context(self) -> SpanContext:
        return self._context

    def is_recording(self) -> bool:
        return self.end_ns is None

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        self.attributes[key] = value

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        self.attributes.update(attributes)

    def add_event(
        self, name: str, attributes: Mapping[str, AttributeValue] | None = None, timestamp: int | None = None
    ) -> None:
        self.events.append(Event(name, attributes, timestamp))

    def update_name(self, name: str) -> None:
        self.name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        self.status = status if isinstance(status, Status) else Status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, AttributeValue] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        self.add_event("exception", {"exception.type": type(exception).__name__, **(attributes or {})}, timestamp)

    def end(self, end_time: int | None = None) -> None:
        if self.end_ns is None:
            self.end_ns = time.time_ns() if end_time is None else end_time
            self._store.ended(self)

    def sampled(self, resource: Resource, scope: InstrumentationScope) -> ReadableSpan:
        """As it would be had its trace been sampled."""
        own = self._context
        flags = TraceFlags(own.trace_flags | TraceFlags.SAMPLED)
        return ReadableSpan(
            self.name,
            SpanContext(own.trace_id, own.span_id, False, flags, own.trace_state),
            self._parent,
            resource,
            self.attributes,
            self.events,
            self.links,
            self.kind,
            status=self.status,
            start_time=self.start_ns,
            end_time=self.end_ns,
            instrumentation_scope=scope,
        )


class Unsampled:
    """What a process holds. Used from one thread."""

    def __init__(self, export: SpanProcessor, resource: Resource, scope: str) -> None:
        """What is kept goes to `export`."""
        self._export = export
        self._resource = resource
        self._scope = InstrumentationScope(scope)
        self._held: OrderedDict[int, list[HeldSpan]] = OrderedDict()
        self._num_held = 0
        self._kept: OrderedDict[int, None] = OrderedDict()

    def start(
        self,
        name: str,
        parent: SpanContext,
        kind: SpanKind,
        attributes: Mapping[str, AttributeValue],
        links: Sequence[Link] = (),
        start_ns: int | None = None,
    ) -> HeldSpan:
        """A child of `parent`."""
        own = SpanContext(parent.trace_id, random.getrandbits(64) or 1, False, parent.trace_flags, parent.trace_state)
        return HeldSpan(self, name, own, parent, kind, attributes, links, start_ns or time.time_ns())

    def begin(
        self,
        name: str,
        own: SpanContext,
        kind: SpanKind,
        attributes: Mapping[str, AttributeValue],
        start_ns: int | None,
    ) -> HeldSpan:
        """The first span of a trace, whose ids are drawn already."""
        return HeldSpan(self, name, own, None, kind, attributes, (), start_ns or time.time_ns())

    def ended(self, span: HeldSpan) -> None:
        """Hold it, or export it if its trace is kept."""
        trace_id = span.get_span_context().trace_id
        if trace_id in self._kept:
            self._export.on_end(span.sampled(self._resource, self._scope))
            return
        self._held.setdefault(trace_id, []).append(span)
        self._num_held += 1
        while self._num_held > MAX_SPANS:
            self._num_held -= len(self._held.popitem(last=False)[1])

    def keep(self, trace_id: int) -> None:
        """Export what is held of a trace, and what comes of it from now on."""
        self._kept[trace_id] = None
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        spans = self._held.pop(trace_id, [])
        self._num_held -= len(spans)
        for span in spans:
            self._export.on_end(span.sampled(self._resource, self._scope))
