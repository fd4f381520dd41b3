"""Anthropic's own client against the app: what it sends is taken, and what it gets it understands."""

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx2
import pydantic
import pytest
from anthropic import AsyncAnthropic, Omit

from engine.errors import Overloaded, PermissionDenied, Unavailable
from frontend.callers import KeyRing
from frontend.events import Delta, Finish
from frontend.request import Chat
from frontend.rest.app import build_app
from tests.frontend.fake_inference import MODEL, FakeInference, say
from tests.frontend.parsed_script import WEATHER, parsed, split

USER: Any = {"role": "user", "content": "Weather in Paris and Oslo?"}
SCHEMA: Any = WEATHER["function"]["parameters"]  # type: ignore[index]
TOOL: Any = {"name": "get_weather", "description": "Current weather of a city.", "input_schema": SCHEMA}
CALL = '\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "CITY"}}\n</tool_call>'
CALLS = "Let me see." + "".join(CALL.replace("CITY", city) for city in ("Paris", "Oslo"))
THINKING: Any = {"type": "enabled", "budget_tokens": 1024}
ASKED: Any = {"model": MODEL, "max_tokens": 2000, "messages": [USER]}


@pytest.fixture
def inference() -> FakeInference:
    return FakeInference()


@pytest.fixture
async def client(inference: FakeInference) -> AsyncIterator[AsyncAnthropic]:
    app = build_app(inference, keys=KeyRing("key"), max_body_bytes=1 << 20, metrics=lambda: b"")
    http_client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app))  # what the client is built on
    async with AsyncAnthropic(api_key="key", base_url="http://test", http_client=http_client, max_retries=0) as client:
        yield client


def messages_of(inference: FakeInference) -> Any:
    """Of the last request, as the template sees them."""
    prompt = inference.requests[-1].prompt
    assert isinstance(prompt, Chat)
    return prompt.messages


async def test_a_message(client: AsyncAnthropic, inference: FakeInference) -> None:
    answer = await client.messages.create(
        **ASKED,
        system=[{"type": "text", "text": "be nice", "cache_control": {"type": "ephemeral"}}],
        stop_sequences=["END"],
        metadata={"user_id": "ann"},
        service_tier="auto",
        extra_body={"temperature": 0.5, "top_p": 0.9, "top_k": 5},  # arguments of older versions
    )
    (block,) = answer.content
    assert (block.type, block.text) == ("text", "Hello!")
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", MODEL)
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    assert (answer.usage.input_tokens, answer.usage.cache_read_input_tokens, answer.usage.output_tokens) == (46, 1, 6)
    assert answer._request_id == "req-1"
    request = inference.requests[0]
    assert (request.temperature, request.top_p, request.top_k, request.stop) == (0.5, 0.9, 5, ("END",))
    assert messages_of(inference) == ({"role": "system", "content": "be nice"}, USER)


async def test_an_answer_can_be_sent_back(client: AsyncAnthropic, inference: FakeInference) -> None:
    answer = await client.messages.create(**ASKED)
    for said in (answer.content, [block.model_dump() for block in answer.content], answer.to_param()["content"]):
        turns: Any = [USER, {"role": "assistant", "content": said}, USER]
        await client.messages.create(**{**ASKED, "messages": turns})
        assert messages_of(inference)[1] == {"role": "assistant", "content": "Hello!"}


async def test_raw_events(client: AsyncAnthropic) -> None:
    stream = await client.messages.create(**ASKED, stream=True)
    events = [event async for event in stream]
    deltas: Any = [event.delta for event in events if event.type == "content_block_delta"]
    assert "".join(delta.text for delta in deltas) == "Hello!"
    assert events[0].type == "message_start"
    assert events[0].message.usage.input_tokens == 32
    assert events[-1].type == "message_stop"
    assert events[-2].type == "message_delta"
    assert events[-2].usage.output_tokens == 6


async def test_a_streamed_message(client: AsyncAnthropic, inference: FakeInference) -> None:
    inference.script = say("Hel", "lo", matched="END")
    async with client.messages.stream(**ASKED, stop_sequences=["END"]) as stream:
        assert [text async for text in stream.text_stream] == ["Hel", "lo"]
        final = await stream.get_final_message()
    assert (final.stop_reason, final.stop_sequence) == ("stop_sequence", "END")
    whole = await client.messages.create(**ASKED, stop_sequences=["END"])
    assert final.content[0].text == whole.content[0].text == "Hello"  # type: ignore[union-attr]
    assert final.usage == whole.usage
    assert stream.request_id == "req-1"


async def test_a_round_of_tools(client: AsyncAnthropic, inference: FakeInference) -> None:
    inference.script = parsed(*split(CALLS))
    answer = await client.messages.create(**ASKED, tools=[TOOL], tool_choice={"type": "auto"})
    blocks: Any = answer.content
    assert [block.type for block in blocks] == ["text", "tool_use", "tool_use"]
    assert blocks[0].text == "Let me see."
    assert [use.input for use in blocks[1:]] == [{"city": "Paris"}, {"city": "Oslo"}]
    assert answer.stop_reason == "tool_use"
    results: Any = [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"} for use in blocks[1:]]
    for content in (answer.content, [block.model_dump() for block in answer.content]):
        turns: Any = [USER, {"role": "assistant", "content": content}, {"role": "user", "content": results}]
        await client.messages.create(**{**ASKED, "messages": turns}, tools=[TOOL])
        _, called, *answered = messages_of(inference)
        assert called["content"] == "Let me see."
        assert [call["function"]["arguments"]["city"] for call in called["tool_calls"]] == ["Paris", "Oslo"]
        assert [message["tool_call_id"] for message in answered] == [call["id"] for call in called["tool_calls"]]


async def test_streamed_tools(client: AsyncAnthropic, inference: FakeInference) -> None:
    inference.script = parsed(*split(CALLS))
    inputs = []
    async with client.messages.stream(**ASKED, tools=[TOOL]) as stream:
        async for event in stream:
            if event.type == "content_block_stop" and event.content_block.type == "tool_use":
                inputs.append(event.content_block.input)
        final = await stream.get_final_message()
    assert inputs == [{"city": "Paris"}, {"city": "Oslo"}]
    assert [block.type for block in final.content] == ["text", "tool_use", "tool_use"]
    assert final.stop_reason == "tool_use"


async def test_the_clients_own_loop_runs_tools(client: AsyncAnthropic, inference: FakeInference) -> None:
    asked = []

    @anthropic.beta_async_tool
    async def get_weather(city: str) -> str:
        """Current weather of a city.

        Args:
            city: Which one.
        """
        asked.append(city)
        if city == "Oslo":
            raise ValueError("no such city")
        return "sunny"

    inference.scripts = [parsed(*split(CALLS)), say("Sunny in Paris.")]
    runner = client.beta.messages.tool_runner(**ASKED, tools=[get_weather])
    final = await runner.until_done()
    assert asked == ["Paris", "Oslo"]
    assert final.content[0].text == "Sunny in Paris."  # type: ignore[union-attr]
    paris, oslo = messages_of(inference)[-2:]
    assert (paris["role"], paris["content"]) == ("tool", "sunny")
    assert oslo["content"].startswith("Error: ")
    assert "no such city" in oslo["content"]


async def test_thinking(client: AsyncAnthropic, inference: FakeInference) -> None:
    inference.script = parsed(*split("<think>\nHm.\n</think>\n\nYes."), tools="none", reasoning="think")
    answer = await client.messages.create(**ASKED, thinking=THINKING)
    blocks: Any = answer.content
    thinking, text = blocks
    assert (thinking.type, thinking.thinking, text.type, text.text) == ("thinking", "Hm.", "text", "Yes.")
    assert answer.usage.output_tokens_details is not None
    assert answer.usage.output_tokens_details.thinking_tokens
    async with client.messages.stream(**ASKED, thinking=THINKING) as stream:
        final = await stream.get_final_message()
    assert final.content[0].model_dump() == thinking.model_dump()
    turns: Any = [USER, {"role": "assistant", "content": answer.content}, USER]
    await client.messages.create(**{**ASKED, "messages": turns}, thinking={"type": "disabled"})
    assert messages_of(inference)[1]["thinking"] == "Hm."


class Weather(pydantic.BaseModel):
    city: str
    degrees: int


async def test_an_answer_in_a_format(client: AsyncAnthropic, inference: FakeInference) -> None:
    inference.script = say('{"city": "Paris", ', '"degrees": 20}')
    answer = await client.messages.parse(**ASKED, output_format=Weather)
    assert answer.parsed_output == Weather(city="Paris", degrees=20)
    grammar = inference.requests[0].grammar
    assert grammar is not None
    assert '"degrees"' in grammar.text
    assert answer.to_param()["content"]
    turns: Any = [USER, {"role": "assistant", "content": answer.content}, USER]
    await client.messages.create(**{**ASKED, "messages": turns})


async def test_tokens_are_counted(client: AsyncAnthropic) -> None:
    count = await client.messages.count_tokens(
        model=MODEL, messages=[USER], system="be nice", tools=[TOOL], thinking=THINKING
    )
    answer = await client.messages.create(**ASKED, system="be nice")
    used = answer.usage
    assert count.input_tokens == used.input_tokens + (used.cache_read_input_tokens or 0)


async def test_models(client: AsyncAnthropic) -> None:
    assert [model.id async for model in client.models.list()] == [MODEL]
    model = await client.models.retrieve(MODEL)
    assert (model.type, model.display_name, model.created_at.year) == ("model", MODEL, 2023)
    with pytest.raises(anthropic.NotFoundError) as missing:
        await client.models.retrieve("other")
    assert missing.value.type == "not_found_error"


async def test_betas_go_the_same_way(client: AsyncAnthropic) -> None:
    answer = await client.beta.messages.create(**ASKED, betas=["context-1m-2025-08-07"])
    assert answer.content[0].text == "Hello!"  # type: ignore[union-attr]
    counted = await client.beta.messages.count_tokens(model=MODEL, messages=[USER])
    assert counted.input_tokens == 32


async def test_errors_become_the_exceptions_of_the_client(client: AsyncAnthropic, inference: FakeInference) -> None:
    async def ask(**fields: Any) -> None:
        await client.messages.create(**{**ASKED, **fields})

    with pytest.raises(anthropic.BadRequestError) as bad:
        await ask(extra_body={"temperature": 1.5})
    assert bad.value.type == "invalid_request_error"
    assert "temperature" in str(bad.value.api_message)
    assert bad.value.request_id == bad.value.body["request_id"]  # type: ignore[index]
    with pytest.raises(anthropic.BadRequestError, match="image"):
        await ask(messages=[{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "x"}}]}])
    with pytest.raises(anthropic.NotFoundError):
        await ask(model="other")
    with pytest.raises(anthropic.NotFoundError):
        await client.messages.batches.create(requests=[])
    with pytest.raises(anthropic.AuthenticationError):
        await client.with_options(api_key="other").models.list()
    with pytest.raises(anthropic.RequestTooLargeError) as large:
        await ask(system="x" * (1 << 20))
    assert large.value.type == "request_too_large"
    inference.scripts = [
        [Overloaded("full", retry_after_s=1)],
        [PermissionDenied("not yours")],
        [Unavailable("gone")],
        [ZeroDivisionError()],
    ]
    with pytest.raises(anthropic.RateLimitError):
        await ask()
    with pytest.raises(anthropic.PermissionDeniedError):
        await ask()
    with pytest.raises(anthropic.InternalServerError) as gone:
        await ask()
    assert gone.value.type == "overloaded_error"
    with pytest.raises(anthropic.InternalServerError) as bug:
        await ask()
    assert bug.value.type == "api_error"


async def test_a_broken_stream_raises(client: AsyncAnthropic, inference: FakeInference) -> None:
    inference.script = [Delta("par", (1,), 0), Unavailable("the worker is gone")]
    with pytest.raises(anthropic.APIStatusError, match="the worker is gone") as broken:
        async with client.messages.stream(**ASKED) as stream:
            await stream.until_done()
    assert broken.value.type == "overloaded_error"


async def test_an_answer_that_is_cut(client: AsyncAnthropic, inference: FakeInference) -> None:
    inference.script = say("x" * 2000, reason=Finish.LENGTH, matched=None)
    assert (await client.messages.create(**ASKED)).stop_reason == "max_tokens"
    inference.script = parsed(CALLS[:-20], cut=True)
    async with client.messages.stream(**{**ASKED, "max_tokens": 5}, tools=[TOOL]) as stream:
        final = await stream.get_final_message()
    assert final.stop_reason == "max_tokens"
    assert [block.type for block in final.content] == ["text", "tool_use", "tool_use"]


@pytest.mark.parametrize(
    ("headers", "is_taken"),
    [
        ({"Authorization": Omit(), "X-Api-Key": "key"}, True),  # as older versions of the client do
        ({"Authorization": Omit(), "X-Api-Key": "other"}, False),
        ({"X-Api-Key": "other"}, True),
        ({"Authorization": "Bearer other", "X-Api-Key": "key"}, False),
    ],
)
async def test_the_key_may_be_in_either_header(client: AsyncAnthropic, headers: Any, is_taken: bool) -> None:
    if is_taken:
        await client.messages.create(**ASKED, extra_headers=headers)
        return
    with pytest.raises(anthropic.AuthenticationError):
        await client.messages.create(**ASKED, extra_headers=headers)
