import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar, cast

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from engine.errors import UnknownModel
from frontend import checks, service
from frontend import events as values
from frontend.accounts import Accounts
from frontend.api import ModelStatus, Readiness, ServedModel, Vocabulary, WorkerStatus
from frontend.callers import ANYBODY, Caller, KeyRing
from frontend.events import Delta, Event, Finish, Finished, Started, Timing, Usage
from frontend.recorder import Recorder
from frontend.request import Chat, GenerateRequest, TokenPrompt
from frontend.service import Health, build_server
from frontend.tally import Counts
from protos import generate_pb2 as pb
from protos.generate_pb2_grpc import InferenceStub

Detail = TypeVar("Detail", bound=Message)

STARTED = Started("req-1", "m", 3, 2**64 - 1)
TIMING = Timing(12.3456, {"admit": 0.1, "egress": 12.2456}, 4.0, {"decode_step": 4.0}, clock_within_ms=0.1234)
FINISHED = Finished(Finish.LENGTH, None, Usage(3, 2, 1), TIMING)
ANSWER = (STARTED, Delta("Hel", (1,), 0), Delta("lo", (2,), 1), FINISHED)
LIMITS = checks.ModelLimits(vocab_size=100, max_context=64, eos_token_ids=frozenset((2,)))
WORKER = WorkerStatus(
    worker_id="decode-0",
    role="decode",
    address="127.0.0.1:50053",
    model="m",
    ready=True,
    num_blocks=10,
    free_blocks=9,
    cached_blocks=3,
    promised_blocks=1,
    leaked_blocks=0,
    block_tokens=16,
    running=1,
    queued=2,
    counts=Counts(),
)


@dataclass
class FakeInference:
    """Plays `script`: events are told, exceptions raised, None waits for ever."""

    script: Sequence[Event | Exception | None] = ANSWER
    requests: list[GenerateRequest] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    active_requests: int = 0
    queued_requests: int = 5
    queued_tokens: int = 0
    max_queued_requests: int = 6

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        self.requests.append(request)
        self.model(request.model)
        if isinstance(request.prompt, TokenPrompt):
            checks.check_token_ids(request.prompt.ids, LIMITS.vocab_size, "prompt")
        checks.resolve(request, 3, LIMITS)
        try:
            for step in self.script:
                if isinstance(step, Exception):
                    raise step
                if step is None:
                    await asyncio.get_running_loop().create_future()
                else:
                    yield step
        finally:
            self.closed.set()

    def tokenize(self, model: str | None, text: str | Chat, *, add_special_tokens: bool | None = None) -> list[int]:
        self.model(model)
        return [len(str(text)), int(add_special_tokens is not False)]

    def render(self, model: str | None, chat: Chat) -> str:
        raise NotImplementedError

    def detokenize(self, model: str | None, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return f"{list(token_ids)} {skip_special_tokens}"

    def token_bytes(self, model: str | None, token_id: int) -> bytes:
        raise NotImplementedError

    def vocabulary(self, model: str | None) -> Vocabulary:
        raise NotImplementedError

    def tokenizer_config(self, model: str | None) -> Mapping[str, object]:
        raise NotImplementedError

    def models(self, caller: Caller = ANYBODY) -> list[ServedModel]:
        return [ServedModel(name="m", created=1, max_context=64, vocab_size=100, has_chat_template=True)]

    def model(self, name: str | None, caller: Caller = ANYBODY) -> ServedModel:
        if name not in (None, "m"):
            raise UnknownModel(f"the model {name!r} is not served here", field="model")
        return self.models()[0]

    def workers(self) -> list[WorkerStatus]:
        return [WORKER]

    @property
    def counts(self) -> Counts:
        return WORKER.counts

    @property
    def recorder(self) -> Recorder:
        return Recorder()

    @property
    def accounts(self) -> Accounts:
        return Accounts()

    def statuses(self) -> list[ModelStatus]:
        return []

    def readiness(self, model: str | None = None) -> Readiness:
        return Readiness(True, "")

    async def custody(self) -> list[dict[str, object]]:
        return []


@dataclass(frozen=True)
class Served:
    channel: grpc.aio.Channel
    stub: InferenceStub
    health: Health


@asynccontextmanager
async def served(inference: FakeInference, api_key: str = "", max_message_bytes: int = 2**24) -> AsyncIterator[Served]:
    server, health = build_server(
        inference, keys=KeyRing(api_key), max_message_bytes=max_message_bytes, version="1.2.3"
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        options = [("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            stub: Callable[[grpc.aio.Channel], InferenceStub] = InferenceStub
            yield Served(channel, stub(channel), health)
    finally:
        await server.stop(None)


async def generate(server: Served, request: pb.GenerateRequest | None = None) -> list[pb.GenerateResponse]:
    return [response async for response in server.stub.Generate(request or pb.GenerateRequest(text="hi"))]


def trailers(failure: grpc.aio.AioRpcError) -> dict[str, str | bytes]:
    return dict(cast("Iterable[tuple[str, str | bytes]]", failure.trailing_metadata()))


def details(failure: grpc.aio.AioRpcError, kind: type[Detail]) -> Detail:
    """The one detail of this kind that the status carries."""
    status = Status.FromString(cast("bytes", trailers(failure)["grpc-status-details-bin"]))
    assert (status.code, status.message) == (failure.code().value[0], failure.details())
    (packed,) = [detail for detail in status.details if detail.Is(kind.DESCRIPTOR)]
    found = kind()
    packed.Unpack(found)
    return found


class Flood(FakeInference):
    """An answer without end."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        try:
            yield STARTED
            while True:
                await asyncio.sleep(0)
                yield Delta("x" * 100_000, (1,), 0)
        finally:
            self.closed.set()


async def test_an_answer_that_nobody_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "READ_S", 0.2)
    inference = Flood()
    async with served(inference) as server:
        call = server.stub.Generate(pb.GenerateRequest(text="hi"))
        await asyncio.wait_for(inference.closed.wait(), 20)

        async def read() -> None:
            async for _ in call:
                pass

        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await asyncio.wait_for(read(), 20)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE, "it is said to who reads after all"


async def test_events_come_as_messages_in_order() -> None:
    logprob = values.TokenLogprob(1, -0.5, b"\xe2\x82")
    rich = Delta("", (1,), 0, (values.TokenLogprobs(logprob, (logprob, logprob)),))
    stop = Finished(Finish.STOP, "END", Usage(3, 2, 1), Timing(1.0, {"admit": 1.0}))
    async with served(FakeInference([STARTED, rich, Delta("€ö\n", (2, 0, 4), 1), stop])) as server:
        started, first, second, finished = await generate(server)

    assert started.started == pb.Started(request_id="req-1", model="m", prompt_tokens=3, seed=2**64 - 1)
    message = pb.TokenLogprob(token_id=1, logprob=-0.5, token=b"\xe2\x82")
    assert first.delta == pb.Delta(token_ids=[1], logprobs=[pb.TokenLogprobs(chosen=message, top=[message, message])])
    assert second.delta == pb.Delta(text="€ö\n", token_ids=[2, 0, 4], first_index=1)
    assert finished.finished == pb.Finished(
        reason=pb.FINISH_REASON_STOP,
        stop_string="END",
        usage=pb.Usage(prompt_tokens=3, completion_tokens=2, cached_tokens=1),
        timing=pb.Timing(ttft_ms=1.0, ttft_segments=[pb.Segment(name="admit", ms=1.0)]),
    )
    assert not finished.finished.timing.HasField("second_token_ms")


@pytest.mark.parametrize(("matched", "which"), [(None, None), ("", "stop_string"), (0, "stop_token_id")])
async def test_what_ended_the_answer_is_told_even_when_it_is_zero(matched: str | int | None, which: str | None) -> None:
    finished = Finished(Finish.STOP, matched, FINISHED.usage, TIMING)
    async with served(FakeInference([STARTED, finished])) as server:
        response = (await generate(server))[-1]

    assert response.finished.WhichOneof("matched") == which


async def test_metadata_carries_the_request_id_and_the_ledger() -> None:
    async with served(FakeInference()) as server:
        call = server.stub.Generate(pb.GenerateRequest(text="hi"))
        assert dict(await call.initial_metadata())["x-request-id"] == "req-1"
        assert [response.WhichOneof("event") async for response in call] == ["started", "delta", "delta", "finished"]
        trailers = dict(await call.trailing_metadata())

    assert trailers["tandem-ttft-ms"] == "12.346"
    assert json.loads(trailers["tandem-timing"]) == {
        "ttft_ms": 12.346,
        "ttft_segments": {"admit": 0.1, "egress": 12.246},
        "second_token_ms": 4.0,
        "second_token_segments": {"decode_step": 4.0},
        "clock_within_ms": 0.123,
    }


async def test_trace_context_and_deadline_reach_the_request() -> None:
    inference = FakeInference()
    headers = (("traceparent", "00-aa-bb-01"), ("tracestate", "a=1"), ("unrelated", "x"))
    async with served(inference) as server:
        _ = [r async for r in server.stub.Generate(pb.GenerateRequest(text="hi"), timeout=60, metadata=headers)]
        await generate(server)

    with_deadline, without = inference.requests
    assert with_deadline.deadline_s is not None
    assert 30 < with_deadline.deadline_s < 90
    assert with_deadline.trace_headers == {"traceparent": "00-aa-bb-01", "tracestate": "a=1"}
    assert without.deadline_s is None
    assert without.trace_headers == {}


async def test_many_calls_at_once_do_not_mix() -> None:
    async with served(FakeInference()) as server:
        answers = await asyncio.gather(*(generate(server) for _ in range(100)))

    assert all(answer == answers[0] for answer in answers)
    assert "".join(response.delta.text for response in answers[0]) == "Hello"


async def test_text_and_tokens_are_turned_into_each_other() -> None:
    async with served(FakeInference()) as server:
        tokens = await server.stub.Tokenize(pb.TokenizeRequest(text="four"))
        without = await server.stub.Tokenize(pb.TokenizeRequest(model="m", text="four", add_special_tokens=False))
        chat = await server.stub.Tokenize(pb.TokenizeRequest(chat=pb.Chat()))
        text = await server.stub.Detokenize(pb.DetokenizeRequest(token_ids=[0, 99], skip_special_tokens=True))

    assert list(tokens.token_ids) == [4, 1]
    assert list(without.token_ids) == [4, 0]
    assert list(chat.token_ids) == [len(str(Chat(()))), 1]
    assert text.text == "[0, 99] True"


@pytest.mark.parametrize(
    ("method", "message", "code"),
    [
        ("Tokenize", pb.TokenizeRequest(), grpc.StatusCode.INVALID_ARGUMENT),
        ("Tokenize", pb.TokenizeRequest(text="x", model="other"), grpc.StatusCode.NOT_FOUND),
        ("Detokenize", pb.DetokenizeRequest(token_ids=[100]), grpc.StatusCode.INVALID_ARGUMENT),
        ("Detokenize", pb.DetokenizeRequest(token_ids=[-1]), grpc.StatusCode.INVALID_ARGUMENT),
        ("Detokenize", pb.DetokenizeRequest(model="other"), grpc.StatusCode.NOT_FOUND),
    ],
)
async def test_unary_calls_refuse_in_kind(method: str, message: object, code: grpc.StatusCode) -> None:
    async with served(FakeInference()) as server:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await getattr(server.stub, method)(message)
        assert failure.value.code() is code


async def test_models_and_server_are_told() -> None:
    async with served(FakeInference()) as server:
        models = await server.stub.ListModels(pb.ListModelsRequest())
        info = await server.stub.GetServerInfo(pb.GetServerInfoRequest())

    assert list(models.models) == [pb.Model(name="m", max_context=64, vocab_size=100, has_chat_template=True)]
    assert (info.version, info.queued_requests, info.max_queued_requests) == ("1.2.3", 5, 6)
    (worker,) = info.workers
    assert {name.name: value for name, value in worker.ListFields()} == {
        name: getattr(WORKER, name) for name in pb.WorkerInfo.DESCRIPTOR.fields_by_name
    }
