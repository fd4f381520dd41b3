"""OpenAI's own client against the app: what it sends is taken, and what it gets it understands."""

from collections.abc import AsyncIterator

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from engine.errors import Overloaded, Unavailable
from frontend.callers import KeyRing
from frontend.events import Delta
from frontend.rest.app import build_app
from tests.frontend.fake_inference import MODEL, FakeInference


@pytest.fixture
def inference() -> FakeInference:
    return FakeInference()


@pytest.fixture
async def client(inference: FakeInference) -> AsyncIterator[AsyncOpenAI]:
    app = build_app(inference, keys=KeyRing("key"), max_body_bytes=1 << 20, metrics=lambda: b"")
    http_client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app))  # what the client is built on
    async with AsyncOpenAI(api_key="key", base_url="http://test/v1", http_client=http_client, max_retries=0) as client:
        yield client


async def test_chat(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "hi"}], logprobs=True, top_logprobs=2, n=2, user="ann"
    )
    assert [choice.message.content for choice in answer.choices] == ["Hello!", "Hello!"]
    logprobs = answer.choices[1].logprobs
    assert logprobs is not None
    assert [entry.token for entry in logprobs.content or ()] == list("Hello!")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer._request_id == "req-1"


async def test_an_answer_can_be_sent_back(client: AsyncOpenAI, inference: FakeInference) -> None:
    question = {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    answer = await client.chat.completions.create(model=MODEL, messages=[question])  # type: ignore[list-item]
    said = answer.choices[0].message.model_dump()
    await client.chat.completions.create(model=MODEL, messages=[question, said, question])  # type: ignore[list-item]
    assert len(inference.requests[-1].prompt.messages) == 3  # type: ignore[union-attr]


async def test_streamed_chat(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "system", "content": "a"}, {"role": "user", "content": "b"}],
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"top_k": 5, "min_p": 0.1, "stop_token_ids": [3]},
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "Hello!"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 22


async def test_completions(client: AsyncOpenAI) -> None:
    answer = await client.completions.create(model=MODEL, prompt=[[1, 2], [3]], logprobs=1, echo=False, best_of=1)
    assert [choice.text for choice in answer.choices] == ["Hello!", "Hello!"]
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.text_offset == [0, 1, 2, 3, 4, 5]
    stream = await client.completions.create(model=MODEL, prompt="hi", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "Hello!"


async def test_models(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == [MODEL]
    assert (await client.models.retrieve(MODEL)).owned_by == "tandem"


async def test_errors_become_the_exceptions_of_the_client(client: AsyncOpenAI, inference: FakeInference) -> None:
    async def ask(**fields: object) -> None:
        question = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **fields}
        await client.chat.completions.create(**question)  # type: ignore[call-overload]

    with pytest.raises(openai.BadRequestError) as bad:
        await ask(temperature=5)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as missing:
        await ask(model="other")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as overflow:
        await ask(max_completion_tokens=10_000)
    assert overflow.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="other").models.list()
    inference.scripts = [[Overloaded("full", retry_after_s=1)], [Unavailable("gone")]]
    with pytest.raises(openai.RateLimitError):
        await ask()
    with pytest.raises(openai.InternalServerError):
        await ask()


async def test_a_broken_stream_raises(client: AsyncOpenAI, inference: FakeInference) -> None:
    inference.script = [Delta("par", (1,), 0), Unavailable("the worker is gone")]
    stream = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "hi"}], stream=True
    )
    with pytest.raises(openai.APIError, match="the worker is gone"):
        async for _ in stream:
            pass
