"""Requests to servers without a model, heard to the end or not."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from cli.chaos.asks import PATIENT, Ask, Behavior, Dialect, Kind
from cli.chaos.talk import Failed, PastDeadline, Places, Talk
from engine.errors import ConfigError
from tests.cli.fake_server import FakeInference, start
from tests.cli.load.fake_openai import Answer, FakeOpenAI, serving


def ask(dialect: Dialect, *, stream: bool = True) -> Ask:
    fields: dict[str, object] = {"max_tokens": 5, "temperature": 0.0, "logprobs": 2}
    return Ask(number=0, kind=Kind.GREEDY, dialect=dialect, stream=stream, prompt="a b", fields=fields)


@asynccontextmanager
async def talking(url: str = "http://127.0.0.1:1", grpc_address: str = "127.0.0.1:1") -> AsyncIterator[Talk]:
    talk = Talk(Places(url, grpc_address, "the-key"))
    talk.model = "fake"
    try:
        yield talk
    finally:
        await talk.aclose()


@pytest.fixture
def fake_grpc() -> Iterator[tuple[FakeInference, str]]:
    fake = FakeInference(api_key="the-key")
    server, port = start(fake)
    yield fake, f"127.0.0.1:{port}"
    server.stop(None)


@pytest.mark.parametrize("dialect", [Dialect.COMPLETIONS, Dialect.CHAT])
async def test_a_stream_is_heard_to_its_end(dialect: Dialect) -> None:
    fake, pieces = FakeOpenAI(), list[int]()
    with serving(fake) as url:
        async with talking(url) as talk:
            heard = await talk.ask(ask(dialect), PATIENT, pieces.append)
    assert (heard.text, heard.num_tokens) == ("abc", 3)
    assert pieces[-1] >= 3
    (body,) = fake.bodies
    assert body["model"] == "fake"
    assert body["logprobs"] == (2 if dialect is Dialect.COMPLETIONS else True)
    assert body.get("top_logprobs") == (2 if dialect is Dialect.CHAT else None)
    assert fake.keys == ["Bearer the-key"]


async def test_a_client_hangs_up() -> None:
    fake = FakeOpenAI(rest=Answer(is_held=True))
    with serving(fake) as url:
        async with talking(url) as talk:
            by_pieces = await talk.ask(ask(Dialect.COMPLETIONS), Behavior(max_pieces=2))
            by_time = await talk.ask(ask(Dialect.COMPLETIONS), Behavior(hang_up_s=0.2))
        fake.over.set()
    assert "abc".startswith(by_pieces.text)
    assert by_time.num_tokens is None


@pytest.mark.parametrize(
    ("answer", "why", "is_refusal"),
    [
        (Answer(status=503), "no place for number 1", True),
        (Answer(status=429), "no place for number 1", True),
        (Answer(status=500), "no place for number 1", False),
        (Answer(is_cut=True), "the connection ended before the answer did", False),
    ],
)
async def test_what_is_no_answer_has_failed(answer: Answer, why: str, is_refusal: bool) -> None:
    with serving(FakeOpenAI(rest=answer)) as url:
        async with talking(url) as talk:
            with pytest.raises(Failed, match=why) as failed:
                await talk.ask(ask(Dialect.COMPLETIONS))
    assert failed.value.is_refusal is is_refusal


async def test_no_server_has_failed_too() -> None:
    async with talking() as talk:
        with pytest.raises(Failed, match="ConnectionRefusedError"):
            await talk.ask(ask(Dialect.COMPLETIONS))
        with pytest.raises(Failed, match="UNAVAILABLE") as failed:
            await talk.ask(ask(Dialect.GRPC))
        assert failed.value.is_refusal
        with pytest.raises(ConfigError, match="no list of models"):
            await talk.served()


async def test_a_call_is_heard_to_its_end(fake_grpc: tuple[FakeInference, str]) -> None:
    fake, address = fake_grpc
    async with talking(grpc_address=address) as talk:
        heard = await talk.ask(ask(Dialect.GRPC))
        part = await talk.ask(ask(Dialect.GRPC), Behavior(max_pieces=1))
        assert (await talk.served()).name == "fake"
    assert (heard.text, heard.tokens, heard.num_tokens) == ("Keys and values.", (0, 1, 2), 3)
    assert part.text == "Keys "
    assert fake.asked[0].output.logprobs == 2


async def test_a_deadline_is_the_servers_to_tell(fake_grpc: tuple[FakeInference, str]) -> None:
    fake, address = fake_grpc
    fake.finishes = False
    async with talking(grpc_address=address) as talk:
        with pytest.raises(PastDeadline):
            await talk.ask(ask(Dialect.GRPC), Behavior(deadline_s=0.05))
