"""nginx and Envoy, as deploy/ configures them, before two frontends: nothing is held back, lost or left behind.

Whether a proxy holds parts of an answer back shows in their order: the client has the first while the frontend still
waits to be told that it may make the last.
"""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from engine.errors import InvalidRequest, Overloaded, Unavailable
from frontend.api import Readiness
from protos import generate_pb2 as pb
from protos import open_inference_pb2 as kserve
from protos.generate_pb2_grpc import InferenceStub
from protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.e2e.clients import read_to_end
from tests.edge.frontends import MAX_BODY_BYTES, Playing, playing
from tests.edge.proxies import PATIENCE_S, Proxy, Start, nginx, until, until_healthy
from tests.frontend.fake_inference import MODEL, FakeInference, Step, say

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
QUESTION = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
STREAMED = {**QUESTION, "stream": True}


def gated(gate: asyncio.Event) -> list[Step]:
    """Says a, and at the gate b."""
    return [*say("a")[:1], gate, *say("b")]


@asynccontextmanager
async def before_two(
    start: Start, *inferences: FakeInference, **options: Any
) -> AsyncIterator[tuple[Proxy, list[Playing]]]:
    """A proxy before frontends; both play the same unless two are given."""
    one = inferences[0] if inferences else FakeInference()
    other = inferences[-1] if inferences else one
    async with AsyncExitStack() as stack:
        behind = [await stack.enter_async_context(playing(each)) for each in (one, other)]
        yield await stack.enter_async_context(start([each.at for each in behind], **options)), behind


async def heard(waiting: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(waiting, PATIENCE_S)


# -- nothing is held back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "ending"),
    [
        (CHAT, STREAMED, "data: [DONE]\n\n"),
        ("/api/chat", QUESTION, "}\n"),
        ("/v1/messages", {**STREAMED, "max_tokens": 9}, "}\n\n"),
    ],
)
async def test_parts_of_a_stream_come_before_the_next_are_made(
    proxied: Start, path: str, body: dict[str, Any], ending: str
) -> None:
    gate = asyncio.Event()
    async with before_two(proxied, FakeInference(gated(gate))) as (proxy, _), proxy.http() as http:
        async with http.stream("POST", path, json=body) as response:
            assert response.status_code == 200
            parts = response.aiter_text()
            text = ""
            while '"a"' not in text:
                text += await heard(anext(parts))
            assert '"b"' not in text
            assert not gate.is_set()
            gate.set()
            text += "".join([part async for part in parts])
        assert '"b"' in text
        assert text.endswith(ending)


async def test_the_same_over_http_2(proxied: Start) -> None:
    gate = asyncio.Event()
    async with before_two(proxied, FakeInference(gated(gate))) as (proxy, _):
        command = proxy.curl(CHAT, "--json", json.dumps(STREAMED), "--write-out", "\nHTTP/%{http_version}")
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        text = b""
        while b'"a"' not in text:
            text += await heard(process.stdout.readline())
        assert not gate.is_set()
        gate.set()
        text += await heard(process.stdout.read())
        assert b'"b"' in text
        assert text.endswith(b"data: [DONE]\n\n\nHTTP/2")
        assert await process.wait() == 0


async def test_messages_of_grpc_come_before_the_next_are_made(proxied: Start) -> None:
    gate = asyncio.Event()
    async with before_two(proxied, FakeInference(gated(gate))) as (proxy, _), proxy.channel() as channel:
        call = InferenceStub(channel).Generate(pb.GenerateRequest(text="hi"), metadata=(("traceparent", "00-1-2-01"),))
        started, first = await heard(call.read()), await heard(call.read())
        assert started.started.request_id
        assert first.delta.text == "a"
        assert not gate.is_set()
        gate.set()
        assert (await heard(call.read())).delta.text == "b"
        await heard(read_to_end(call))
        assert await call.code() is grpc.StatusCode.OK
        assert "tandem-ttft-ms" in dict(await call.trailing_metadata())


async def test_streams_of_both_sides_take_turns(proxied: Start) -> None:
    """The Open Inference Protocol: the second request is sent after the first one's answer is here."""
    async with before_two(proxied) as (proxy, _), proxy.channel() as channel:
        call = GRPCInferenceServiceStub(channel).ModelStreamInfer()
        for name in ("1", "2"):
            request = kserve.ModelInferRequest(model_name=MODEL, id=name)
            request.inputs.add(name="text_input", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"hi")
            await call.write(request)
            answer = await heard(call.read())
            assert (answer.infer_response.id, answer.error_message) == (name, "")
        await call.done_writing()
        assert await heard(call.read()) is grpc.aio.EOF


async def test_a_stream_is_not_held_back_by_an_nginx_that_buffers(tmp_path: Path) -> None:
    """Of every other nginx: answers themselves say that they are not to be."""
    gate = asyncio.Event()
    async with AsyncExitStack() as stack:
        behind = [await stack.enter_async_context(playing(FakeInference(gated(gate)))) for _ in range(2)]
        change = {"proxy_buffering off;": "proxy_buffering on;"}
        proxy = await stack.enter_async_context(nginx(tmp_path, [each.at for each in behind], change))
        http = await stack.enter_async_context(proxy.http())
        response = await stack.enter_async_context(http.stream("POST", CHAT, json=STREAMED))
        parts = response.aiter_text()
        text = ""
        while '"a"' not in text:
            text += await heard(anext(parts))
        gate.set()
        assert '"b"' in "".join([part async for part in parts])


# -- nothing is left behind --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_away_ends_the_request(proxied: Start, stream: bool) -> None:
    inference = FakeInference(gated(asyncio.Event()))
    async with before_two(proxied, inference) as (proxy, _), proxy.http() as http:
        asking = asyncio.create_task(http.post(CHAT, json={**QUESTION, "stream": stream}))
        await heard(inference.began.acquire())
        asking.cancel()
        await heard(inference.idle.wait())
        inference.script = say("c")
        assert (await http.post(CHAT, json=QUESTION)).json()["choices"][0]["message"]["content"] == "c"


async def test_a_client_of_http_2_that_goes_away_does(proxied: Start) -> None:
    inference = FakeInference(gated(asyncio.Event()))
    async with before_two(proxied, inference) as (proxy, _):
        command = proxy.curl(CHAT, "--json", json.dumps(STREAMED))
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        await heard(inference.began.acquire())
        process.kill()
        await process.wait()
        await heard(inference.idle.wait())


async def test_a_call_that_is_cancelled_does_and_the_connection_goes_on(proxied: Start) -> None:
    inference = FakeInference(gated(asyncio.Event()))
    async with before_two(proxied, inference) as (proxy, _), proxy.channel() as channel:
        stub = InferenceStub(channel)
        call = stub.Generate(pb.GenerateRequest(text="hi"))
        await heard(call.read())
        call.cancel()
        await heard(inference.idle.wait())
        inference.script = say("c")
        told = [message async for message in stub.Generate(pb.GenerateRequest(text="hi"))]
        assert told[1].delta.text == "c"


async def test_a_call_whose_deadline_passes_does(proxied: Start) -> None:
    inference = FakeInference(gated(asyncio.Event()))
    async with before_two(proxied, inference) as (proxy, _), proxy.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            _ = [m async for m in InferenceStub(channel).Generate(pb.GenerateRequest(text="hi"), timeout=0.5)]
        assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await heard(inference.idle.wait())


async def test_what_is_silent_for_too_long_is_ended_on_both_sides(proxied: Start) -> None:
    """It is these limits that decide: an hour, as shipped."""
    change = {
        "nginx": {"proxy_read_timeout 1h;": "proxy_read_timeout 1s;"},
        "envoy": {"stream_idle_timeout: 3600s": "stream_idle_timeout: 1s"},
    }
    inference = FakeInference([asyncio.Event()])
    async with before_two(proxied, inference, change=change) as (proxy, _), proxy.http() as http:
        response = await http.post(CHAT, json=QUESTION)
        assert response.status_code in (503, 504)
        assert response.json()["error"]["type"] == "server_error"
        await heard(inference.idle.wait())


async def test_connections_to_frontends_are_used_again(proxied: Start) -> None:
    async with before_two(proxied) as (proxy, behind), proxy.http() as http:
        for _ in range(12):
            assert (await http.post(CHAT, json=QUESTION)).status_code == 200
            assert (await http.post(CHAT, json=STREAMED)).text.endswith("data: [DONE]\n\n")
        # One for those requests, and one for Envoy's looking whether it is there.
        assert all(each.num_connections <= 2 for each in behind)
        assert len(behind[0].inference.requests) == 24


# -- what passes as it is ----------------------------------------------------------------------------------------------


async def test_errors_and_their_headers_pass_as_they_are(proxied: Start) -> None:
    scripts: list[list[Step]] = [[Overloaded("full", retry_after_s=7)], [InvalidRequest("no", field="stop")]]
    async with before_two(proxied, FakeInference(scripts=scripts)) as (proxy, _), proxy.http() as http:
        full = await http.post(CHAT, json=QUESTION)
        assert (full.status_code, full.headers["retry-after"], full.headers["retry-after-ms"]) == (429, "7", "7000")
        wrong = await http.post("/v1/messages", json={**QUESTION, "max_tokens": 9})
        assert (wrong.status_code, wrong.json()["type"]) == (400, "error")
        missing = await http.get("/nothing")
        assert (missing.status_code, missing.json()["error"]["type"]) == (404, "invalid_request_error")
        assert (await http.delete(CHAT)).headers["allow"] == "POST"


async def test_statuses_of_grpc_pass_with_their_details(proxied: Start) -> None:
    scripts: list[list[Step]] = [[Overloaded("full", retry_after_s=7)], [*say("a")[:1], Unavailable("gone")]]
    async with before_two(proxied, FakeInference(scripts=scripts)) as (proxy, _), proxy.channel() as channel:
        for code, detail in ((grpc.StatusCode.RESOURCE_EXHAUSTED, "full"), (grpc.StatusCode.UNAVAILABLE, "gone")):
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                _ = [message async for message in InferenceStub(channel).Generate(pb.GenerateRequest(text="hi"))]
            assert (ended.value.code(), ended.value.details()) == (code, detail)
            assert "grpc-status-details-bin" in dict(ended.value.trailing_metadata())


async def test_ids_are_the_callers_or_the_proxys(proxied: Start) -> None:
    async with before_two(proxied) as (proxy, _), proxy.http() as http:
        mine = await http.post(CHAT, json=QUESTION, headers={"x-request-id": "mine-7"})
        assert mine.headers["x-request-id"] == "mine-7"
        assert mine.headers["x-tandem-request-id"].startswith("req-")
        given = await http.post(CHAT, json=QUESTION)
        assert not given.headers["x-request-id"].startswith("req-")
        assert given.headers["x-tandem-request-id"].startswith("req-")


async def test_whole_answers_are_compressed_and_streams_are_not(proxied: Start) -> None:
    async with before_two(proxied, FakeInference(say("x" * 3000))) as (proxy, _), proxy.http() as http:
        packed = await http.send(
            http.build_request("POST", CHAT, json=QUESTION, headers={"accept-encoding": "gzip"}), stream=True
        )
        assert packed.headers["content-encoding"] == "gzip"
        raw = b"".join([part async for part in packed.aiter_raw()])
        assert len(raw) < 1500
        assert json.loads(gzip.decompress(raw))["choices"][0]["message"]["content"] == "x" * 3000
        plain = await http.post(CHAT, json=QUESTION, headers={"accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers
        streamed = await http.post(CHAT, json=STREAMED, headers={"accept-encoding": "gzip"})
        assert "content-encoding" not in streamed.headers
        assert "x" * 3000 in streamed.text


async def test_large_bodies_reach_tandem_which_says_what_is_too_large(proxied: Start, tmp_path: Path) -> None:
    async with before_two(proxied) as (proxy, _), proxy.http() as http:
        text = "x" * (MAX_BODY_BYTES - 1000)
        long = await http.post(CHAT, json={**QUESTION, "messages": [{"role": "user", "content": text}]})
        assert (long.status_code, long.json()["error"]["code"]) == (400, "context_length_exceeded")
        for size in (MAX_BODY_BYTES + 1, 17 << 20):
            large = await http.post("/v1/messages", content=bytes(size))
            assert (large.status_code, large.json()["error"]["type"]) == (413, "request_too_large")
        (tmp_path / "huge").write_bytes(bytes((17 << 20) + 1))
        command = proxy.curl("/v1/messages", "--data-binary", f"@{tmp_path / 'huge'}")
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        huge, _ = await heard(process.communicate())
        assert json.loads(huge)["error"]["message"] == "the request body is too large"  # which a proxy has said
        assert (await http.post(CHAT, json=QUESTION)).status_code == 200


async def test_large_messages_of_grpc_pass_and_too_large_ones_are_refused_by_tandem(proxied: Start) -> None:
    async with before_two(proxied) as (proxy, _), proxy.channel() as channel:
        tokenize = InferenceStub(channel).Tokenize
        told = await heard(tokenize(pb.TokenizeRequest(text="x" * 1_000_000)))
        assert len(told.token_ids) >= 1_000_000
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await heard(tokenize(pb.TokenizeRequest(text="x" * (MAX_BODY_BYTES + 1))))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_health_and_reflection_pass_and_metrics_do_not(proxied: Start) -> None:
    async with before_two(proxied) as (proxy, _), proxy.http() as http, proxy.channel() as channel:
        told = await heard(HealthStub(channel).Check(HealthCheckRequest(service="tandem.v1.Inference")))
        assert told.status == HealthCheckResponse.SERVING
        assert (await http.get("/ready")).json() == {"ready": True, "reason": ""}
        assert (await http.get("/metrics")).status_code == 404


# -- one of two --------------------------------------------------------------------------------------------------------


async def asked(http: httpx.AsyncClient, times: int) -> set[str]:
    """What is answered, whole and streamed in turns."""
    texts = set()
    for number in range(times):
        if number % 2:
            lines = (await http.post(CHAT, json=STREAMED)).text
            texts |= {each for each in ("one", "two") if f'"{each}"' in lines}
        else:
            answered = await http.post(CHAT, json=QUESTION)
            assert answered.status_code == 200, answered.text
            texts.add(answered.json()["choices"][0]["message"]["content"])
    return texts


async def test_when_one_is_killed_the_other_answers_everybody(proxied: Start) -> None:
    one, two = FakeInference(say("one")), FakeInference(say("two"))
    async with before_two(proxied, one, two) as (proxy, behind), proxy.http() as http, proxy.channel() as channel:
        async with asyncio.timeout(PATIENCE_S):
            seen: set[str] = set()
            while seen != {"one", "two"}:
                seen |= await asked(http, 4)
        await behind[0].kill()
        assert await asked(http, 12) == {"two"}
        for _ in range(6):
            told = [message async for message in InferenceStub(channel).Generate(pb.GenerateRequest(text="hi"))]
            assert told[1].delta.text == "two"


async def test_who_waits_for_one_that_is_killed_is_answered_by_the_other(proxied: Start) -> None:
    gate = asyncio.Event()
    one, two = FakeInference([asyncio.Event()]), FakeInference([gate, *say("two")])
    async with before_two(proxied, one, two) as (proxy, behind), proxy.http() as http:
        asking = [asyncio.create_task(http.post(CHAT, json=QUESTION)) for _ in range(8)]
        await heard(one.began.acquire())
        await behind[0].kill()
        gate.set()
        answers = await heard(asyncio.gather(*asking))
        assert {answer.status_code for answer in answers} == {200}, [answer.text for answer in answers]
        assert {answer.json()["choices"][0]["message"]["content"] for answer in answers} == {"two"}


async def test_a_stream_that_has_begun_ends_with_its_frontend_and_is_not_taken_for_whole(proxied: Start) -> None:
    one, two = FakeInference(gated(asyncio.Event())), FakeInference(gated(asyncio.Event()))
    async with AsyncExitStack() as stack:
        proxy, behind = await stack.enter_async_context(before_two(proxied, one, two))
        http = await stack.enter_async_context(proxy.http())
        response = await stack.enter_async_context(http.stream("POST", CHAT, json=STREAMED))
        parts = response.aiter_text()
        await heard(anext(parts))
        for each in behind:
            await each.kill()
        with pytest.raises(httpx.RemoteProtocolError):
            _ = [part async for part in parts]


async def test_who_drains_gets_nothing_more(proxied: Start) -> None:
    one, two = FakeInference([Unavailable("the server is draining")]), FakeInference(say("two"))
    async with AsyncExitStack() as stack:
        proxy, behind = await stack.enter_async_context(before_two(proxied, one, two))
        http = await stack.enter_async_context(proxy.http())
        assert await asked(http, 8) == {"two"}  # a 503 goes on to the other
        one.state = Readiness(False, "draining")
        await behind[0].health.drain()
        if proxy.name == "envoy":
            await until_healthy(proxy, {behind[1].at.http_port, behind[1].at.grpc_port})
            before = len(one.requests)
            assert await asked(http, 8) == {"two"}
            channel = await stack.enter_async_context(proxy.channel())
            for _ in range(4):
                told = [message async for message in InferenceStub(channel).Generate(pb.GenerateRequest(text="hi"))]
                assert told[1].delta.text == "two"
            assert len(one.requests) == before


async def test_a_call_that_one_is_not_there_for_is_asked_again_by_envoy(proxied: Start) -> None:
    """Of nginx the client hears what it was told: a status of gRPC's is nothing that nginx reads."""
    one, two = FakeInference([Unavailable("draining")]), FakeInference(say("two"))
    async with before_two(proxied, one, two) as (proxy, _), proxy.channel() as channel:
        outcomes: set[str] = set()
        while not one.requests or len(outcomes) < (1 if proxy.name == "envoy" else 2):
            call = InferenceStub(channel).Generate(pb.GenerateRequest(text="hi"))
            with suppress(grpc.aio.AioRpcError):
                await heard(read_to_end(call))
            outcomes.add("two" if await call.code() is grpc.StatusCode.OK else await call.details())
        assert outcomes == ({"two"} if proxy.name == "envoy" else {"two", "draining"})


async def test_when_nobody_is_there_clients_hear_so_as_they_can_read_it(proxied: Start) -> None:
    async with before_two(proxied) as (proxy, behind), proxy.http() as http, proxy.channel() as channel:
        for each in behind:
            await each.kill()
        gone = await http.post(CHAT, json=QUESTION)
        assert gone.status_code == 503
        assert gone.headers["retry-after"] == "1"
        assert gone.json()["error"]["type"] == "server_error"
        assert "no frontend answers" in gone.json()["error"]["message"]
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await heard(InferenceStub(channel).ListModels(pb.ListModelsRequest()))
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_one_that_comes_back_is_asked_again(proxied: Start) -> None:
    one, two = FakeInference([Unavailable("no decode worker is ready")]), FakeInference(say("two"))
    async with before_two(proxied, one, two) as (proxy, _), proxy.http() as http:
        assert await asked(http, 6) == {"two"}
        one.script = say("one")
        seen: set[str] = set()

        async def both() -> bool:
            seen.update(await asked(http, 2))
            return seen == {"one", "two"}

        await until(both)
