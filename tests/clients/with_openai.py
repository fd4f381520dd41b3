"""OpenAI's Python client: chat, completions, embeddings, models, responses, and what they refuse."""

import asyncio
import json
import time
from typing import Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, Field
from served import ALIAS, ANSWER, CAPITAL, HTTP, MODEL, PARIS, QUESTION, WEATHER

USER: Any = {"role": "user", "content": QUESTION}
TOOL: Any = {"type": "function", "function": {"name": "get_weather", "description": "Now.", "parameters": WEATHER}}
GREEDY: Any = {"model": MODEL, "messages": [USER], "temperature": 0}


class Place(BaseModel):
    kind: Literal["city", "river"]
    name: str = Field(max_length=20)


@pytest.fixture(scope="module")
def client() -> OpenAI:
    return OpenAI(base_url=f"{HTTP}/v1", api_key="none", max_retries=0, timeout=120)


# -- chat --------------------------------------------------------------------------------------------------------------


def test_an_answer(client: OpenAI) -> None:
    answer = client.chat.completions.create(**GREEDY, user="ann", metadata={"a": "b"}, service_tier="auto")
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", ANSWER, "stop")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details is not None
    assert (answer.object, answer.model) == ("chat.completion", MODEL)


def test_a_stream(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(**GREEDY, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ANSWER
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 10
    assert sum(1 for chunk in chunks if chunk.choices and chunk.choices[0].delta.content) > 5, "it comes in parts"


def test_several_seeded_choices_are_distinct_and_the_same_again(client: OpenAI) -> None:
    asked: Any = {**GREEDY, "temperature": 2, "n": 3, "seed": 7, "max_completion_tokens": 20}
    first, second = (client.chat.completions.create(**asked) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    assert len(set(texts)) == 3
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts


def test_logprobs_and_bias(client: OpenAI) -> None:
    answer = client.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=3, max_tokens=5)
    (choice,) = answer.choices
    assert choice.finish_reason == "length"
    assert choice.logprobs is not None
    entries = choice.logprobs.content or []
    assert len(entries) == 5
    assert all(entry.top_logprobs[0].token == entry.token and len(entry.top_logprobs) == 3 for entry in entries)
    assert b"".join(bytes(entry.bytes or []) for entry in entries).decode() == choice.message.content
    tokens = client.completions.create(model=MODEL, prompt="x", extra_body={"return_token_ids": True}, max_tokens=1)
    banned = tokens.choices[0].token_ids[0]  # type: ignore[attr-defined] # vLLM's
    other = client.completions.create(
        model=MODEL, prompt="x", max_tokens=1, logit_bias={str(banned): -100}, extra_body={"return_token_ids": True}
    )
    assert other.choices[0].token_ids[0] != banned  # type: ignore[attr-defined]


@pytest.mark.parametrize("stop", ["phase", ["nowhere", "phase"]])
def test_stops(client: OpenAI, stop: Any) -> None:
    answer = client.chat.completions.create(**GREEDY, stop=stop)
    assert answer.choices[0].message.content == ANSWER[: ANSWER.index("phase")]
    assert client.chat.completions.create(**GREEDY, stop=None).choices[0].message.content == ANSWER


def test_formats(client: OpenAI) -> None:
    parsed = client.chat.completions.parse(**GREEDY, response_format=Place)
    assert isinstance(parsed.choices[0].message.parsed, Place)
    anything = client.chat.completions.create(**{**GREEDY, "max_tokens": 200}, response_format={"type": "json_object"})
    if anything.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(anything.choices[0].message.content or ""), dict)
    choice = client.chat.completions.create(**GREEDY, extra_body={"structured_outputs": {"choice": ["yes", "no"]}})
    assert choice.choices[0].message.content in ("yes", "no")
    with client.chat.completions.stream(**GREEDY, response_format=Place) as stream:
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Place)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_tools(client: OpenAI, choice: Any) -> None:
    asked: Any = {**GREEDY, "tools": [TOOL], "tool_choice": choice, "parallel_tool_calls": False}
    answer = client.chat.completions.create(**asked).choices[0]
    (call,) = answer.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert set(json.loads(call.function.arguments)) == {"city", "unit"}
    assert answer.finish_reason == ("tool_calls" if choice == "required" else "stop")

    with client.chat.completions.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_completion().choices[0].message.tool_calls or []
    assert [each.function for each in streamed][0].arguments == call.function.arguments
    assert "tool_calls.function.arguments.delta" in kinds

    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    messages: Any = [USER, answer.message, result]
    after = client.chat.completions.create(model=MODEL, messages=messages, tools=[TOOL], max_tokens=5)
    assert after.usage is not None
    assert after.usage.completion_tokens <= 5


def test_functions_as_they_were(client: OpenAI) -> None:
    function: Any = TOOL["function"]
    answer = client.chat.completions.create(
        **GREEDY, functions=[function], function_call={"name": "get_weather"}
    ).choices[0]
    assert answer.message.function_call is not None
    assert set(json.loads(answer.message.function_call.arguments)) == {"city", "unit"}


def test_parts_of_text_are_taken_and_images_refused_by_their_place(client: OpenAI) -> None:
    parts: Any = [{"type": "text", "text": QUESTION}]
    answer = client.chat.completions.create(**{**GREEDY, "messages": [{"role": "user", "content": parts}]})
    assert answer.choices[0].message.content == ANSWER
    image: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    with pytest.raises(openai.BadRequestError) as failure:
        client.chat.completions.create(**{**GREEDY, "messages": [{"role": "user", "content": [*parts, image]}]})
    assert failure.value.param is not None
    assert failure.value.param.startswith("messages[0].content[1]")


# -- completions, embeddings, models -----------------------------------------------------------------------------------


def test_completions_of_every_kind_of_prompt(client: OpenAI) -> None:
    text = "Once upon a time"
    ids = client.post("/../tokenize", body={"model": MODEL, "prompt": text}, cast_to=object)["tokens"]  # type: ignore[index]
    asked: Any = {"model": MODEL, "temperature": 0, "max_tokens": 8}
    (alone,) = client.completions.create(**asked, prompt=text).choices
    for prompt in ([text], ids, [ids]):
        assert client.completions.create(**asked, prompt=prompt).choices[0].text == alone.text
    both = client.completions.create(**asked, prompt=[text, text], n=2)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert {choice.text for choice in both.choices} == {alone.text}
    assert client.completions.create(**asked, prompt=text, echo=True).choices[0].text == text + alone.text
    chunks = list(client.completions.create(**asked, prompt=text, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == alone.text
    logprobs = client.completions.create(**asked, prompt=text, logprobs=2).choices[0].logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or []) == alone.text


def test_embeddings(client: OpenAI) -> None:
    base64 = client.embeddings.create(model=MODEL, input=["a cat", "a dog"])  # which the client asks for by itself
    floats = client.embeddings.create(model=MODEL, input=["a cat", "a dog"], encoding_format="float")
    for one, other in zip(base64.data, floats.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert sum(value * value for value in one.embedding) == pytest.approx(1, abs=1e-4)
    assert [row.index for row in base64.data] == [0, 1]


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL, ALIAS]
    assert client.models.retrieve(MODEL).object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


# -- responses ---------------------------------------------------------------------------------------------------------


def test_responses(client: OpenAI) -> None:
    first = client.responses.create(model=MODEL, input=QUESTION, temperature=0)
    assert (first.output_text, first.status) == (ANSWER, "completed")
    second = client.responses.create(model=MODEL, input=CAPITAL, temperature=0, previous_response_id=first.id)
    assert second.output_text == PARIS
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens
    assert client.responses.retrieve(first.id).output_text == ANSWER
    counted = client.responses.input_tokens.count(model=MODEL, input=QUESTION)
    assert counted.input_tokens == first.usage.input_tokens
    items = list(client.responses.input_items.list(first.id))
    assert len(items) == 1
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    short = client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=3)
    assert short.status == "incomplete"


def test_streamed_and_parsed_responses(client: OpenAI) -> None:
    with client.responses.stream(model=MODEL, input=QUESTION, temperature=0) as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output_text == ANSWER
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    parsed = client.responses.parse(model=MODEL, input=QUESTION, text_format=Place)
    assert isinstance(parsed.output_parsed, Place)


def test_tools_of_responses(client: OpenAI) -> None:
    tool: Any = {"type": "function", **TOOL["function"], "strict": True}
    asked: Any = {"model": MODEL, "tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
    first = client.responses.create(**asked, input=QUESTION)
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert set(json.loads(call.arguments)) == {"city", "unit"}
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    second = client.responses.create(
        model=MODEL, tools=[tool], input=[result], previous_response_id=first.id, max_output_tokens=5
    )
    assert second.previous_response_id == first.id


def test_responses_in_the_background(client: OpenAI) -> None:
    begun = client.responses.create(model=MODEL, input=QUESTION, background=True, temperature=0)
    deadline = time.monotonic() + 60
    while (now := client.responses.retrieve(begun.id)).status in ("queued", "in_progress"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (now.status, now.output_text) == ("completed", ANSWER)


# -- errors, headers, asyncio ------------------------------------------------------------------------------------------


def test_errors(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(**{**GREEDY, "model": "gpt"})
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(**{**GREEDY, "temperature": 3})
    assert (bad.value.param, bad.value.type) == ("temperature", "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(**{**GREEDY, "messages": [{"role": "user", "content": "word " * 9000}]})
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as off:
        client.chat.completions.create(**GREEDY, audio={"voice": "x", "format": "wav"})
    assert off.value.param == "audio"


def test_headers(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(**GREEDY, extra_headers={"x-tandem-timing": "1"})
    assert raw.request_id
    assert raw.parse().timing["ttft_ms"] > 0  # type: ignore[attr-defined] # not OpenAI's


async def _together() -> list[str | None]:
    async with AsyncOpenAI(base_url=f"{HTTP}/v1", api_key="none", max_retries=0, timeout=120) as client:
        asked = [client.chat.completions.create(**GREEDY) for _ in range(8)]
        return [answer.choices[0].message.content for answer in await asyncio.gather(*asked)]


def test_many_at_once() -> None:
    assert asyncio.run(_together()) == [ANSWER] * 8
