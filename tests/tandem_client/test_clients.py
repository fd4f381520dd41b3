"""Both clients against the gRPC service: what they send arrives, and what it answers, errors too, is understood."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from engine import errors as ours
from frontend.events import CallDelta, Delta
from frontend.request import GrammarKind
from tandem_client import (
    AsyncClient,
    Cancelled,
    ConnectionLost,
    ContextOverflow,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    Overloaded,
    PermissionDenied,
    Poisoned,
    Retries,
    TandemError,
    Tls,
    Unauthenticated,
    Unavailable,
    Unsupported,
    chat,
    json_schema,
    pb,
    text,
    tokens,
)
from tests.certificates import Authority
from tests.frontend.fake_inference import MODEL, FakeInference, say
from tests.tandem_client.serving import Asyncio, Either, client_of, serving

KINDS = ["blocking", "asyncio"]


@pytest.fixture
def inference() -> FakeInference:
    return FakeInference()


@pytest.fixture(params=KINDS)
async def client(inference: FakeInference, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Either]:
    async with serving(inference, tmp_path) as (address, _), client_of(request.param, address) as client:
        yield client


async def test_an_answer(client: Either, inference: FakeInference) -> None:
    answer = await client.ask("generate", text("hi", temperature=0.5, seed=3, max_tokens=9, stop=["x"], logprobs=1))
    assert (answer.text, bytes(answer.token_ids)) == ("Hello!", b"Hello!")
    assert (answer.started.model, answer.started.seed, answer.started.prompt_tokens) == (MODEL, 3, 2)
    assert answer.finished.reason == pb.FINISH_REASON_STOP
    assert answer.usage.completion_tokens == 6
    assert [entry.chosen.token for entry in answer.logprobs] == [b"H", b"e", b"l", b"l", b"o", b"!"]
    (asked,) = inference.requests
    assert (asked.prompt, asked.temperature, asked.seed, asked.max_tokens, asked.stop) == ("hi", 0.5, 3, 9, ("x",))
    assert asked.deadline_s is not None
    assert 0 < asked.deadline_s <= 60


async def test_parts_of_an_answer(client: Either) -> None:
    numbers: list[int] = []
    answer = await client.follow(tokens([1, 2]), numbers.append)
    assert answer.text == "Hello!"
    await asyncio.sleep(0)
    assert numbers == [1, 2, 3]


async def test_a_conversation_with_a_grammar(client: Either, inference: FakeInference) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    await client.ask("generate", chat(messages, grammar=json_schema('{"type": "object"}')))
    (asked,) = inference.requests
    assert [(m["role"], m["content"]) for m in asked.prompt.messages] == [("system", "be brief"), ("user", "hi")]  # type: ignore[union-attr]
    assert asked.grammar is not None
    assert (asked.grammar.kind, asked.grammar.text) == (GrammarKind.JSON_SCHEMA, '{"type": "object"}')


async def test_calls_and_reasoning(client: Either, inference: FakeInference) -> None:
    first = Delta("", (1,), 0, reasoning="hm", calls=(CallDelta(0, '{"a"', "c1", "f"),))
    second = Delta("", (2,), 1, calls=(CallDelta(0, ": 1}"), CallDelta(1, "{}", "c2", "g")))
    inference.script = [first, second, *say("")[1:]]
    answer = await client.ask("generate", chat("hi"))
    assert answer.reasoning == "hm"
    assert answer.tool_calls == [
        pb.ToolCall(id="c1", name="f", arguments='{"a": 1}'),
        pb.ToolCall(id="c2", name="g", arguments="{}"),
    ]


async def test_the_other_calls(client: Either) -> None:
    assert await client.ask("tokenize", "hi") == list(b"hi")
    assert bytes(await client.ask("tokenize", [{"role": "user", "content": "hi"}])) == b"user:hi\n"
    assert await client.ask("detokenize", list(b"hi")) == "hi"
    assert [model.name for model in await client.ask("models")] == [MODEL]
    assert (await client.ask("server_info")).version == "1.2.3"
    vector = await client.ask("embed", "hi")
    assert (list(vector.values), vector.prompt_tokens) == (pytest.approx([0.6, -0.8]), 2)
    assert list((await client.ask("embed", list(b"hi"), normalize=False)).values) == [3.0, -4.0]


@pytest.mark.parametrize(
    ("told", "heard"),
    [
        (ours.InvalidRequest("bad", field="stop"), InvalidRequest),
        (ours.ContextOverflow("long"), ContextOverflow),
        (ours.UnknownModel("who", field="model"), NotFound),
        (ours.Unsupported("not here"), Unsupported),
        (ours.PermissionDenied("not you"), PermissionDenied),
        (ours.Overloaded("full", retry_after_s=99.5, queue_position=4, predicted_ttft_s=1.5), Overloaded),
        (ours.Unavailable("draining"), Unavailable),
        (ours.DeadlineExceeded("late"), DeadlineExceeded),
        (ours.Poisoned("died of it"), Poisoned),
        (ours.TandemError("ours"), TandemError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_errors_have_types(
    client: Either, inference: FakeInference, told: ours.TandemError, heard: type[TandemError]
) -> None:
    inference.script = [told]
    with pytest.raises(TandemError) as failure:
        await client.ask("generate", text("hi"))
    error = failure.value
    assert type(error) is heard
    assert (error.message, error.reason) == (told.message, told.reason)
    assert error.field == ("stopping.stop" if told.field == "stop" else told.field)
    assert error.request_id.startswith("req-"), "as the server's log has it"
    assert isinstance(error.__cause__, grpc.RpcError)
    if isinstance(error, Overloaded):
        assert (error.retry_after_s, error.queue_position, error.predicted_ttft_ms) == (99.5, 4, 1500)


async def test_what_is_refused_for_now_is_asked_again(client: Either, inference: FakeInference) -> None:
    inference.scripts = [[ours.Overloaded("full", retry_after_s=0.01)], [ours.Unavailable("no workers")]]
    assert (await client.ask("generate", text("hi"))).text == "Hello!"
    assert len(inference.requests) == 3


async def test_what_is_refused_for_good_is_not(client: Either, inference: FakeInference) -> None:
    inference.script = [ours.InvalidRequest("no")]
    with pytest.raises(InvalidRequest):
        await client.ask("generate", text("hi"))
    assert len(inference.requests) == 1


async def test_there_is_an_end_to_asking(client: Either, inference: FakeInference) -> None:
    inference.script = [ours.Unavailable("draining")]
    with pytest.raises(Unavailable, match="draining"):
        await client.ask("embed", "hi")
    assert len(inference.requests) == Retries().max_tries


async def test_an_answer_that_failed_on_its_way_is_not_asked_again(client: Either, inference: FakeInference) -> None:
    inference.script = [*say("Hel")[:1], ours.Unavailable("workers are gone")]
    with pytest.raises(Unavailable, match="workers are gone"):
        await client.ask("generate", text("hi"))
    assert len(inference.requests) == 1


async def test_a_deadline(client: Either, inference: FakeInference) -> None:
    inference.script = [*say("Hel")[:1], asyncio.Event()]
    with pytest.raises(DeadlineExceeded):
        await client.follow(text("hi"), timeout_s=0.3)


async def test_who_leaves_a_stream_ends_its_work_at_once(client: Either, inference: FakeInference) -> None:
    inference.script = [*say("Hel")[:1], asyncio.Event()]
    answer = await client.follow(text("hi", resume_grace_s=30), most=1)
    assert answer.text == "Hel"
    await asyncio.wait_for(inference.idle.wait(), 10)


@pytest.mark.parametrize("grace_s", [0, 30])
async def test_another_may_cancel(client: Either, inference: FakeInference, grace_s: float) -> None:
    inference.script = [*say("Hel")[:1], asyncio.Event()]
    error = await client.cancelled(text("hi", resume_grace_s=grace_s))
    assert type(error) is Cancelled
    assert error.request_id == "req-1"
    await asyncio.wait_for(inference.idle.wait(), 10)


async def test_a_task_that_is_cancelled_ends_its_answer(tmp_path: Path) -> None:
    inference = FakeInference([*say("Hel")[:1], asyncio.Event()])
    async with serving(inference, tmp_path) as (address, _), AsyncClient(address) as client:
        numbers: asyncio.Queue[int] = asyncio.Queue()
        request = text("hi", resume_grace_s=30)
        task = asyncio.create_task(Asyncio(client).follow(request, numbers.put_nowait))
        await numbers.get()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(inference.idle.wait(), 10)


@pytest.mark.parametrize("kind", KINDS)
async def test_nobody_there(kind: str, tmp_path: Path) -> None:
    async with client_of(kind, f"unix:{tmp_path}/nobody", retries=Retries(max_tries=2, first_wait_s=0.01)) as client:
        with pytest.raises(ConnectionLost):
            await client.ask("models")
        with pytest.raises(ConnectionLost):
            await client.ask("generate", text("hi"))


def server_credentials(authority: Authority) -> grpc.ServerCredentials:
    """Of a server that asks for certificates, too."""
    own = authority.issue("server")
    pair = Path(own.key).read_bytes(), Path(own.cert).read_bytes()
    return grpc.ssl_server_credentials([pair], Path(authority.cert).read_bytes(), require_client_auth=True)


@pytest.mark.parametrize("kind", KINDS)
async def test_keys_and_tls(kind: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ours")
    mine, credentials = authority.issue("me"), server_credentials(authority)
    tls = Tls(ca=authority.cert, cert=mine.cert, key=mine.key)
    async with serving(FakeInference(), tmp_path, api_key="secret", tls=credentials) as (address, _):
        async with client_of(kind, address, api_key="secret", tls=tls) as client:
            assert (await client.ask("generate", text("hi"))).text == "Hello!"
        async with client_of(kind, address, tls=tls) as client:
            with pytest.raises(Unauthenticated):
                await client.ask("generate", text("hi"))
        stranger = Tls(ca=authority.cert)
        once = Retries(max_tries=1)
        async with client_of(kind, address, api_key="secret", tls=stranger, retries=once) as client:
            with pytest.raises(ConnectionLost):
                await client.ask("models")
