"""What nobody samples is exported after all if it is worth keeping, exactly as if it had been sampled."""

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.trace import SpanKind

from engine import unsampled as unsampled_module
from engine.telemetry import SpanEvent, Telemetry, extract, finish, inject, trace_id_of
from engine.unsampled import unsampled
from tests.engine.test_telemetry import PARENT, SECOND, START, UNSAMPLED, traced
from tests.otlp_receiver import values


def request(tracing: Telemetry, traceparent: str) -> str:
    """A request's spans, with all that spans can have; the root's traceparent."""
    root = tracing.start("chat m", context=extract({"traceparent": traceparent}), kind=SpanKind.SERVER, start_ns=START)
    root.add_event("retry", {"tandem.attempt": 1}, START + 5)
    chunk = SpanEvent("chunk", START + SECOND, {"tokens": 256})
    prefill = tracing.record(
        "prefill",
        parent=inject(root),
        start_ns=START + 1,
        end_ns=START + SECOND,
        attributes={"tandem.num_chunks": 2, "tandem.none": None},
        events=[chunk],
    )
    tracing.record("decode", parent=inject(root), start_ns=START + 2, end_ns=START + 9, links=[prefill], error="LOST")
    root.set_attribute("tandem.request_id", "req-1")
    finish(root, end_ns=START + 2 * SECOND, attributes={"gen_ai.response.finish_reasons": ["stop"]}, error="FAILED")
    return inject(root)


def told(span: Span) -> tuple[object, ...]:
    """All of a span but the ids that chance has made."""
    events = [(event.name, event.time_unix_nano, values(event.attributes)) for event in span.events]
    times = span.start_time_unix_nano, span.end_time_unix_nano
    status = span.status.code, span.status.message
    return span.name, span.trace_id, span.kind, times, values(span.attributes), events, status, span.flags


def test_a_kept_trace_is_what_a_sampled_one_would_have_been() -> None:
    with traced() as (tracing, sampled):
        request(tracing, PARENT)
        tracing.shutdown()
    with traced() as (tracing, kept):
        root = request(tracing, UNSAMPLED)
        tracing.keep(bytes.fromhex(trace_id_of(root)))
        tracing.shutdown()

    assert len(kept.received) == 3
    names = ("chat m", "prefill", "decode")
    assert [told(kept.named(name).span) for name in names] == [told(sampled.named(name).span) for name in names]
    chat, prefill, decode = (kept.named(name).span for name in names)
    assert chat.parent_span_id.hex() == PARENT.split("-")[2]
    assert prefill.parent_span_id == decode.parent_span_id == chat.span_id
    assert [link.span_id for link in decode.links] == [prefill.span_id]
    assert len({chat.span_id, prefill.span_id, decode.span_id}) == 3
    assert kept.named("decode").scope == sampled.named("decode").scope
    assert kept.named("decode").service == "tandem-test"


def test_a_trace_that_began_here_and_what_comes_after_the_decision() -> None:
    with traced(sample_ratio=0.0) as (tracing, spans):
        root = tracing.start("chat m")
        early = tracing.record("route", parent=inject(root), start_ns=START, end_ns=START + 1)
        tracing.keep(bytes.fromhex(trace_id_of(early)))
        late = tracing.record("decode", parent=inject(root), start_ns=START, end_ns=START + 1)
        finish(root)
        request(tracing, UNSAMPLED)  # another one, which nobody keeps
        tracing.shutdown()

    assert {each.name for each in spans.received} == {"chat m", "route", "decode"}
    assert {int(early[-2:], 16) & 1, int(late[-2:], 16) & 1} == {0}
    assert spans.named("chat m").span.parent_span_id == b""
    assert {spans.named(name).span.parent_span_id for name in ("route", "decode")} == {
        spans.named("chat m").span.span_id
    }


def test_only_so_much_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unsampled_module, "MAX_SPANS", 4)
    monkeypatch.setattr(unsampled_module, "MAX_KEPT", 1)
    traces = [f"00-{number:032x}-b7ad6b7169203331-00" for number in (1, 2, 3)]
    with traced() as (tracing, spans):
        for traceparent in traces:
            for name in ("route", "decode"):
                tracing.record(name, parent=traceparent, start_ns=START, end_ns=START + 1)
        for traceparent in traces:  # what was held of the first is gone
            tracing.keep(bytes.fromhex(trace_id_of(traceparent)))
        tracing.record("late", parent=traces[1], start_ns=START, end_ns=START + 1)  # kept no longer
        tracing.record("late", parent=traces[2], start_ns=START, end_ns=START + 1)
        tracing.shutdown()

    found = sorted((int(each.span.trace_id.hex(), 16), each.name) for each in spans.received)
    assert found == [(2, "decode"), (2, "route"), (3, "decode"), (3, "late"), (3, "route")]


@pytest.mark.parametrize(
    "traceparent", ["", PARENT, UNSAMPLED[:-1], UNSAMPLED[:-1] + "g", "00-" + "0" * 32 + UNSAMPLED[35:]]
)
def test_what_says_nothing_is_not_unsampled(traceparent: str) -> None:
    assert unsampled(traceparent) is None


def test_flags_are_bits() -> None:
    assert unsampled(UNSAMPLED[:-2] + "02") is not None
    assert unsampled(UNSAMPLED[:-2] + "03") is None
