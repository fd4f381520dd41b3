"""The lines and documents that Ollama's clients read, byte by byte: answers and errors."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import httpx
import pytest

from engine.errors import CODES, Overloaded, TandemError, Unavailable
from frontend.api import Readiness
from frontend.callers import Caller
from frontend.events import CallDelta, Delta, Finish, Finished, Usage
from frontend.request import TokenPrompt
from tests.frontend.fake_inference import EOS, MAX_CONTEXT, MODEL, TIMING, Step, say
from tests.frontend.fake_ollama import OllamaInference, error_of, whole
from tests.frontend.parsed_script import WEATHER, parsed, split
from tests.frontend.test_rest_app import rest_client
from tests.frontend.test_rest_server import Flood, served

GENERATE, CHAT = "/api/generate", "/api/chat"
PROMPT: dict[str, Any] = {"model": MODEL, "prompt": "hi"}
QUESTION: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
BOTH = pytest.mark.parametrize(("path", "body"), [(GENERATE, PROMPT), (CHAT, QUESTION)])
DURATIONS = {"total_duration", "load_duration", "prompt_eval_duration", "eval_duration"}
ARGUMENTS = '{\n"city": "CITY", "n": 12345678901234567890123\n}'
CALL = f'\n<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>'


@pytest.fixture
def inference() -> OllamaInference:
    return OllamaInference()


@pytest.fixture
async def client(inference: OllamaInference) -> AsyncIterator[httpx.AsyncClient]:
    async with rest_client(inference) as client:
        yield client


async def lines(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> list[Any]:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.headers["cache-control"] == "no-cache"
    *given, end = response.text.split("\n")
    assert end == ""
    return [json.loads(line) for line in given]


def timeless(answer: Any) -> Any:
    """Without its durations and its date, which must be what they are called."""
    assert datetime.fromisoformat(answer["created_at"]).utcoffset() is not None
    assert answer["created_at"].endswith("Z")
    times = {name: value for name, value in answer.items() if name in DURATIONS}
    assert all(isinstance(value, int) and value >= 0 for value in times.values())
    return {name: value for name, value in answer.items() if name not in {*DURATIONS, "created_at"}}


# -- answers -----------------------------------------------------------------------------------------------------------


async def test_a_whole_generation(client: httpx.AsyncClient) -> None:
    answer = await whole(client, GENERATE, PROMPT)
    assert set(answer) >= DURATIONS
    assert timeless(answer) == {
        "model": MODEL,
        "response": "Hello!",
        "done": True,
        "done_reason": "stop",
        "context": list(b"user:hi\nHello!"),
        "prompt_eval_count": 8,
        "eval_count": 6,
    }


async def test_a_whole_chat(client: httpx.AsyncClient) -> None:
    answer = await whole(client, CHAT, QUESTION)
    assert timeless(answer) == {
        "model": MODEL,
        "message": {"role": "assistant", "content": "Hello!"},
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 8,
        "eval_count": 6,
    }


async def test_a_streamed_generation(client: httpx.AsyncClient) -> None:
    *parts, last = await lines(client, GENERATE, PROMPT)
    assert list(map(timeless, parts)) == [
        {"model": MODEL, "response": text, "done": False} for text in ("Hel", "lo", "!")
    ]
    assert all(not DURATIONS & set(part) for part in parts)
    assert timeless(last) == {**timeless(await whole(client, GENERATE, PROMPT)), "response": ""}
    assert set(last) >= DURATIONS


async def test_a_streamed_chat(client: httpx.AsyncClient) -> None:
    *parts, last = await lines(client, CHAT, {**QUESTION, "stream": True})
    assert list(map(timeless, parts)) == [
        {"model": MODEL, "message": {"role": "assistant", "content": text}, "done": False}
        for text in ("Hel", "lo", "!")
    ]
    message = {"role": "assistant", "content": ""}
    assert timeless(last) == {**timeless(await whole(client, CHAT, QUESTION)), "message": message}


@BOTH
async def test_durations_are_of_the_answer(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    for answer in (await whole(client, path, body), (await lines(client, path, body))[-1]):
        assert answer["load_duration"] == 0
        assert answer["prompt_eval_duration"] == TIMING.ttft_segments["prefill_compute"] * 1e6
        assert 0 < answer["eval_duration"] < answer["total_duration"]


async def test_lines_arrive_as_they_are_made() -> None:
    more = asyncio.Event()
    inference = OllamaInference([*say("a")[:1], more, *say("b")])
    async with served(inference) as client, client.stream("POST", GENERATE, json=PROMPT) as response:
        texts = response.aiter_lines()
        first = json.loads(await anext(texts))
        assert first["response"] == "a"
        assert not more.is_set()
        more.set()
        rest = [json.loads(line) async for line in texts]
    assert [line["response"] for line in rest] == ["b", ""]
    assert rest[-1]["done"]
    assert inference.idle.is_set()


@BOTH
async def test_an_answer_that_is_cut_says_so(path: str, body: dict[str, Any]) -> None:
    async with rest_client(OllamaInference(say("Hi", reason=Finish.LENGTH, matched=None))) as client:
        assert (await whole(client, path, body))["done_reason"] == "length"
        assert (await lines(client, path, body))[-1]["done_reason"] == "length"


async def test_text_that_json_must_escape() -> None:
    text = 'a"\\\n\r\t\u2028\x00\U0001f600'
    async with rest_client(OllamaInference(say(text, ""))) as client:
        assert [line["response"] for line in await lines(client, GENERATE, PROMPT)] == [text, ""]
        assert (await whole(client, CHAT, QUESTION))["message"]["content"] == text


@BOTH
async def test_the_model_is_called_as_it_was_asked_for(
    client: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    for answer in await lines(client, path, {**body, "model": f"{MODEL}:latest"}):
        assert answer["model"] == f"{MODEL}:latest"


async def test_logprobs() -> None:
    async with rest_client(OllamaInference(say("h\u00e9"))) as client:
        asked = {**QUESTION, "logprobs": True, "top_logprobs": 3}
        logprobs = (await whole(client, CHAT, asked))["logprobs"]
        assert [entry["token"] for entry in logprobs] == ["h", "\ufffd", "\ufffd"]
        assert logprobs[0] == {
            "token": "h",
            "logprob": -0.5,
            "bytes": [104],
            "top_logprobs": [
                {"token": "h", "logprob": -0.5, "bytes": [104]},
                {"token": "i", "logprob": -1.5, "bytes": [105]},
                {"token": "g", "logprob": -9999.0, "bytes": [103]},
            ],
        }
        streamed = await lines(client, CHAT, asked)
        assert [entry for line in streamed for entry in line.get("logprobs", [])] == logprobs
        bare = await whole(client, GENERATE, {**PROMPT, "logprobs": True})
        assert bare["logprobs"][0] == {"token": "h", "logprob": -0.5, "bytes": [104]}
        assert "logprobs" not in await whole(client, GENERATE, PROMPT)


async def test_a_longer_answer_than_there_is_room_for_is_as_long_as_there_is(
    client: httpx.AsyncClient, inference: OllamaInference
) -> None:
    await whole(client, GENERATE, {**PROMPT, "options": {"num_predict": 10 * MAX_CONTEXT}})
    assert [request.max_tokens for request in inference.requests] == [10 * MAX_CONTEXT, None]
    response = await client.post(GENERATE, json={**PROMPT, "prompt": "x" * MAX_CONTEXT})
    assert response.status_code == 400
    assert "prompt has" in error_of(response)


# -- reasoning and calls -----------------------------------------------------------------------------------------------


@BOTH
async def test_thinking_is_told_from_the_answer(path: str, body: dict[str, Any]) -> None:
    script = parsed(*split("<think>\nHm.\n</think>\n\nYes."), tools="none", reasoning="think")
    async with rest_client(OllamaInference(script)) as client:
        answer = await whole(client, path, body)
        streamed = await lines(client, path, body)
    if path == CHAT:
        answer, streamed = answer["message"], [line["message"] for line in streamed]
    text = "response" if path == GENERATE else "content"
    assert (answer["thinking"], answer[text]) == ("Hm.", "Yes.")
    assert "".join(line.get("thinking", "") for line in streamed) == "Hm."
    assert "".join(line[text] for line in streamed) == "Yes."


async def test_calls_are_told_whole() -> None:
    text = "Let me see." + CALL.replace("CITY", "Paris") + CALL.replace("CITY", "Oslo")
    asked = {**QUESTION, "tools": [WEATHER]}
    async with rest_client(OllamaInference(parsed(*split(text)))) as client:
        response = await client.post(CHAT, json={**asked, "stream": False})
        streamed = await lines(client, CHAT, asked)
    assert b'"arguments":{"city":"Paris","n":12345678901234567890123}' in response.content
    answer = response.json()
    assert answer["done_reason"] == "stop"
    message = answer["message"]
    assert message["content"] == "Let me see."
    assert [call["function"]["index"] for call in message["tool_calls"]] == [0, 1]
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["get_weather"] * 2
    assert [call["function"]["arguments"]["city"] for call in message["tool_calls"]] == ["Paris", "Oslo"]
    assert len({call["id"] for call in message["tool_calls"]}) == 2
    told = [line["message"] for line in streamed if "tool_calls" in line["message"]]
    functions = [call["function"] for said in told for call in said["tool_calls"]]
    assert functions == [call["function"] for call in message["tool_calls"]]
    assert len(told) == 2
    assert "".join(line["message"]["content"] for line in streamed) == "Let me see."


@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_that_was_cut_is_text(stream: bool) -> None:
    script = parsed(*split(CALL[:60]), cut=True)
    asked = {**QUESTION, "tools": [WEATHER]}
    async with rest_client(OllamaInference(script)) as client:
        answers = await lines(client, CHAT, asked) if stream else [await whole(client, CHAT, asked)]
    said = "".join(answer["message"]["content"] for answer in answers)
    assert said.startswith('{"name": "get_weather", "arguments": {')
    assert all("tool_calls" not in answer["message"] for answer in answers)
    assert answers[-1]["done_reason"] == "length"


async def test_a_call_without_arguments_has_none() -> None:
    script: list[Step] = [
        Delta("", (1,), 0, calls=(CallDelta(0, "", "id0", "now"),)),
        Delta("", (2,), 1, calls=(CallDelta(1, "[]", "id1", "list"),)),
        Delta("", (3,), 2, calls=(CallDelta(2, "{}", "id2", "then"),)),
        Finished(Finish.TOOL_CALLS, EOS, Usage(0, 3, 0), TIMING),
    ]
    asked = {**QUESTION, "tools": [WEATHER]}
    async with rest_client(OllamaInference(script)) as client:
        message = (await whole(client, CHAT, asked))["message"]
        streamed = [line["message"] for line in await lines(client, CHAT, asked)]
    assert [(call["id"], call["function"]["arguments"]) for call in message["tool_calls"]] == [("id0", {}), ("id2", {})]
    assert message["content"] == '{"name": "list", "arguments": []'
    assert [call["id"] for line in streamed for call in line.get("tool_calls", [])] == ["id0", "id2"]
    assert "".join(line["content"] for line in streamed) == message["content"]


# -- context -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
async def test_a_prompt_goes_on_after_a_context(stream: bool) -> None:
    inference = OllamaInference()
    async with rest_client(inference) as client:
        first = await whole(client, GENERATE, PROMPT)
        asked = {**PROMPT, "prompt": "more", "context": first["context"]}
        last = (await lines(client, GENERATE, asked))[-1] if stream else await whole(client, GENERATE, asked)
    told = list(b"user:hi\nHello!user:more\n")
    assert inference.requests[-1].prompt == TokenPrompt(tuple(told))
    assert last["context"] == told + list(b"Hello!")
    assert last["prompt_eval_count"] == len(told)


async def test_a_raw_prompt_has_no_context(client: httpx.AsyncClient, inference: OllamaInference) -> None:
    assert "context" not in await whole(client, GENERATE, {**PROMPT, "raw": True})
    assert inference.requests[-1].prompt == "hi"


async def test_a_context_of_other_tokens_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post(GENERATE, json={**PROMPT, "context": [1, 9999]})
    assert response.status_code == 400
    assert error_of(response).startswith("context[1] is 9999")


# -- loading -----------------------------------------------------------------------------------------------------------


async def test_loading_is_answered_as_long_as_the_model_is_there(
    client: httpx.AsyncClient, inference: OllamaInference
) -> None:
    loaded = timeless((await client.post(GENERATE, json={"model": MODEL})).json())
    assert loaded == {"model": MODEL, "response": "", "done": True, "done_reason": "load"}
    chat = timeless((await client.post(CHAT, json={"model": MODEL, "messages": []})).json())
    assert chat["message"] == {"role": "assistant", "content": ""}
    assert not inference.requests
    assert (await client.post(GENERATE, json={"model": MODEL, "keep_alive": 0})).status_code == 400
    inference.state = Readiness(False, "no decode worker is ready")
    response = await client.post(GENERATE, json={"model": MODEL})
    assert response.status_code == 503
    assert error_of(response) == "no decode worker is ready"


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("error", [Overloaded("full", retry_after_s=2.2), Unavailable("draining")], ids=["429", "503"])
@BOTH
async def test_what_is_refused_has_its_status(
    path: str, body: dict[str, Any], error: TandemError, stream: bool
) -> None:
    inference = OllamaInference(scripts=[[error]])
    async with rest_client(inference) as client:
        response = await client.post(path, json={**body, "stream": stream})
        assert response.status_code == CODES[type(error)].http
        assert error_of(response) == error.message
        assert response.headers.get("retry-after") == ("3" if isinstance(error, Overloaded) else None)
        assert (await client.post(path, json=body)).status_code == 200


async def test_an_error_names_the_parameter_as_the_client_spells_it(client: httpx.AsyncClient) -> None:
    for options, message in (
        ({"repeat_penalty": 0}, "options.repeat_penalty must be between"),
        ({"temperature": 3}, "options.temperature must be between 0 and 2"),
        ({"stop": [""]}, "options.stop: a stop string"),
    ):
        response = await client.post(CHAT, json={**QUESTION, "options": options})
        assert response.status_code == 400
        assert error_of(response).startswith(message)


@BOTH
async def test_a_failure_after_the_first_line_is_a_line(path: str, body: dict[str, Any]) -> None:
    script: list[Step] = [Delta("par", (1,), 0), Unavailable("the worker is gone")]
    async with rest_client(OllamaInference(script)) as client:
        first, error = await lines(client, path, body)
        assert first["done"] is False
        assert error == {"error": "the worker is gone"}
        response = await client.post(path, json={**body, "stream": False})
        assert response.status_code == 503


async def test_bugs_are_not_shown() -> None:
    async with rest_client(OllamaInference([ZeroDivisionError("secret")])) as client:
        response = await client.post(GENERATE, json=PROMPT)
        assert response.status_code == 500
        assert error_of(response) == "internal error"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff"])
@pytest.mark.parametrize("path", [GENERATE, CHAT, "/api/show"])
async def test_bodies_that_are_none(client: httpx.AsyncClient, path: str, body: bytes) -> None:
    response = await client.post(path, content=body)
    assert response.status_code == 400
    assert "request body" in error_of(response)


async def test_errors_before_an_endpoint_are_ollamas_too(client: httpx.AsyncClient) -> None:
    wrong = await client.get(CHAT)
    assert wrong.status_code == 405
    assert error_of(wrong) == "/api/chat does not take GET"
    assert (await client.post(CHAT, content=bytes(2 << 20))).status_code == 413
    async with rest_client(OllamaInference(), api_key="key") as guarded:
        for path in ("/api/tags", "/api/version"):
            refused = await guarded.get(path)
            assert refused.status_code == 401
            assert "API key" in error_of(refused)
        assert (await guarded.get("/")).status_code == 200


# -- who asks, and hangs up --------------------------------------------------------------------------------------------


async def test_trace_headers_and_caller_are_handed_on(client: httpx.AsyncClient, inference: OllamaInference) -> None:
    response = await client.post(CHAT, json=QUESTION, headers={"traceparent": "00-a-b-01"})
    assert inference.requests[0].trace_headers == {"traceparent": "00-a-b-01"}
    assert inference.requests[0].caller == Caller()
    assert response.headers["x-request-id"] == "req-1"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("begun", [True, False])
@BOTH
async def test_hanging_up_stops_the_work(path: str, body: dict[str, Any], begun: bool, stream: bool) -> None:
    never = asyncio.Event()
    inference = OllamaInference([*say("a")[:1], never] if begun else [never])
    async with served(inference) as client:
        asking = asyncio.create_task(client.post(path, json={**body, "stream": stream}))
        async with asyncio.timeout(20):
            await inference.began.acquire()
            asking.cancel()
            await inference.idle.wait()
        inference.script = say("b")
        assert (await client.post(path, json=body)).status_code == 200


async def test_hanging_up_on_a_flood_stops_it() -> None:
    inference = Flood(say("x" * 1000))
    async with served(inference) as client:
        async with client.stream("POST", GENERATE, json=PROMPT) as response:
            await anext(response.aiter_bytes())
            assert inference.running == 1
        async with asyncio.timeout(20):
            await inference.idle.wait()
