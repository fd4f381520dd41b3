"""Answers in llama.cpp's shapes, whole and in parts; `test_rest_llamacpp_recorded` compares them with llama.cpp's."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from engine.errors import InvalidRequest, Overloaded, Unavailable
from frontend.events import Delta, Finish
from tests.frontend.fake_inference import EOS, MAX_CONTEXT, MODEL, FakeInference, say
from tests.frontend.test_rest_app import rest_client

COMPLETION = "/completion"
PROMPT: dict[str, Any] = {"prompt": "hi"}


@pytest.fixture
def inference() -> FakeInference:
    return FakeInference()


@pytest.fixture
async def client(inference: FakeInference) -> AsyncIterator[httpx.AsyncClient]:
    async with rest_client(inference) as client:
        yield client


async def post(client: httpx.AsyncClient, body: dict[str, Any], path: str = COMPLETION) -> Any:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def events(client: httpx.AsyncClient, body: dict[str, Any], path: str = COMPLETION) -> list[Any]:
    response = await client.post(path, json={**body, "stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *parts, end = response.text.split("\n\n")
    assert end == ""
    assert all(part.startswith("data: {") for part in parts)
    return [json.loads(part.removeprefix("data: ")) for part in parts]


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of a response that must be one in llama.cpp's shape."""
    body = response.json()
    assert set(body) == {"error"}
    assert {"code", "message", "type"} <= set(body["error"])
    assert body["error"]["code"] == response.status_code
    return dict(body["error"])


# -- whole answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/completion", "/completions"])
async def test_a_whole_answer(client: httpx.AsyncClient, path: str) -> None:
    answer = await post(client, {**PROMPT, "seed": 5}, path)
    settings, timings = answer.pop("generation_settings"), answer.pop("timings")
    assert answer == {
        "index": 0,
        "content": "Hello!",
        "tokens": [],
        "id_slot": -1,
        "stop": True,
        "model": MODEL,
        "tokens_predicted": 6,
        "tokens_evaluated": 2,
        "prompt": "hi",
        "has_new_line": False,
        "truncated": False,
        "stop_type": "eos",
        "stopping_word": "",
        "tokens_cached": 1,
    }
    assert settings["seed"] == 5
    assert (settings["temperature"], settings["top_k"], settings["top_p"], settings["min_p"]) == (0.8, 40, 0.95, 0.05)
    assert timings["predicted_ms"] > 0
    assert timings["predicted_per_second"] == pytest.approx(6e3 / timings["predicted_ms"])
    del timings["predicted_ms"], timings["predicted_per_second"], timings["predicted_per_token_ms"]
    assert timings == {
        "cache_n": 1,
        "prompt_n": 1,
        "prompt_ms": 10.0,  # what the ledger says of the computing, and not of the waiting
        "prompt_per_token_ms": 10.0,
        "prompt_per_second": 100.0,
        "predicted_n": 6,
    }


@pytest.mark.parametrize(
    ("reason", "matched", "stop_type", "stopping_word"),
    [
        (Finish.STOP, EOS, "eos", ""),
        (Finish.STOP, "end", "word", "end"),
        (Finish.STOP, None, "eos", ""),
        (Finish.LENGTH, None, "limit", ""),
    ],
)
async def test_how_it_ended(reason: Finish, matched: str | int | None, stop_type: str, stopping_word: str) -> None:
    async with rest_client(FakeInference(say("a\nb", reason=reason, matched=matched))) as client:
        whole = await post(client, PROMPT)
        assert (whole["stop_type"], whole["stopping_word"], whole["has_new_line"]) == (stop_type, stopping_word, True)
        *_, last = await events(client, PROMPT)
        assert (last["stop_type"], last["stopping_word"], last["has_new_line"]) == (stop_type, stopping_word, True)


async def test_an_answer_that_fills_the_context_is_truncated() -> None:
    room = MAX_CONTEXT - len(PROMPT["prompt"])
    for num_tokens, truncated in ((room, True), (room - 1, False)):
        async with rest_client(FakeInference(say("x" * num_tokens, reason=Finish.LENGTH, matched=None))) as client:
            assert (await post(client, PROMPT))["truncated"] is truncated


async def test_tokens_on_request(client: httpx.AsyncClient) -> None:
    assert (await post(client, {**PROMPT, "return_tokens": True}))["tokens"] == list(b"Hello!")


async def test_tokens_of_a_prompt_are_told_as_text(client: httpx.AsyncClient) -> None:
    assert (await post(client, {"prompt": [104, "i", 33]}))["prompt"] == "hi!"


async def test_several_answers_are_a_list(client: httpx.AsyncClient, inference: FakeInference) -> None:
    answers = await post(client, {"prompt": ["a", "bc"], "n_cmpl": 2})
    assert [(each["index"], each["prompt"], each["tokens_evaluated"]) for each in answers] == [
        (0, "a", 1),
        (1, "a", 1),
        (2, "bc", 2),
        (3, "bc", 2),
    ]
    seeds = [each["generation_settings"]["seed"] for each in answers]
    assert seeds == [request.seed for request in inference.requests]
    assert isinstance(await post(client, {"prompt": ["a"]}), dict)


async def test_probabilities() -> None:
    async with rest_client(FakeInference(say("h\u00e9"))) as client:
        answer = await post(client, {**PROMPT, "n_probs": 3})
        entries = answer["completion_probabilities"]
        assert entries[0] == {
            "id": 104,
            "token": "h",
            "bytes": [104],
            "logprob": -0.5,
            "top_logprobs": [
                {"id": 104, "token": "h", "bytes": [104], "logprob": -0.5},
                {"id": 105, "token": "i", "bytes": [105], "logprob": -1.5},
                {"id": 103, "token": "g", "bytes": [103], "logprob": -3.4028234663852886e38},
            ],
        }
        assert [(entry["token"], entry["bytes"]) for entry in entries[1:]] == [("", [0xC3]), ("", [0xA9])]
        streamed = await events(client, {**PROMPT, "n_probs": 3})
        assert [entry for event in streamed for entry in event.get("completion_probabilities", ())] == entries
        assert "completion_probabilities" not in await post(client, PROMPT)


async def test_only_the_fields_that_were_asked_for(client: httpx.AsyncClient) -> None:
    paths = ["content", "timings/predicted_n", "generation_settings/speculative.types", "nothing", "content/more"]
    chosen = {"content": "Hello!", "timings/predicted_n": 6, "generation_settings/speculative.types": "none"}
    assert await post(client, {**PROMPT, "response_fields": paths}) == chosen
    *parts, last = await events(client, {**PROMPT, "response_fields": paths})
    assert "".join(part["content"] for part in parts) == "Hello!"
    assert last == {**chosen, "content": ""}


async def test_settings_tell_what_was_done(client: httpx.AsyncClient) -> None:
    body = {
        "n_predict": 9,
        "temperature": 0.5,
        "samplers": ["min_p", "temperature"],
        "repeat_penalty": 1.5,
        "logit_bias": [["ab", False]],
        "stop": "x",
        "grammar": 'root ::= "a"',
        "n_probs": 2,
        "ignore_eos": True,
    }
    settings = (await post(client, {**PROMPT, **body}))["generation_settings"]
    told = {
        "n_predict": 9,
        "max_tokens": 9,
        "temperature": 0.5,
        "samplers": ["min_p", "temperature"],
        "min_p": 0.05,
        "top_k": 0,
        "top_p": 1.0,
        "repeat_penalty": 1.0,
        "logit_bias": [{"token": 97, "bias": -100.0}, {"token": 98, "bias": -100.0}],
        "stop": ["x"],
        "grammar": 'root ::= "a"',
        "n_probs": 2,
        "ignore_eos": True,
        "stream": False,
        "repeat_last_n": -1,
    }
    assert {name: settings[name] for name in told} == told
    assert (await post(client, PROMPT))["generation_settings"]["n_predict"] == -1


# -- streams -----------------------------------------------------------------------------------------------------------


async def test_a_streamed_answer(client: httpx.AsyncClient) -> None:
    *parts, last = await events(client, {**PROMPT, "seed": 5})
    assert parts == [
        {
            "index": 0,
            "content": content,
            "tokens": list(content.encode()),
            "stop": False,
            "id_slot": -1,
            "tokens_predicted": num_tokens,
            "tokens_evaluated": 2,
        }
        for content, num_tokens in (("Hel", 3), ("lo", 5), ("!", 6))
    ]
    whole = await post(client, {**PROMPT, "seed": 5})
    for document in (whole, last):
        del document["timings"]
        assert document["generation_settings"].pop("stream") is (document is last)
    assert last == {**whole, "content": ""}


async def test_several_answers_in_one_stream(client: httpx.AsyncClient) -> None:
    parts = await events(client, {"prompt": ["a", "b"]})
    for index in (0, 1):
        own = [part for part in parts if part["index"] == index]
        assert "".join(part["content"] for part in own) == "Hello!"
        assert [part["stop"] for part in own] == [False, False, False, True]


async def test_a_failure_within_a_stream_ends_it() -> None:
    async with rest_client(FakeInference([Delta("par", (1,), 0), Unavailable("the worker is gone")])) as client:
        first, last = await events(client, PROMPT)
        assert first["content"] == "par"
        assert last == {"error": {"code": 503, "message": "the worker is gone", "type": "unavailable_error"}}


# -- lengths -----------------------------------------------------------------------------------------------------------


async def test_an_answer_is_as_long_as_there_is_room(client: httpx.AsyncClient, inference: FakeInference) -> None:
    await post(client, {**PROMPT, "n_predict": MAX_CONTEXT})
    assert [request.max_tokens for request in inference.requests] == [MAX_CONTEXT, None]
    await post(client, {**PROMPT, "n_predict": MAX_CONTEXT - 2})
    assert inference.requests[-1].max_tokens == MAX_CONTEXT - 2


async def test_a_prompt_without_room_is_refused_with_numbers(client: httpx.AsyncClient) -> None:
    response = await client.post(COMPLETION, json={"prompt": "x" * MAX_CONTEXT})
    assert response.status_code == 400
    error = error_of(response)
    assert error["type"] == "exceed_context_size_error"
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (MAX_CONTEXT, MAX_CONTEXT)


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "kind", "said"),
    [
        ({}, 400, "invalid_request_error", "prompt"),
        ({**PROMPT, "typical_p": 0.5}, 400, "invalid_request_error", "typical_p"),
        ({**PROMPT, "nonsense": 1}, 400, "invalid_request_error", "nonsense"),
        ({**PROMPT, "repeat_penalty": 500}, 400, "invalid_request_error", "repeat_penalty"),
        ({**PROMPT, "n_probs": 21}, 400, "invalid_request_error", "n_probs"),
        ({**PROMPT, "temperature": 3}, 400, "invalid_request_error", "temperature"),
        ({**PROMPT, "logit_bias": [[9999, 1]]}, 400, "invalid_request_error", "logit_bias"),
        ({**PROMPT, "model": "other"}, 404, "not_found_error", "other"),
    ],
)
async def test_refusals_name_what_is_at_fault(
    client: httpx.AsyncClient, body: dict[str, Any], status: int, kind: str, said: str
) -> None:
    for stream in (False, True):
        response = await client.post(COMPLETION, json={**body, "stream": stream})
        error = error_of(response)
        assert (response.status_code, error["type"]) == (status, kind)
        assert said in error["message"]


async def test_errors_of_serving() -> None:
    refusal = InvalidRequest("the grammar cannot be honoured: x", field="grammar")
    inference = FakeInference(scripts=[[Overloaded("full", retry_after_s=2)], [refusal], [ZeroDivisionError("secret")]])
    async with rest_client(inference) as client:
        full = await client.post(COMPLETION, json=PROMPT)
        assert (full.status_code, error_of(full)["type"]) == (429, "unavailable_error")
        assert full.headers["retry-after"] == "2"
        wrong = await client.post(COMPLETION, json={**PROMPT, "json_schema": {}})
        assert error_of(wrong)["message"] == "json_schema: the grammar cannot be honoured: x"
        bug = await client.post(COMPLETION, json=PROMPT)
        assert error_of(bug) == {"code": 500, "message": "internal error", "type": "server_error"}


async def test_the_key_and_methods_are_told_of_in_its_words_too() -> None:
    async with rest_client(FakeInference(), api_key="key") as client:
        response = await client.post(COMPLETION, json=PROMPT)
        assert (response.status_code, error_of(response)["type"]) == (401, "authentication_error")
        response = await client.get(COMPLETION, headers={"authorization": "Bearer key"})
        assert response.status_code == 405
        assert error_of(response)["type"] == "invalid_request_error"
