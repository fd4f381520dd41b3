"""Ollama's own client against the app: what it sends is taken, and what it gets it understands."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import ollama
import pytest
from ollama import AsyncClient

from engine.errors import Overloaded, Unavailable
from frontend.callers import KeyRing
from frontend.events import Delta
from frontend.request import Chat, Grammar, GrammarKind, TokenPrompt
from frontend.rest.app import build_app
from tests.frontend.fake_inference import MAX_CONTEXT, MODEL
from tests.frontend.fake_ollama import OllamaInference
from tests.frontend.parsed_script import parsed, split
from tests.frontend.test_rest_server import served

USER: Any = {"role": "user", "content": "Weather in Paris and Oslo?"}
CALL = '\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "CITY"}}\n</tool_call>'
TEXT = "Let me see." + "".join(CALL.replace("CITY", city) for city in ("Paris", "Oslo"))


def get_weather(city: str) -> str:
    """Current weather of a city.

    Args:
        city: Its name.
    """
    return f"sunny in {city}"


@pytest.fixture
def inference() -> OllamaInference:
    return OllamaInference()


@pytest.fixture
async def client(inference: OllamaInference) -> AsyncIterator[AsyncClient]:
    app = build_app(inference, keys=KeyRing("key"), max_body_bytes=1 << 20, metrics=lambda: b"")
    transport = httpx.ASGITransport(app)
    async with AsyncClient("http://test", headers={"authorization": "Bearer key"}, transport=transport) as client:
        yield client


async def test_generate(client: AsyncClient) -> None:
    answer = await client.generate(MODEL, "hi", system="Be brief.", options={"seed": 1, "num_gpu": 1}, keep_alive="5m")
    assert answer.response == "Hello!"
    assert (answer.done, answer.done_reason, answer.eval_count, answer.load_duration) == (True, "stop", 6, 0)
    assert answer.total_duration
    more = await client.generate(MODEL, "more", context=answer.context)
    assert more.prompt_eval_count == len(answer.context or ()) + len("user:more\n")
    raw = await client.generate(MODEL, "hi", raw=True)
    assert (raw.prompt_eval_count, raw.context) == (2, None)


async def test_streamed_generate(client: AsyncClient) -> None:
    parts = [part async for part in await client.generate(MODEL, "hi", stream=True)]
    assert [part.response for part in parts] == ["Hel", "lo", "!", ""]
    assert [part.done for part in parts] == [False, False, False, True]
    assert parts[-1].eval_duration is not None


async def test_chat(client: AsyncClient, inference: OllamaInference) -> None:
    options = ollama.Options(temperature=0.25, num_predict=5, stop=["."], num_ctx=2048, repeat_penalty=1.1)
    answer = await client.chat(f"{MODEL}:latest", [USER], options=options, logprobs=True, top_logprobs=2)
    assert answer.message.content == "Hello!"
    assert answer.logprobs is not None
    assert [entry.token for entry in answer.logprobs] == list("Hello!")
    assert [entry.token for entry in answer.logprobs[0].top_logprobs or ()] == ["H", "I"]
    request = inference.requests[0]
    assert (request.model, request.temperature, request.max_tokens, request.stop) == (MODEL, 0.25, 5, (".",))


async def test_streamed_chat(client: AsyncClient) -> None:
    parts = [part async for part in await client.chat(MODEL, [USER], stream=True)]
    assert [part.message.content for part in parts] == ["Hel", "lo", "!", ""]
    assert parts[-1].done_reason == "stop"


async def test_an_answer_can_be_sent_back(client: AsyncClient, inference: OllamaInference) -> None:
    inference.script = parsed(*split("<think>\nHm.\n</think>\n\nYes."), tools="none", reasoning="think")
    answer = await client.chat(MODEL, [USER], think=True)
    assert (answer.message.thinking, answer.message.content) == ("Hm.", "Yes.")
    await client.chat(MODEL, [USER, answer.message, USER], think=False)
    prompt = inference.requests[-1].prompt
    assert isinstance(prompt, Chat)
    assert prompt.messages[1]["reasoning_content"] == "Hm."
    assert prompt.template_kwargs == {"enable_thinking": False}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_round_of_calls(client: AsyncClient, inference: OllamaInference, stream: bool) -> None:
    inference.script = parsed(*split(TEXT))
    messages: list[Any] = [USER]
    asked: Any = await client.chat(MODEL, messages, tools=[get_weather], stream=stream)  # type: ignore[call-overload]
    said = [part.message async for part in asked] if stream else [asked.message]
    assert "".join(message.content or "" for message in said) == "Let me see."
    calls = [call for message in said for call in message.tool_calls or ()]
    assert [(call.function.name, call.function.arguments) for call in calls] == [
        ("get_weather", {"city": "Paris"}),
        ("get_weather", {"city": "Oslo"}),
    ]
    messages.append(ollama.Message(role="assistant", tool_calls=calls))
    messages += [
        {"role": "tool", "tool_name": call.function.name, "content": get_weather(**call.function.arguments)}
        for call in calls
    ]
    await client.chat(MODEL, messages, tools=[get_weather])
    prompt = inference.requests[-1].prompt
    assert isinstance(prompt, Chat)
    (tool,) = prompt.tools
    assert tool["function"]["parameters"]["properties"]["city"]["description"] == "Its name."  # type: ignore[index]
    _, called, *answered = prompt.messages
    assert [message["tool_call_id"] for message in answered] == [
        call["id"]
        for call in called["tool_calls"]  # type: ignore[attr-defined]
    ]
    assert [message["content"] for message in answered] == ["sunny in Paris", "sunny in Oslo"]


async def test_formats(client: AsyncClient, inference: OllamaInference) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    await client.chat(MODEL, [USER], format=schema)
    await client.generate(MODEL, "hi", format="json")
    first, second = (request.grammar for request in inference.requests)
    assert first is not None
    assert json.loads(first.text) == {**schema, "additionalProperties": False}
    assert second == Grammar(GrammarKind.JSON_OBJECT)


async def test_models(client: AsyncClient) -> None:
    (listed,) = (await client.list()).models
    assert listed.model == f"{MODEL}:latest"
    assert listed.size == 1234
    assert listed.modified_at is not None
    (loaded,) = (await client.ps()).models
    assert loaded.expires_at is not None
    shown = await client.show(MODEL)
    assert shown.capabilities == ["completion", "tools", "thinking"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] == 4096
    assert shown.details is not None
    assert shown.details.parameter_size == "4.95M"


async def test_errors_become_the_exception_of_the_client(client: AsyncClient, inference: OllamaInference) -> None:
    async def refused(asking: Any, status: int, words: str) -> None:
        with pytest.raises(ollama.ResponseError, match=words) as caught:
            await asking
        assert caught.value.status_code == status

    await refused(client.chat("other", [USER]), 404, "^model 'other' not found")
    await refused(client.show("other"), 404, "^model 'other' not found")
    await refused(client.chat(MODEL, [USER], options={"temperature": 5}), 400, "^options.temperature must be")
    await refused(client.chat(MODEL, [USER], options={"mirostat": 2}), 400, "^options.mirostat is not supported")
    await refused(client.chat(MODEL, [{**USER, "images": [b"hi"]}]), 400, r"^messages\[0\].images is not supported")
    await refused(client.generate(MODEL, "a", suffix="b"), 400, "^suffix: .* does not support insert")
    await refused(client.embed("other", "hi"), 404, "^model 'other' not found")
    await refused(client.embed(MODEL, ["hi", ""]), 400, "^input: there is no text")
    await refused(client.embed(MODEL, "hi", dimensions=8), 400, "^dimensions is not supported")
    await refused(client.embed(MODEL, "a" * MAX_CONTEXT, truncate=False), 400, "context")
    await refused(client.pull(MODEL), 501, "^/api/pull is not supported")
    await refused(client.push(MODEL), 501, "^/api/push")
    await refused(client.create("mine", from_=MODEL), 501, "^/api/create")
    await refused(client.copy(MODEL, "mine"), 501, "^/api/copy")
    await refused(client.delete(MODEL), 501, "^/api/delete")
    inference.scripts = [[Overloaded("full", retry_after_s=1)], [Unavailable("gone")]]
    await refused(client.chat(MODEL, [USER]), 429, "^full")
    await refused(client.chat(MODEL, [USER]), 503, "^gone")


async def test_a_refused_stream_raises(client: AsyncClient) -> None:
    with pytest.raises(ollama.ResponseError, match="not found") as caught:
        async for _ in await client.chat("other", [USER], stream=True):
            pass
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="/api/pull") as caught:
        async for _ in await client.pull(MODEL, stream=True):
            pass
    assert caught.value.status_code == 501


async def test_a_broken_stream_raises(client: AsyncClient, inference: OllamaInference) -> None:
    inference.script = [Delta("par", (1,), 0), Unavailable("the worker is gone")]
    parts = await client.generate(MODEL, "hi", stream=True)
    assert (await anext(parts)).response == "par"
    with pytest.raises(ollama.ResponseError, match="the worker is gone"):
        await anext(parts)


async def test_over_a_socket(inference: OllamaInference) -> None:
    async with served(inference) as behind, AsyncClient(str(behind.base_url)) as client:
        parts = [part async for part in await client.chat(MODEL, [USER], stream=True)]
        assert "".join(part.message.content or "" for part in parts) == "Hello!"
        assert (await client.chat(MODEL, [USER])).message.content == "Hello!"


async def test_texts_become_vectors(client: AsyncClient, inference: OllamaInference) -> None:
    answer = await client.embed(MODEL, ["hi", "there"])
    assert answer.embeddings == [pytest.approx([0.6, -0.8])] * 2
    assert (answer.model, answer.prompt_eval_count) == (MODEL, 7)
    assert answer.total_duration is not None
    assert answer.total_duration > 0
    await client.embed(MODEL, "a" * (2 * MAX_CONTEXT))
    assert inference.requests[-1].prompt == TokenPrompt((ord("a"),) * (MAX_CONTEXT - 1)), "cut"
    one = await client.embeddings(MODEL, "hi")
    assert one.embedding == [3.0, -4.0], "as it is"
