"""One request is one trace over three processes, and its ledger adds up."""

import secrets
from collections.abc import Iterator

import pytest

from tests.e2e.clients import DEMO, openai_client, stream_text
from tests.e2e.server import Tandem, tandem
from tests.otlp_receiver import Received, Spans, otlp_receiver

pytestmark = pytest.mark.slow

CHILDREN = {"admission", "route", "prefill", "kv.transfer", "decode"}
SERVICES = {
    "admission": "tandem-frontend",
    "route": "tandem-frontend",
    "prefill": "tandem-prefill",
    "kv.transfer": "tandem-prefill",
    "decode": "tandem-decode",
}
SEGMENTS = {"admit", "tokenize", "route", "grant", "prefill_queue", "prefill_compute", "transfer_wait", "egress"}
SECOND_SEGMENTS = {"transfer_tail", "decode_queue", "decode_step", "decode_egress"}


@pytest.fixture(scope="module")
def spans() -> Iterator[Spans]:
    with otlp_receiver() as receiver:
        yield receiver


def traced(spans: Spans, trace_id: str) -> Spans:
    """The spans of one trace, once all are there."""
    trace = Spans(spans.endpoint)

    def complete() -> bool:
        trace.received = [each for each in spans.received if each.span.trace_id.hex() == trace_id]
        return len(trace.received) >= len(CHILDREN) + 1

    spans.wait_until(complete, f"all spans of trace {trace_id}")
    return trace


async def test_a_chat_and_a_completion(spans: Spans) -> None:
    with tandem("--otlp-endpoint", spans.endpoint, environment={"TANDEM_ALWAYS_REMOTE": "true"}) as server:
        await check_chat(server, spans)
        await check_completion(server, spans)
    assert {each.service for each in spans.received} == set(SERVICES.values())


async def test_a_slow_request_is_a_trace_although_nobody_samples(spans: Spans) -> None:
    options = ("--otlp-endpoint", spans.endpoint, "--trace-sample-ratio", "0")
    environment = {"TANDEM_ALWAYS_REMOTE": "true"}
    with tandem(*options, "--trace-slow-ttft", "1e-6", environment=environment) as server:
        trace_id, headers = secrets.token_hex(16), {}
        headers["traceparent"] = f"00-{trace_id}-{secrets.token_hex(8)}-00"
        async with openai_client(server) as client:
            await stream_text(client, DEMO, "A ticket is", max_tokens=8, extra_headers=headers)
        trace = traced(spans, trace_id)
        check_shape(trace, trace.named(f"text_completion {DEMO}"))


async def test_a_quick_one_is_not(spans: Spans) -> None:
    before = len(spans.received)
    options = ("--otlp-endpoint", spans.endpoint, "--trace-sample-ratio", "0", "--trace-slow-ttft", "600")
    with tandem(*options) as server:
        async with openai_client(server) as client:
            await stream_text(client, DEMO, "A ticket is", max_tokens=8)
    assert len(spans.received) == before


async def check_chat(server: Tandem, spans: Spans) -> None:
    trace_id, parent_id = secrets.token_hex(16), secrets.token_hex(8)
    async with openai_client(server) as client:
        answer = await client.chat.completions.create(
            model=DEMO,
            messages=[{"role": "user", "content": "What is a KV cache? " * 40}],
            max_tokens=8,
            extra_headers={"traceparent": f"00-{trace_id}-{parent_id}-01"},
        )
    trace = traced(spans, trace_id)
    root = trace.named(f"chat {DEMO}")
    assert root.span.parent_span_id.hex() == parent_id
    assert answer.usage is not None
    assert root.attributes["gen_ai.usage.input_tokens"] == answer.usage.prompt_tokens
    assert root.attributes["gen_ai.usage.output_tokens"] == answer.usage.completion_tokens
    check_shape(trace, root)
    check_ledger(root)


async def check_completion(server: Tandem, spans: Spans) -> None:
    trace_id = secrets.token_hex(16)
    headers = {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
    async with openai_client(server) as client:
        await stream_text(client, DEMO, "A ticket is", max_tokens=8, extra_headers=headers)
    trace = traced(spans, trace_id)
    root = trace.named(f"text_completion {DEMO}")
    check_shape(trace, root)
    check_ledger(root)


def check_shape(trace: Spans, root: Received) -> None:
    drawn = trace.tree()
    assert root.span.kind == root.span.SPAN_KIND_SERVER, drawn
    assert root.service == "tandem-frontend"
    children = [each for each in trace.received if each is not root]
    assert {each.name for each in children} == CHILDREN, drawn
    assert len(children) == len(CHILDREN), drawn
    for child in children:
        assert child.span.parent_span_id == root.span.span_id, drawn
        assert child.service == SERVICES[child.name]
        assert child.span.start_time_unix_nano <= child.span.end_time_unix_nano
    (link,) = trace.named("decode").span.links
    assert link.span_id == trace.named("kv.transfer").span.span_id, drawn
    assert trace.named("route").attributes["tandem.route.choice"] == "remote"
    assert trace.named("prefill").span.events[0].name == "queued"
    assert int(str(trace.named("kv.transfer").attributes["tandem.transfer.size_bytes"])) > 0


def check_ledger(root: Received) -> None:
    def ms(name: str) -> float:
        return float(str(root.attributes[name]))

    assert sum(ms(f"tandem.ttft.{name}_ms") for name in SEGMENTS) == pytest.approx(ms("tandem.ttft_ms"), abs=1)
    second = sum(ms(f"tandem.second_token.{name}_ms") for name in SECOND_SEGMENTS)
    assert second == pytest.approx(ms("tandem.second_token_ms"), abs=1)
    assert ms("tandem.ttft.prefill_compute_ms") > 0
