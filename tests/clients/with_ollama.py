"""Ollama's Python client: generate, chat, tools, formats, embeddings, models, and what a server cannot do here."""

import asyncio
import json
from typing import Any

import ollama
import pytest
from ollama import AsyncClient, Client
from served import ALIAS, ANSWER, CAPITAL, HTTP, MODEL, PARIS, QUESTION

USER: Any = {"role": "user", "content": QUESTION}
GREEDY: Any = {"temperature": 0, "num_predict": 100}


@pytest.fixture(scope="module")
def client() -> Client:
    return Client(HTTP, timeout=120)


def test_generate(client: Client) -> None:
    answer = client.generate(MODEL, QUESTION, options=GREEDY)
    assert (answer.response, answer.done, answer.done_reason) == (ANSWER, True, "stop")
    assert answer.eval_count
    assert answer.eval_duration
    more = client.generate(MODEL, CAPITAL, context=answer.context, options=GREEDY)
    assert more.response == PARIS
    raw = client.generate(MODEL, "Once upon", raw=True, options={"num_predict": 3})
    assert (raw.done_reason, raw.eval_count) == ("length", 3)
    parts = list(client.generate(MODEL, QUESTION, stream=True, options=GREEDY))
    assert "".join(part.response for part in parts) == ANSWER
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]


def test_chat(client: Client) -> None:
    answer = client.chat(f"{MODEL}:latest", [USER], options=GREEDY, logprobs=True, top_logprobs=2)
    assert answer.message.content == ANSWER
    assert answer.logprobs is not None
    assert len(answer.logprobs[0].top_logprobs or ()) == 2
    parts = list(client.chat(MODEL, [USER], stream=True, options=GREEDY))
    assert "".join(part.message.content or "" for part in parts) == ANSWER
    stopped = client.chat(MODEL, [USER], options={**GREEDY, "stop": ["phase"]})
    assert stopped.message.content == ANSWER[: ANSWER.index("phase")]
    first = client.chat(MODEL, [USER], options={"seed": 5, "temperature": 2, "num_predict": 10})
    second = client.chat(MODEL, [USER], options={"seed": 5, "temperature": 2, "num_predict": 10})
    assert first.message.content == second.message.content


def test_formats(client: Client) -> None:
    schema: Any = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["n"],
        "additionalProperties": False,
    }
    answer = client.chat(MODEL, [USER], format=schema, options=GREEDY)
    assert 1 <= json.loads(answer.message.content or "")["n"] <= 9


def test_tools(client: Client) -> None:
    def get_weather(city: str) -> str:
        """Weather of a city.

        Args:
            city: Its name.
        """
        return f"sunny in {city}"

    answer = client.chat(MODEL, [USER], tools=[get_weather], options=GREEDY)
    assert answer.message.role == "assistant"
    called: Any = [{"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}]
    messages: Any = [
        USER,
        {"role": "assistant", "content": "", "tool_calls": called},
        {"role": "tool", "tool_name": "get_weather", "content": "sunny"},
    ]
    assert client.chat(MODEL, messages, tools=[get_weather], options=GREEDY).done


def test_embeddings(client: Client) -> None:
    both = client.embed(MODEL, ["a cat", "a dog"])
    assert len(both.embeddings) == 2
    assert sum(value * value for value in both.embeddings[0]) == pytest.approx(1, abs=1e-4)
    old = client.embeddings(MODEL, "a cat")
    assert len(old.embedding) == len(both.embeddings[0])


def test_models(client: Client) -> None:
    assert [model.model for model in client.list().models] == [f"{name}:latest" for name in (MODEL, ALIAS)]
    assert [model.model for model in client.ps().models] == [f"{name}:latest" for name in (MODEL, ALIAS)]
    shown = client.show(MODEL)
    assert shown.details is not None
    assert shown.details.family == "llama"
    assert "completion" in (shown.capabilities or [])


def test_errors(client: Client) -> None:
    with pytest.raises(ollama.ResponseError) as unknown:
        client.chat("llama3", [USER])
    assert unknown.value.status_code == 404
    for refused in (lambda: client.pull("llama3"), lambda: client.copy(MODEL, "x"), lambda: client.delete(MODEL)):
        with pytest.raises(ollama.ResponseError) as failure:
            refused()
        assert failure.value.status_code == 501
    with pytest.raises(ollama.ResponseError, match="mirostat"):
        client.chat(MODEL, [USER], options={"mirostat": 2})


async def _streamed() -> str:
    text = ""
    async for part in await AsyncClient(HTTP).chat(MODEL, [USER], stream=True, options=GREEDY):
        text += part.message.content or ""
    return text


def test_asyncio() -> None:
    assert asyncio.run(_streamed()) == ANSWER
