"""OpenAI's own client and /v1/responses: it understands what is answered and streamed, and what it sends is taken."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pydantic
import pytest
from openai import AsyncOpenAI

from engine.errors import Unavailable
from frontend.callers import KeyRing, hash_of
from frontend.events import Delta
from frontend.request import Chat, Grammar, GrammarKind
from frontend.rest.app import build_app
from tests.frontend.fake_inference import MODEL, FakeInference, say
from tests.frontend.parsed_script import WEATHER, parsed, split

TOOL: Any = {"type": "function", **WEATHER["function"], "strict": True}  # type: ignore[dict-item]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


class City(pydantic.BaseModel):
    name: str


@pytest.fixture
def inference() -> FakeInference:
    return FakeInference()


@pytest.fixture
async def client(inference: FakeInference, tmp_path: Path) -> AsyncIterator[AsyncOpenAI]:
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[[key]]\nname = "bob"\nsha256 = "{hash_of(b"other")}"\n')
    app = build_app(inference, keys=KeyRing("key", keys), max_body_bytes=1 << 20, metrics=lambda: b"")
    http_client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app))  # what the client is built on
    async with AsyncOpenAI(api_key="key", base_url="http://test/v1", http_client=http_client, max_retries=0) as client:
        yield client


def prompt_of(inference: FakeInference) -> Chat:
    prompt = inference.requests[-1].prompt
    assert isinstance(prompt, Chat)
    return prompt


async def test_create(client: AsyncOpenAI) -> None:
    response = await client.responses.create(
        model=MODEL,
        input="hi",
        instructions="Be kind.",
        max_output_tokens=50,
        metadata={"a": "b"},
        include=["message.output_text.logprobs"],
        top_logprobs=2,
        truncation="disabled",
        user="ann",
    )
    assert response.output_text == "Hello!"
    assert (response.status, response.metadata, response._request_id) == ("completed", {"a": "b"}, "req-1")
    assert response.usage is not None
    assert (response.usage.output_tokens, response.usage.input_tokens_details.cached_tokens) == (6, 1)
    message: Any = response.output[0]
    assert [entry.token for entry in message.content[0].logprobs] == list("Hello!")


async def test_retrieve_list_and_delete(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model=MODEL, input=[{"role": "user", "content": "hi"}])
    again = await client.responses.retrieve(response.id)
    assert again.model_dump() == response.model_dump()
    items: Any = [item async for item in client.responses.input_items.list(response.id, limit=1)]
    assert [item.content[0].text for item in items] == ["hi"]
    stranger = client.with_options(api_key="other")
    with pytest.raises(openai.NotFoundError):
        await stranger.responses.retrieve(response.id)
    with pytest.raises(openai.BadRequestError) as refused:
        await stranger.responses.create(model=MODEL, input="x", previous_response_id=response.id)
    assert refused.value.code == "previous_response_not_found"
    with pytest.raises(openai.BadRequestError):
        await client.responses.cancel(response.id)
    await client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(response.id)


async def test_pages_of_items(client: AsyncOpenAI) -> None:
    asked: Any = [{"role": "user", "content": str(i)} for i in range(7)]
    response = await client.responses.create(model=MODEL, input=asked)
    found: Any = [item async for item in client.responses.input_items.list(response.id, limit=3, order="asc")]
    assert [item.content[0].text for item in found] == [str(i) for i in range(7)]


async def test_stream(client: AsyncOpenAI) -> None:
    stream = await client.responses.create(model=MODEL, input="hi", stream=True)
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Hello!"
    assert events[-1].type == "response.completed"
    kept = await client.responses.retrieve(events[-1].response.id)
    assert kept.model_dump() == events[-1].response.model_dump()


async def test_the_clients_own_accumulator(client: AsyncOpenAI, inference: FakeInference) -> None:
    text = f"<think>Hm.</think>Let me see.{CALL}"
    inference.script = parsed(*split(text), reasoning="think")
    seen = []
    async with client.responses.stream(model=MODEL, input="hi", tools=[TOOL]) as stream:
        async for event in stream:
            seen.append(event.type)
            if event.type == "response.output_text.delta":
                assert "Let me see.".startswith(event.snapshot)
        final = await stream.get_final_response()
    assert final.output_text == "Let me see."
    thought, _, call = final.output
    assert (thought.type, call.type) == ("reasoning", "function_call")
    assert thought.content[0].text == "Hm."  # type: ignore[union-attr,index]
    assert call.parsed_arguments == {"city": "Paris"}  # type: ignore[union-attr]
    for name in ("reasoning_text.delta", "function_call_arguments.delta", "function_call_arguments.done"):
        assert f"response.{name}" in seen


async def test_a_round_of_calls(client: AsyncOpenAI, inference: FakeInference) -> None:
    inference.scripts = [parsed(CALL), say("Sunny.")]
    asked: list[Any] = [{"role": "user", "content": "Weather?"}]
    first = await client.responses.create(
        model=MODEL, input=asked, tools=[TOOL], tool_choice={"type": "function", "name": "get_weather"}
    )
    assert prompt_of(inference).demanded == (WEATHER,)
    (call,) = first.output
    assert call.type == "function_call"
    assert json.loads(call.arguments) == {"city": "Paris"}
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    second = await client.responses.create(model=MODEL, input=[*asked, *first.output, result], tools=[TOOL])  # type: ignore[list-item]
    assert second.output_text == "Sunny."
    by_hand = prompt_of(inference).messages
    await client.responses.create(model=MODEL, input=[result], previous_response_id=first.id, tools=[TOOL])
    assert prompt_of(inference).messages == by_hand
    dumped: Any = [item.model_dump() for item in first.output]
    await client.responses.create(model=MODEL, input=[*asked, *dumped, result], tools=[TOOL])
    assert prompt_of(inference).messages == by_hand


async def test_what_was_thought_can_be_sent_back(client: AsyncOpenAI, inference: FakeInference) -> None:
    inference.script = parsed("<think>Hm.</think>Yes.", tools="none", reasoning="think")
    include: Any = ["reasoning.encrypted_content"]
    first = await client.responses.create(
        model=MODEL, input="hi", store=False, include=include, reasoning={"summary": "auto"}
    )
    dumped: Any = [item.model_dump() for item in first.output]
    await client.responses.create(model=MODEL, input=[*dumped, {"role": "user", "content": "so?"}])
    thought = {"reasoning_content": "Hm.", "reasoning": "Hm.", "thinking": "Hm."}
    assert prompt_of(inference).messages[0] == {"role": "assistant", "content": "Yes.", **thought}


async def test_parse(client: AsyncOpenAI, inference: FakeInference) -> None:
    inference.script = say('{"name": ', '"Paris"}')
    response = await client.responses.parse(model=MODEL, input="hi", text_format=City)
    assert response.output_parsed == City(name="Paris")
    grammar = inference.requests[-1].grammar
    assert isinstance(grammar, Grammar)
    assert grammar.kind is GrammarKind.JSON_SCHEMA
    async with client.responses.stream(model=MODEL, input="hi", text_format=City) as stream:
        final = await stream.get_final_response()
    assert final.output_parsed == City(name="Paris")


async def test_count(client: AsyncOpenAI) -> None:
    counted = await client.responses.input_tokens.count(model=MODEL, input="hi")
    assert counted.input_tokens == len("user:hi\n")


async def test_background(client: AsyncOpenAI, inference: FakeInference) -> None:
    inference.script = [*say("Hel")[:1], asyncio.Event()]
    begun = await client.responses.create(model=MODEL, input="hi", background=True)
    assert begun.status == "in_progress"
    assert (await client.responses.cancel(begun.id)).status == "cancelled"
    assert (await client.responses.retrieve(begun.id)).status == "cancelled"


async def test_errors(client: AsyncOpenAI, inference: FakeInference) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        await client.responses.create(model=MODEL, input="hi", conversation="conv_1")
    assert (bad.value.param, bad.value.code) == ("conversation", "unsupported_parameter")
    inference.script = [Delta("par", (1,), 0), Unavailable("the worker is gone")]
    stream = await client.responses.create(model=MODEL, input="hi", stream=True)
    events = [event async for event in stream]
    assert events[-1].type == "response.failed"
    assert events[-1].response.error is not None
    assert events[-1].response.error.message == "the worker is gone"
