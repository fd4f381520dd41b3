"""POST /v1/embeddings: what OpenAI's own client sends, and what is refused."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from engine.errors import Overloaded
from engine.pooling import Pooling
from frontend.callers import KeyRing
from frontend.request import TokenPrompt
from frontend.rest.app import build_app
from frontend.rest.vectors import AT_ONCE, MAX_INPUTS
from tests.frontend.fake_inference import MAX_CONTEXT, MODEL, FakeInference, say
from tests.frontend.test_rest_app import rest_client


@pytest.fixture
def inference() -> FakeInference:
    return FakeInference(say("x"))


@pytest.fixture
async def client(inference: FakeInference) -> AsyncIterator[AsyncOpenAI]:
    app = build_app(inference, keys=KeyRing("key"), max_body_bytes=1 << 20, metrics=lambda: b"")
    http_client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app))  # what the client is built on
    async with AsyncOpenAI(api_key="key", base_url="http://test/v1", http_client=http_client, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("encoding", [None, "float", "base64"])
async def test_each_text_has_a_vector_of_length_one(client: AsyncOpenAI, encoding: str | None) -> None:
    options: dict[str, Any] = {} if encoding is None else {"encoding_format": encoding}
    answer = await client.embeddings.create(model=MODEL, input=["hi", "there"], user="ann", **options)
    assert [row.index for row in answer.data] == [0, 1]
    assert answer.model == MODEL
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (7, 7)
    if encoding != "base64":  # which the client leaves as it is where it was asked for
        assert [row.embedding for row in answer.data] == [pytest.approx([0.6, -0.8])] * 2


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ("hi", ["hi"]),
        ([1, 2, 3], [TokenPrompt((1, 2, 3))]),
        ([[1, 2], [3]], [TokenPrompt((1, 2)), TokenPrompt((3,))]),
    ],
)
async def test_text_and_tokens(client: AsyncOpenAI, inference: FakeInference, given: Any, prompts: list[Any]) -> None:
    await client.embeddings.create(model=MODEL, input=given)
    assert [request.prompt for request in inference.requests] == prompts
    assert {(request.max_tokens, request.pooling) for request in inference.requests} == {(1, Pooling.MEAN)}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": ["a"] * (MAX_INPUTS + 1)}, "input"),
        ({"input": "a" * MAX_CONTEXT}, "input"),
        ({"input": [257]}, "input"),
        ({}, "input"),
        ({"input": "a", "dimensions": 8}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "dims": 8}, "dims"),
    ],
)
async def test_what_is_wrong_is_named(inference: FakeInference, fields: dict[str, Any], param: str) -> None:
    async with rest_client(inference) as client:
        answer = await client.post("/v1/embeddings", json={"model": MODEL, **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


async def test_one_that_fails_fails_all(client: AsyncOpenAI, inference: FakeInference) -> None:
    inference.scripts = [say("x"), [Overloaded("full", retry_after_s=1.0)]]
    with pytest.raises(openai.RateLimitError):
        await client.embeddings.create(model=MODEL, input=["a", "b", "c"])
    assert inference.running == 0


async def test_only_so_many_are_under_way(client: AsyncOpenAI, inference: FakeInference) -> None:
    go_on = asyncio.Event()
    inference.script = [go_on, *say("x")]
    asking = asyncio.create_task(client.embeddings.create(model=MODEL, input=["a"] * (3 * AT_ONCE)))
    for _ in range(AT_ONCE):
        await inference.began.acquire()
    await asyncio.sleep(0.05)
    assert inference.running == AT_ONCE
    go_on.set()
    assert len((await asking).data) == 3 * AT_ONCE
