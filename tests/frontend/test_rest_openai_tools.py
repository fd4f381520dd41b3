"""OpenAI's own client calls tools: it understands what is streamed, and what it sends back is taken."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from frontend.callers import KeyRing
from frontend.request import Chat
from frontend.rest.app import build_app
from tests.frontend.fake_inference import MODEL, FakeInference
from tests.frontend.parsed_script import WEATHER, parsed, split

USER: Any = {"role": "user", "content": "Weather in Paris and Oslo?"}
STRICT: Any = {"type": "function", "function": {**WEATHER["function"], "strict": True}}  # type: ignore[dict-item]
TOOL: Any = WEATHER
CALL = '\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "CITY"}}\n</tool_call>'
TEXT = "".join(CALL.replace("CITY", city) for city in ("Paris", "Oslo"))


@pytest.fixture
def inference() -> FakeInference:
    return FakeInference(parsed(*split("Let me see." + TEXT)))


@pytest.fixture
async def client(inference: FakeInference) -> AsyncIterator[AsyncOpenAI]:
    app = build_app(inference, keys=KeyRing("key"), max_body_bytes=1 << 20, metrics=lambda: b"")
    http_client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app))  # what the client is built on
    async with AsyncOpenAI(api_key="key", base_url="http://test/v1", http_client=http_client, max_retries=0) as client:
        yield client


async def test_a_round_of_calls(client: AsyncOpenAI, inference: FakeInference) -> None:
    answer = await client.chat.completions.create(model=MODEL, messages=[USER], tools=[TOOL], tool_choice="auto")
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    calls: Any = choice.message.tool_calls
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Paris"}, {"city": "Oslo"}]
    results: Any = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in calls]
    said: Any = choice.message
    await client.chat.completions.create(model=MODEL, messages=[USER, said, *results], tools=[TOOL])
    dumped: Any = choice.message.model_dump()
    await client.chat.completions.create(model=MODEL, messages=[USER, dumped, *results], tools=[TOOL])
    for request in inference.requests[1:]:
        assert isinstance(request.prompt, Chat)
        _, called, *answered = request.prompt.messages
        assert called["content"] == "Let me see."
        assert [call["function"]["arguments"] for call in called["tool_calls"]] == [  # type: ignore[attr-defined]
            {"city": "Paris"},
            {"city": "Oslo"},
        ]
        assert [message["tool_call_id"] for message in answered] == [call.id for call in calls]


async def test_streamed_calls(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model=MODEL, messages=[USER], tools=[TOOL], stream=True)
    calls: dict[int, dict[str, Any]] = {}
    content, reasons = "", []
    async for chunk in stream:
        (choice,) = chunk.choices
        content += choice.delta.content or ""
        reasons.append(choice.finish_reason)
        for part in choice.delta.tool_calls or ():
            assert part.function is not None
            if part.index not in calls:
                assert (part.type, part.function.arguments) == ("function", "")
                calls[part.index] = {"id": part.id, "name": part.function.name, "arguments": ""}
            else:
                assert (part.id, part.type, part.function.name) == (None, None, None)
                calls[part.index]["arguments"] += part.function.arguments or ""
    assert content == "Let me see."
    assert list(calls) == [0, 1]
    assert len({call["id"] for call in calls.values()}) == 2
    assert [json.loads(call["arguments"])["city"] for call in calls.values()] == ["Paris", "Oslo"]
    assert reasons == [None] * (len(reasons) - 1) + ["tool_calls"]


async def test_the_clients_own_accumulator_puts_calls_together(client: AsyncOpenAI) -> None:
    done = []
    async with client.chat.completions.stream(model=MODEL, messages=[USER], tools=[STRICT]) as stream:
        async for event in stream:
            if event.type == "tool_calls.function.arguments.done":
                done.append((event.index, event.name, event.parsed_arguments))
        final = await stream.get_final_completion()
    assert done == [(0, "get_weather", {"city": "Paris"}), (1, "get_weather", {"city": "Oslo"})]
    (choice,) = final.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    calls: Any = choice.message.tool_calls
    assert [call.function.parsed_arguments for call in calls] == [{"city": "Paris"}, {"city": "Oslo"}]


async def test_functions(client: AsyncOpenAI) -> None:
    asked: Any = {"model": MODEL, "messages": [USER], "functions": [TOOL["function"]]}
    answer = await client.chat.completions.create(**asked)
    message = answer.choices[0].message
    assert message.function_call is not None
    assert message.function_call.name == "get_weather"
    assert answer.choices[0].finish_reason == "function_call"
    sent: Any = message.model_dump()
    result: Any = {"role": "function", "name": "get_weather", "content": "sunny"}
    await client.chat.completions.create(**{**asked, "messages": [USER, sent, result]})


async def test_reasoning(client: AsyncOpenAI, inference: FakeInference) -> None:
    inference.script = parsed(*split("<think>\nHm.\n</think>\n\nYes."), tools="none", reasoning="think")
    answer = await client.chat.completions.create(model=MODEL, messages=[USER])
    message: Any = answer.choices[0].message
    assert (message.content, message.reasoning_content, message.reasoning) == ("Yes.", "Hm.", "Hm.")
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens
    dumped: Any = message.model_dump()
    await client.chat.completions.create(model=MODEL, messages=[USER, dumped, USER])
    prompt = inference.requests[-1].prompt
    assert isinstance(prompt, Chat)
    assert prompt.messages[1]["reasoning_content"] == "Hm."


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ("required", "tool_calls"),
        ({"type": "function", "function": {"name": "get_weather"}}, "stop"),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "get_weather"}}],
                },
            },
            "tool_calls",
        ),
    ],
)
async def test_calls_that_must_be_made(client: AsyncOpenAI, inference: FakeInference, choice: Any, reason: str) -> None:
    answer = await client.chat.completions.create(model=MODEL, messages=[USER], tools=[TOOL], tool_choice=choice)
    assert answer.choices[0].finish_reason == reason
    assert len(answer.choices[0].message.tool_calls or ()) == 2
    prompt = inference.requests[-1].prompt
    assert isinstance(prompt, Chat)
    assert prompt.demanded == (TOOL,)


async def test_a_choice_that_cannot_be_kept_is_a_bad_request(client: AsyncOpenAI) -> None:
    other: Any = {"type": "function", "function": {"name": "other"}}
    with pytest.raises(openai.BadRequestError) as bad:
        await client.chat.completions.create(model=MODEL, messages=[USER], tools=[TOOL], tool_choice=other)
    assert bad.value.param == "tool_choice"
