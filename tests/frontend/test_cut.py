"""What outlasts a drain: each client is told, in the last event of its stream, that the server could not wait.

The frontend is whole, over real sockets; its worker is the test, which says one token of each answer and no more.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from prometheus_client import CollectorRegistry

from engine.errors import Unavailable
from engine.hub import DEMO_MODEL
from engine.telemetry import Telemetry
from frontend.admission import Admission
from frontend.attempt import Attempts
from frontend.callers import ANYBODY, KeyRing
from frontend.catalogue import Catalogue
from frontend.cut import Cut
from frontend.events import Started
from frontend.inference import FleetInference
from frontend.link import Link
from frontend.metrics import FrontendMetrics
from frontend.model import LoadedModel
from frontend.observer import Observer
from frontend.request import GenerateRequest
from frontend.rest.app import build_app
from frontend.router import Policy
from frontend.served import Served
from frontend.service import build_server
from protos import generate_pb2 as pb
from protos import open_inference_pb2 as kserve
from protos import worker_pb2
from protos.generate_pb2_grpc import InferenceStub
from protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.e2e.clients import read_to_end
from tests.frontend.fake_worker import FakeWorker
from tests.frontend.scene import FakeFleet
from tests.frontend.test_rest_head import serving

SAID = "the server is shutting down, and could not wait for the end of this answer"
PATIENCE_S = 20.0


# -- who waits ---------------------------------------------------------------------------------------------------------


async def waits(cut: Cut, event: asyncio.Event) -> str:
    with cut:
        await event.wait()
    return "heard"


async def test_who_waits_is_woken_and_nobody_waits_afterwards() -> None:
    cut, event = Cut(), asyncio.Event()
    event.set()
    assert await waits(cut, event) == "heard"
    event.clear()
    waiting = [asyncio.create_task(waits(cut, event)) for _ in range(3)]
    await asyncio.sleep(0)
    cut.make()
    cut.make()
    for ended in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(ended, Unavailable)
    event.set()
    with pytest.raises(Unavailable, match="shutting down"):
        await waits(cut, event)


async def test_who_is_cancelled_stays_cancelled() -> None:
    cut, event = Cut(), asyncio.Event()
    waiting = asyncio.create_task(waits(cut, event))
    await asyncio.sleep(0)
    waiting.cancel()
    cut.make()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_who_is_woken_can_go_on_waiting_elsewhere() -> None:
    cut, event = Cut(), asyncio.Event()

    async def afterwards() -> str:
        try:
            return await waits(cut, event)
        except Unavailable:
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.sleep(0)
            return "went on"

    waiting = asyncio.create_task(afterwards())
    await asyncio.sleep(0)
    cut.make()
    assert await waiting == "went on"
    assert waiting.cancelling() == 0


async def test_who_is_elsewhere_is_left_alone_until_he_comes_back() -> None:
    cut, event, elsewhere = Cut(), asyncio.Event(), asyncio.Event()
    event.set()

    async def comes_and_goes() -> None:
        await waits(cut, event)
        await elsewhere.wait()
        await waits(cut, event)

    running = asyncio.create_task(comes_and_goes())
    await asyncio.sleep(0)
    cut.make()
    await asyncio.sleep(0)
    assert not running.done()
    elsewhere.set()
    with pytest.raises(Unavailable):
        await running


async def test_a_time_limit_within_stays_one() -> None:
    cut, event = Cut(), asyncio.Event()

    async def limited() -> None:
        with cut:
            async with asyncio.timeout(0):
                await event.wait()

    with pytest.raises(TimeoutError):
        await limited()
    waiting = asyncio.create_task(limited())
    await asyncio.sleep(0)
    cut.make()
    with pytest.raises((TimeoutError, Unavailable)):
        await waiting
    assert waiting.cancelling() == 0


# -- a frontend --------------------------------------------------------------------------------------------------------


@dataclass
class OneWorker(FakeFleet):
    """As `Fleet` to a whole frontend."""

    has_prefill: bool = False

    @property
    def all_links(self) -> "list[tuple[worker_pb2.Role, Link]]":
        return [(worker.role, worker.link) for worker in self.workers]

    def died(self, start: object) -> bool:
        return False


@dataclass
class Running:
    """A frontend, and the worker that it has."""

    inference: FleetInference
    worker: FakeWorker
    token: int
    http: httpx.AsyncClient
    grpc: grpc.aio.Channel
    legs: list[int] = field(default_factory=list)

    async def answer_first_tokens(self, count: int) -> None:
        """Until so many requests have been taken; the others wait."""
        while len(self.legs) < count:
            for admit in self.worker.admits():
                self.worker.grant(admit.leg)
                self.worker.say(step_output=self._first_token(admit.leg))
                self.legs.append(admit.leg)
            await asyncio.sleep(0.001)

    def _first_token(self, leg: int) -> worker_pb2.StepOutput:
        told = worker_pb2.Logprobs(row=0, chosen=-1.0)  # TGI's events are about tokens
        ended = [worker_pb2.FINISH_REASON_UNSPECIFIED]
        return worker_pb2.StepOutput(
            legs=[leg], indices=[0], token_ids=[self.token], finish_reasons=ended, logprobs=[told]
        )


@asynccontextmanager
async def running() -> AsyncIterator[Running]:
    fleet = OneWorker()
    worker = fleet.add(worker_pb2.ROLE_DECODE, max_sequences=64)
    model = LoadedModel.load(DEMO_MODEL, "m", None)
    attempts = Attempts(fleet, Admission(100, 100_000), Policy(), 60.0)  # type: ignore[arg-type]
    observer = Observer(Telemetry(), FrontendMetrics(CollectorRegistry()))
    inference = FleetInference(Catalogue([Served(model, attempts, max_attempts=3)]), attempts.fleet, observer)
    server, _ = build_server(inference, keys=KeyRing(), max_message_bytes=1 << 20, version="0")
    port = server.add_insecure_port("127.0.0.1:0")
    app = build_app(inference, keys=KeyRing(), max_body_bytes=1 << 20, metrics=lambda: b"")
    async with AsyncExitStack() as stack:
        http_port = await stack.enter_async_context(serving(app))
        await server.start()
        stack.push_async_callback(server.stop, None)
        url = f"http://127.0.0.1:{http_port}"
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, trust_env=False))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        token = model.tokenizer.encode(" cache", add_special_tokens=False)[0]
        yield Running(inference, worker, token, http, channel)


CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
OPENAI = {"error": {"message": SAID, "type": "server_error", "param": None, "code": None}}


def last_event(body: str) -> Any:
    """Of server-sent events, but for the one that says that there are no more."""
    assert body.endswith("\n\n")
    events = [event for event in body.split("\n\n") if event and event != "data: [DONE]"]
    return json.loads(events[-1].partition("data:")[2])


def last_line(body: str) -> Any:
    assert body.endswith("\n")
    return json.loads(body.splitlines()[-1])


def failed_response(body: str) -> Any:
    assert "event: response.failed\n" in body
    assert "[DONE]" not in body
    event = last_event(body)
    assert event["type"] == "response.failed"
    assert event["response"]["status"] == "failed"
    assert event["response"]["output"][0]["content"][0]["text"]
    return event["response"]["error"]


def anthropic_error(body: str) -> Any:
    assert "\n\nevent: error\ndata: " in body
    return last_event(body)


@dataclass(frozen=True)
class Stream:
    path: str
    body: dict[str, Any]
    last: Callable[[str], Any]
    expected: dict[str, Any]


STREAMS = (
    Stream("/v1/chat/completions", {**CHAT, "stream": True, "n": 2}, last_event, OPENAI),
    Stream("/v1/completions", {"model": "m", "prompt": "hi", "stream": True}, last_event, OPENAI),
    Stream(
        "/v1/responses",
        {"model": "m", "input": "hi", "stream": True},
        failed_response,
        {"code": "server_error", "message": SAID},
    ),
    Stream(
        "/v1/messages",
        {**CHAT, "max_tokens": 99, "stream": True},
        anthropic_error,
        {"type": "error", "error": {"type": "overloaded_error", "message": SAID}},
    ),
    Stream("/api/chat", CHAT, last_line, {"error": SAID}),
    Stream("/api/generate", {"model": "m", "prompt": "hi"}, last_line, {"error": SAID}),
    Stream(
        "/generate_stream",
        {"inputs": "hi", "parameters": {"max_new_tokens": 99}},
        last_event,
        {"error": SAID, "error_type": "generation"},
    ),
    Stream(
        "/completion",
        {"prompt": "hi", "stream": True},
        last_event,
        {"error": {"code": 503, "message": SAID, "type": "unavailable_error"}},
    ),
)
NUM_TAKEN = len(STREAMS) + 1  # one of them asks for two answers


async def read(http: httpx.AsyncClient, stream: Stream, begun: asyncio.Semaphore) -> str:
    """All that comes, once something has."""
    async with http.stream("POST", stream.path, json=stream.body) as response:
        assert response.status_code == 200
        texts = response.aiter_text()
        first = await anext(texts)
        begun.release()
        return first + "".join([text async for text in texts])


async def test_every_stream_of_rest_ends_with_a_typed_event() -> None:
    async with running() as frontend, asyncio.TaskGroup() as tasks:
        begun = asyncio.Semaphore(0)
        reading = [tasks.create_task(read(frontend.http, stream, begun)) for stream in STREAMS]
        async with asyncio.timeout(PATIENCE_S):
            await frontend.answer_first_tokens(NUM_TAKEN)
            for _ in STREAMS:
                await begun.acquire()
            frontend.inference.cut()
            bodies = await asyncio.gather(*reading)
            await frontend.inference.idle()
        for stream, body in zip(STREAMS, bodies, strict=True):
            assert stream.last(body) == stream.expected, stream.path
            assert body.count(SAID) == 1, stream.path
        assert sorted(frontend.worker.release_aborted()) == sorted(frontend.legs)
        failed = [json.loads(bytes(each)) for each in frontend.inference.recorder.failed(ANYBODY, 100)]
        assert [record["outcome"] for record in failed] == ["UNAVAILABLE"] * NUM_TAKEN


async def test_who_waits_for_the_whole_answer_or_for_room_hears_it_in_the_status() -> None:
    async with running() as frontend, asyncio.TaskGroup() as tasks:
        whole = tasks.create_task(frontend.http.post("/v1/chat/completions", json=CHAT))
        async with asyncio.timeout(PATIENCE_S):
            await frontend.answer_first_tokens(1)
            waiting = tasks.create_task(
                frontend.http.post("/v1/messages", json={**CHAT, "max_tokens": 9, "stream": True})
            )
            asked: list[worker_pb2.Admit] = []
            while not asked:
                await asyncio.sleep(0.001)
                asked = frontend.worker.admits()  # and never answers
            frontend.inference.cut()
            answers = await asyncio.gather(whole, waiting)
        assert [answer.status_code for answer in answers] == [503, 503]
        assert answers[0].json() == OPENAI
        assert answers[1].json()["error"] == {"type": "overloaded_error", "message": SAID}


async def test_streams_of_grpc_end_unavailable_with_details() -> None:
    async with running() as frontend, asyncio.TaskGroup() as tasks:
        stub = InferenceStub(frontend.grpc)
        calls = [stub.Generate(pb.GenerateRequest(text="hi", resume_grace_ms=grace)) for grace in (0, 1000)]
        async with asyncio.timeout(PATIENCE_S):
            first = [tasks.create_task(call.read()) for call in calls]
            await frontend.answer_first_tokens(2)
            begun = [(await each).started.request_id for each in first]
            frontend.inference.cut()
            for call, request_id in zip(calls, begun, strict=True):
                with pytest.raises(grpc.aio.AioRpcError) as ended:
                    await read_to_end(call)
                assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
                assert ended.value.details() == SAID
                trailers = dict(ended.value.trailing_metadata())
                info = ErrorInfo()
                Status.FromString(trailers["grpc-status-details-bin"]).details[0].Unpack(info)
                assert (info.reason, info.domain) == ("UNAVAILABLE", "tandem")
                assert trailers["x-request-id"] == request_id
        assert sorted(frontend.worker.release_aborted()) == sorted(frontend.legs)


async def test_a_stream_of_the_open_inference_protocol_tells_it_as_a_message() -> None:
    async with running() as frontend:
        request = kserve.ModelInferRequest(model_name="m", id="7")
        for name, kind in (("text_input", "BYTES"), ("stream", "BOOL")):
            tensor = request.inputs.add(name=name, datatype=kind, shape=[1])
            if kind == "BYTES":
                tensor.contents.bytes_contents.append(b"hi")
            else:
                tensor.contents.bool_contents.append(True)
        call = GRPCInferenceServiceStub(frontend.grpc).ModelStreamInfer()
        async with asyncio.timeout(PATIENCE_S):
            await call.write(request)
            await frontend.answer_first_tokens(1)
            assert not (await call.read()).error_message
            frontend.inference.cut()
            last = await call.read()
            assert (last.infer_response.id, last.error_message) == ("7", SAID)
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF


async def test_who_reads_while_it_is_cut_hears_it_at_his_next_event() -> None:
    async with running() as frontend:
        events = frontend.inference.generate(GenerateRequest(prompt="hi", caller=ANYBODY))
        first = asyncio.create_task(anext(events))
        await frontend.answer_first_tokens(1)
        assert isinstance(await first, Started)
        frontend.inference.cut()
        with pytest.raises(Unavailable):
            await anext(events)
