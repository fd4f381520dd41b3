"""Anthropic's Python client: messages whole and streamed, tools, formats, counting, models, errors."""

import json
from typing import Any, Literal

import anthropic
import pytest
from anthropic import Anthropic, beta_tool
from pydantic import BaseModel
from served import ALIAS, ANSWER, HTTP, MODEL, QUESTION, WEATHER

USER: Any = {"role": "user", "content": QUESTION}
GREEDY: Any = {"model": MODEL, "max_tokens": 100, "messages": [USER]}
GREEDY |= {"extra_body": {"temperature": 0}}  # an argument of older versions
TOOL: Any = {"name": "get_weather", "description": "Now.", "input_schema": WEATHER}


class Place(BaseModel):
    kind: Literal["city", "river"]


@pytest.fixture(scope="module")
def client() -> Anthropic:
    return Anthropic(base_url=HTTP, api_key="none", max_retries=0, timeout=120)


def test_a_message(client: Anthropic) -> None:
    answer = client.messages.create(**GREEDY)
    assert [block.type for block in answer.content] == ["text"]
    assert (answer.content[0].text, answer.stop_reason) == (ANSWER, "end_turn")  # type: ignore[union-attr]
    counted = client.messages.count_tokens(model=MODEL, messages=[USER])
    cached = answer.usage.cache_read_input_tokens or 0
    assert counted.input_tokens == answer.usage.input_tokens + cached
    assert answer._request_id


def test_a_stream(client: Anthropic) -> None:
    with client.messages.stream(**GREEDY) as stream:
        parts = list(stream.text_stream)
        final = stream.get_final_message()
    assert "".join(parts) == ANSWER
    assert len(parts) > 5
    assert final.content[0].text == ANSWER  # type: ignore[union-attr]
    assert final.usage.output_tokens > 10
    kinds = [event.type for event in client.messages.create(**GREEDY, stream=True)]
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])


def test_what_ends_a_message(client: Anthropic) -> None:
    stopped = client.messages.create(**GREEDY, stop_sequences=["nowhere", "phase"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "phase")
    assert stopped.content[0].text == ANSWER[: ANSWER.index("phase")]  # type: ignore[union-attr]
    assert client.messages.create(**{**GREEDY, "max_tokens": 2}).stop_reason == "max_tokens"
    begun = [USER, {"role": "assistant", "content": ANSWER[:10]}]
    assert client.messages.create(**{**GREEDY, "messages": begun}).content[0].text == ANSWER[10:]  # type: ignore[union-attr]


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_tools(client: Anthropic, choice: Any) -> None:
    asked: Any = {**GREEDY, "max_tokens": 300, "tools": [TOOL]}
    asked["tool_choice"] = {**choice, "disable_parallel_tool_use": True}
    answer = client.messages.create(**asked)
    (use,) = [block for block in answer.content if block.type == "tool_use"]
    assert (use.name, set(use.input), answer.stop_reason) == ("get_weather", {"city", "unit"}, "tool_use")  # type: ignore[call-overload]
    with client.messages.stream(**asked) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    assert json.loads("".join(pieces)) == use.input
    assert [block.input for block in final.content if block.type == "tool_use"] == [use.input]
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}]}
    messages: Any = [USER, {"role": "assistant", "content": answer.content}, result]
    after = client.messages.create(model=MODEL, max_tokens=5, messages=messages, tools=[TOOL])
    assert after.usage.output_tokens <= 5


def test_the_loop_that_runs_tools(client: Anthropic) -> None:
    @beta_tool
    def now() -> str:
        """The time."""
        return "noon"

    runner = client.beta.messages.tool_runner(**{**GREEDY, "max_tokens": 40}, tools=[now], max_iterations=2)
    assert runner.until_done().role == "assistant"


def test_a_format(client: Anthropic) -> None:
    answer = client.messages.parse(**GREEDY, output_format=Place)
    assert isinstance(answer.parsed_output, Place)


def test_models(client: Anthropic) -> None:
    assert [model.id for model in client.models.list()] == [MODEL, ALIAS]
    assert client.models.retrieve(MODEL).type == "model"


def test_errors(client: Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(**{**GREEDY, "model": "claude"})
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        client.messages.create(**{**GREEDY, "extra_body": {"temperature": 1.5}})
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
    with pytest.raises(anthropic.BadRequestError, match="image"):
        client.messages.create(**{**GREEDY, "messages": [{"role": "user", "content": [image]}]})
