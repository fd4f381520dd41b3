import asyncio
import json
import logging
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanProto
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes
from opentelemetry.trace import SpanKind, get_current_span

from engine import telemetry
from engine.errors import ConfigError
from engine.telemetry import (
    LOG_FIELDS,
    SpanEvent,
    Telemetry,
    about,
    context_from,
    extract,
    finish,
    inject,
    set_log_context,
    setup_logging,
    setup_tracing,
)
from tests.otlp_receiver import Spans, otlp_receiver, values

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = PARENT[:-1] + "0"
SECOND = 10**9
START = 1_700_000_000 * SECOND


@contextmanager
def traced(**options: float) -> Iterator[tuple[Telemetry, Spans]]:
    with otlp_receiver() as spans:
        tracing = setup_tracing("tandem-test", spans.endpoint, attributes={"tandem.role": "test"}, **options)
        yield tracing, spans
        tracing.shutdown()


def closed_endpoint() -> str:
    """Where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_recorded_spans_arrive_as_they_were_told() -> None:
    with traced() as (tracing, spans):
        root = tracing.start("chat m", context=extract({"traceparent": PARENT}), kind=SpanKind.SERVER, start_ns=START)
        prefill = tracing.record(
            "prefill",
            parent=inject(root),
            start_ns=START + SECOND,
            end_ns=START + 2 * SECOND,
            attributes={"tandem.num_chunks": 2, "tandem.attempt": None, "tandem.names": ["a", "b"]},
            events=[SpanEvent("chunk", START + SECOND, {"tokens": 256}), SpanEvent("chunk", START + 2 * SECOND)],
        )
        tracing.record("decode", parent=inject(root), start_ns=START + 2 * SECOND, end_ns=START + 9, links=[prefill])
        finish(root, end_ns=START + 3 * SECOND, attributes={telemetry.GEN_AI_RESPONSE_FINISH_REASONS: ["stop"]})
        tracing.shutdown()

    assert len(spans.received) == 3
    chat, prefilled, decoded = spans.named("chat m"), spans.named("prefill"), spans.named("decode")
    assert values(chat.resource.attributes)["tandem.role"] == "test"
    assert {each.service for each in spans.received} == {"tandem-test"}
    assert {each.span.trace_id.hex() for each in spans.received} == {PARENT.split("-")[1]}
    assert chat.span.parent_span_id.hex() == PARENT.split("-")[2]
    assert (chat.span.kind, prefilled.span.kind) == (SpanProto.SPAN_KIND_SERVER, SpanProto.SPAN_KIND_INTERNAL)
    assert (chat.span.start_time_unix_nano, chat.span.end_time_unix_nano) == (START, START + 3 * SECOND)
    assert chat.attributes == {"gen_ai.response.finish_reasons": ["stop"]}
    assert prefilled.span.parent_span_id == decoded.span.parent_span_id == chat.span.span_id
    assert prefilled.attributes == {"tandem.num_chunks": 2, "tandem.names": ["a", "b"]}
    assert [(e.name, e.time_unix_nano, values(e.attributes)) for e in prefilled.span.events] == [
        ("chunk", START + SECOND, {"tokens": 256}),
        ("chunk", START + 2 * SECOND, {}),
    ]
    assert [link.span_id for link in decoded.span.links] == [prefilled.span.span_id]
    assert prefilled.traceparent == prefill


def test_the_tree_shows_children_under_parents_and_links() -> None:
    with traced() as (tracing, spans):
        root = tracing.record("chat m", parent="", start_ns=START, end_ns=START + SECOND)
        first = tracing.record("prefill", parent=root, start_ns=START, end_ns=START + 10**6)
        tracing.record("decode", parent=root, start_ns=START + 1, end_ns=START + 1, links=[first])
        tracing.shutdown()

    assert spans.tree().splitlines() == [
        "chat m [tandem-test] 1000.000 ms",
        "  prefill [tandem-test] 1.000 ms",
        "  decode [tandem-test] 0.000 ms -> prefill",
    ]


def test_spans_are_exported_while_serving_goes_on() -> None:
    with traced() as (tracing, spans):
        tracing.record("route", parent="", start_ns=START, end_ns=START)

        assert spans.wait_for(1).received[0].name == "route"


def test_an_error_marks_the_span() -> None:
    with traced() as (tracing, spans):
        tracing.record("prefill", parent=PARENT, start_ns=START, end_ns=START, error="TRANSFER_FAILED")
        tracing.shutdown()

    failed = spans.named("prefill")
    assert failed.span.status.code == Status.STATUS_CODE_ERROR
    assert failed.span.status.message == failed.attributes["error.type"] == "TRANSFER_FAILED"


def test_a_caller_that_does_not_sample_is_followed_and_passed_on() -> None:
    with traced() as (tracing, spans):
        span = tracing.start("chat m", context=extract({"traceparent": UNSAMPLED}))
        child = tracing.record("route", parent=inject(span), start_ns=START, end_ns=START, events=[SpanEvent("x", 1)])
        finish(span)
        tracing.shutdown()

    assert spans.received == []
    assert child.startswith(UNSAMPLED[:36])
    assert child.endswith("-00")


def test_the_ratio_decides_about_traces_that_begin_here_only() -> None:
    with traced(sample_ratio=0.0) as (tracing, spans):
        tracing.record("begins here", parent="", start_ns=START, end_ns=START)
        tracing.record("continues", parent=PARENT, start_ns=START, end_ns=START)
        tracing.shutdown()

    assert [each.name for each in spans.received] == ["continues"]


def test_what_happens_to_be_current_is_not_a_parent() -> None:
    with traced() as (tracing, spans):
        with tracing.tracer.start_as_current_span("current"):
            finish(tracing.start("begins a trace"))
        tracing.shutdown()

    assert spans.named("begins a trace").span.parent_span_id == b""


MALFORMED = ("", "nonsense", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "ff" + PARENT[2:], "é" * 600)


@pytest.mark.parametrize("traceparent", MALFORMED)
def test_malformed_context_is_no_context(traceparent: str) -> None:
    assert not get_current_span(extract({"traceparent": traceparent})).get_span_context().is_valid
    assert not get_current_span(context_from(traceparent)).get_span_context().is_valid


@pytest.mark.parametrize("traceparent", MALFORMED)
def test_malformed_parents_and_links_leave_spans_whole(traceparent: str) -> None:
    with traced() as (tracing, spans):
        finish(tracing.start("chat m", context=context_from(traceparent)))
        tracing.record("route", parent=traceparent, start_ns=1, end_ns=2, links=[traceparent])
        tracing.shutdown()

    assert {each.span.parent_span_id for each in (spans.named("chat m"), spans.named("route"))} == {b""}


def test_tracestate_is_kept() -> None:
    context = get_current_span(extract({"traceparent": PARENT, "tracestate": "a=1,b=2"})).get_span_context()

    assert context.trace_state.to_header() == "a=1,b=2"


def test_without_an_endpoint_the_callers_context_goes_on_as_it_came() -> None:
    tracing = setup_tracing("tandem-test", "")
    span = tracing.start("chat m", context=extract({"traceparent": PARENT}), attributes={"a": 1})

    assert not tracing.enabled
    assert not span.is_recording()
    assert inject(span) == PARENT
    assert tracing.record("route", parent=PARENT, start_ns=1, end_ns=2) == PARENT
    assert inject(tracing.start("chat m")) == ""
    finish(span, error="INTERNAL")
    tracing.shutdown()


@pytest.mark.parametrize("endpoint", ["localhost:4317", "ftp://localhost", "http://", "grpc://localhost:4317"])
def test_an_endpoint_that_cannot_be_meant_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="OTLP endpoint"):
        setup_tracing("tandem-test", endpoint)


async def test_a_collector_that_is_gone_costs_spans_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    tracing = setup_tracing("tandem-test", closed_endpoint())
    for _ in range(10_000):  # more than the queue holds
        tracing.record("route", parent="", start_ns=START, end_ns=START)

    async with asyncio.timeout(30):
        await asyncio.to_thread(tracing.shutdown, 0.2)

    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert 1 <= len(warnings) <= 2
    assert {record.name for record in warnings} == {"engine.telemetry"}
    tracing.record("after the end", parent="", start_ns=START, end_ns=START)
    await tracing.aclose()


def test_importing_loads_no_heavy_library() -> None:
    heavy = "{'torch', 'transformers', 'numba', 'triton'} & set(sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", f"import sys, engine.telemetry; sys.exit(str({heavy}) if {heavy} else 0)"],
        check=False,
        capture_output=True,
        text=True,
    )

    assert run.returncode == 0, run.stderr


def test_gen_ai_names_are_those_of_the_conventions() -> None:
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    ours = {name: value for name, value in vars(telemetry).items() if name.startswith("GEN_AI_")}

    assert len(ours) == 17
    assert {value for value in ours.values() if value not in known} == set()
    assert all(name == value.upper().replace(".", "_") for name, value in ours.items())
    assert error_attributes.ERROR_TYPE == telemetry.ERROR_TYPE


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leaves the root logger as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    for handler in handlers:
        root.removeHandler(handler)  # basicConfig would close pytest's
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("logs")
def test_a_log_line_has_utc_time_level_service_and_module(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("info", "decode 100%")
    logger = logging.getLogger("engine.example")
    logger.info("model %s\nINFO forged", "m")
    logger.debug("not shown")

    (line,) = capsys.readouterr().err.splitlines()
    time, rest = line.split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
    assert rest == r"INFO decode 100% engine.example: model m\nINFO forged"


@pytest.mark.usefixtures("logs")
async def test_lines_about_a_request_say_which(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("info", "frontend")
    logger = logging.getLogger("frontend.example")

    async def of_request(name: str, trace_id: str) -> None:
        set_log_context(name, trace_id)
        await asyncio.sleep(0)
        logger.info("one")
        await asyncio.to_thread(logger.info, "two")

    await asyncio.gather(of_request("req-1", "ab" * 16), of_request("req-2", ""))
    logger.info("of none")

    told = [line.partition("example: ")[2] for line in capsys.readouterr().err.splitlines()]
    traced = f"request_id=req-1 trace_id={'ab' * 16}"
    assert sorted(told) == sorted(
        [f"one {traced}", f"two {traced}", "one request_id=req-2", "two request_id=req-2", "of none"]
    )


@pytest.mark.usefixtures("logs")
def test_fields_stand_behind_the_message(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("info", "frontend")
    fields = {"outcome": "stop", "ttft_ms": 3.5, "ttft_segments": {"admit": 1.5, "grant": 2.0}, "error": "no\nroom now"}
    logging.getLogger("x").info("request ended", extra={LOG_FIELDS: fields})

    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(r'x: request ended outcome=stop ttft_ms=3.5 admit=1.5 grant=2.0 error="no\nroom now"')


@pytest.mark.usefixtures("logs")
def test_json_lines_are_objects_whatever_is_in_them(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("info", "decode", "json")
    logger = logging.getLogger("engine.example")
    parent = f"00-{'ab' * 16}-{'cd' * 8}-01"
    logger.warning('the "lease"\nof %s', "leg 3", extra=about("req-1", parent))
    try:
        raise ValueError("bad")
    except ValueError:
        logger.exception("failed")

    warned, failed = map(json.loads, capsys.readouterr().err.splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", warned.pop("time"))
    assert warned == {
        "level": "WARNING",
        "service": "decode",
        "logger": "engine.example",
        "message": 'the "lease"\nof leg 3',
        "request_id": "req-1",
        "trace_id": "ab" * 16,
    }
    assert "request_id" not in failed
    assert "Traceback" in failed["exception"]
    assert "ValueError: bad" in failed["exception"]
