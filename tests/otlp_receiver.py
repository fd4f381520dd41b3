"""A collector for tests: OTLP/gRPC on a free port of the loopback, keeping every span as it came.

with otlp_receiver() as spans:
    ...  # processes export to spans.endpoint
    print(spans.wait_for(5).tree())
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import Message
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True, slots=True)
class Received:
    """One span with where it came from."""

    resource: Resource
    scope: InstrumentationScope
    span: Span

    @property
    def name(self) -> str:
        return self.span.name

    @property
    def service(self) -> str:
        return str(values(self.resource.attributes)["service.name"])

    @property
    def attributes(self) -> dict[str, object]:
        return values(self.span.attributes)

    @property
    def traceparent(self) -> str:
        return f"00-{self.span.trace_id.hex()}-{self.span.span_id.hex()}-01"


@dataclass(slots=True)
class Spans:
    """Everything received so far."""

    endpoint: str
    received: list[Received] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def add(self, request: pb.ExportTraceServiceRequest) -> None:
        with self._changed:
            self.received += [
                Received(of.resource, scoped.scope, span)
                for of in request.resource_spans
                for scoped in of.scope_spans
                for span in scoped.spans
            ]
            self._changed.notify_all()

    def wait_for(self, count: int, timeout_s: float = 20.0) -> "Spans":
        """Block until `count` spans are there; fails with what is there when they do not come."""
        return self.wait_until(lambda: len(self.received) >= count, f"{count} spans", timeout_s)

    def wait_until(self, condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> "Spans":
        with self._changed:
            there = self._changed.wait_for(condition, timeout_s)
        assert there, f"{what} did not come; there are:\n{self.tree()}"
        return self

    def named(self, name: str) -> Received:
        """The one span of this name."""
        (span,) = [each for each in self.received if each.name == name]
        return span

    def tree(self) -> str:
        """The traces drawn: children under their parents, in order of start, links by name."""
        ids = {each.span.span_id: each for each in self.received}
        roots = [each for each in self.received if each.span.parent_span_id not in ids]
        return "\n".join(line for root in _by_start(roots) for line in self._draw(root, ids, 0))

    def _draw(self, node: Received, ids: dict[bytes, Received], depth: int) -> Iterator[str]:
        span = node.span
        duration_ms = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
        links = "".join(f" -> {ids[link.span_id].name if link.span_id in ids else '?'}" for link in span.links)
        yield f"{'  ' * depth}{span.name} [{node.service}] {duration_ms:.3f} ms{links}"
        for child in _by_start([each for each in self.received if each.span.parent_span_id == span.span_id]):
            yield from self._draw(child, ids, depth + 1)


def values(attributes: Iterable[KeyValue]) -> dict[str, object]:
    """Attributes as ordinary values."""
    return {each.key: _value(each.value) for each in attributes}


def _value(value: AnyValue) -> object:
    kind = value.WhichOneof("value")
    held = getattr(value, kind) if kind else None
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    assert not isinstance(held, Message), f"{kind} is not expected"
    return held


def _by_start(spans: list[Received]) -> list[Received]:
    return sorted(spans, key=lambda each: each.span.start_time_unix_nano)


class _Servicer(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, spans: Spans) -> None:
        self._spans = spans

    def Export(
        self, request: pb.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> pb.ExportTraceServiceResponse:
        self._spans.add(request)
        return pb.ExportTraceServiceResponse()


@contextmanager
def otlp_receiver(port: int = 0) -> Iterator[Spans]:
    """Receive spans for as long as the block lasts; `port` 0 takes a free one."""
    with ThreadPoolExecutor(2, thread_name_prefix="otlp-receiver") as pool:
        server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
        spans = Spans(f"http://127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}")
        add: Callable[[_Servicer, grpc.Server], None] = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        add(_Servicer(spans), server)
        server.start()
        try:
            yield spans
        finally:
            server.stop(grace=None).wait()
