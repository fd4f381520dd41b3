"""/tokenize and /detokenize in each server's JSON, and what else vLLM's clients look for."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from engine.version import VERSION
from frontend.api import Readiness
from frontend.rest.app import dialects_of
from frontend.rest.openapi import openapi_document
from tests.frontend.fake_inference import EOS, MAX_CONTEXT, MODEL, FakeInference
from tests.frontend.test_rest_app import error_of, rest_client
from tests.frontend.test_rest_server import served

USER = {"role": "user", "content": "hi"}
CHAT_TOKENS = list(b"user:hi\n")


@pytest.fixture
def inference() -> FakeInference:
    return FakeInference()


@pytest.fixture
async def client(inference: FakeInference) -> AsyncIterator[httpx.AsyncClient]:
    async with rest_client(inference) as client:
        yield client


async def tokenized(client: httpx.AsyncClient, **body: object) -> Any:
    response = await client.post("/tokenize", json=body)
    assert response.status_code == 200, response.text
    return response.json()


# -- /tokenize ---------------------------------------------------------------------------------------------------------


async def test_a_prompt_is_answered_as_vllm_does(client: httpx.AsyncClient) -> None:
    expected = {"count": 2, "max_model_len": MAX_CONTEXT, "tokens": [104, 105], "token_strs": None}
    assert await tokenized(client, prompt="hi") == expected
    assert await tokenized(client, prompt="hi", model=MODEL, add_special_tokens=False) == expected
    words = await tokenized(client, prompt="hi", return_token_strs=True)
    assert words == {**expected, "token_strs": ["<68>", "<69>"]}
    assert (await tokenized(client, prompt=""))["tokens"] == []


async def test_messages_are_answered_as_vllm_does(client: httpx.AsyncClient) -> None:
    answer = await tokenized(client, messages=[USER], model=MODEL, chat_template_kwargs={"a": 2**70}, tools=None)
    assert answer == {"count": 8, "max_model_len": MAX_CONTEXT, "tokens": CHAT_TOKENS, "token_strs": None}
    special = await tokenized(client, messages=[USER], add_special_tokens=True, return_token_strs=True)
    assert special["tokens"] == [EOS, *CHAT_TOKENS]
    assert special["token_strs"][0] == "</s>"


async def test_content_is_answered_as_llama_cpp_does(client: httpx.AsyncClient) -> None:
    assert await tokenized(client, content="hi") == {"tokens": [104, 105]}
    assert await tokenized(client, content="hi", add_special=True, parse_special=True) == {"tokens": [104, 105]}
    pieces = await tokenized(client, content="hé", with_pieces=True)
    expected = [{"id": 104, "piece": "h"}, {"id": 0xC3, "piece": [0xC3]}, {"id": 0xA9, "piece": [0xA9]}]
    assert pieces == {"tokens": expected}


async def test_inputs_are_answered_as_tgi_does(client: httpx.AsyncClient) -> None:
    added = {"id": EOS, "text": "", "start": 0, "stop": 0}
    ascii_only = await tokenized(client, inputs="hi")
    assert ascii_only == [
        {"id": 104, "text": "h", "start": 0, "stop": 1},
        {"id": 105, "text": "i", "start": 1, "stop": 2},
        added,
    ]
    assert await tokenized(client, inputs="é!", parameters={}) == [
        {"id": 0xC3, "text": "é", "start": 0, "stop": 2},
        {"id": 0xA9, "text": "é", "start": 0, "stop": 2},
        {"id": 33, "text": "!", "start": 2, "stop": 3},
        added,
    ]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, None),
        ({"text": "hi"}, None),
        ({"prompt": None}, None),
        ({"prompt": "hi", "content": "hi"}, "content"),
        ({"prompt": "hi", "add_special": True}, "add_special"),
        ({"prompt": ["hi"]}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"content": "hi", "add_special_tokens": True}, "add_special_tokens"),
        ({"content": "hi", "parse_special": False}, "parse_special"),
        ({"content": ["hi"]}, "content"),
        ({"messages": []}, "messages"),
        ({"messages": [USER], "chat_template": "{{ messages }}"}, "chat_template"),
        ({"messages": [USER], "temperature": 1}, "temperature"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [USER], "continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
        ),
    ],
)
async def test_what_is_wrong_is_named(client: httpx.AsyncClient, body: dict[str, object], named: str | None) -> None:
    response = await client.post("/tokenize", json=body)
    assert response.status_code == 400
    assert error_of(response)["param"] == named


@pytest.mark.parametrize(
    "body", [{"inputs": 5}, {"inputs": "hi", "parameters": {"truncate": 5}}, {"inputs": "a", "x": 1}]
)
async def test_what_is_wrong_with_inputs_is_said_in_tgis_words(
    client: httpx.AsyncClient, body: dict[str, object]
) -> None:
    response = await client.post("/tokenize", json=body)
    assert response.status_code == 422
    assert response.json().keys() == {"error", "error_type"}
    assert (await client.post("/tokenize", json={"prompt": 5})).status_code == 400


@pytest.mark.parametrize("shape", [{"prompt": "hi"}, {"messages": [USER]}, {"content": "hi"}])
async def test_other_models_are_not_found(client: httpx.AsyncClient, shape: dict[str, object]) -> None:
    response = await client.post("/tokenize", json={**shape, "model": "other"})
    assert response.status_code == 404
    assert error_of(response)["code"] == "model_not_found"


# -- /detokenize -------------------------------------------------------------------------------------------------------


async def test_the_text_of_tokens_has_every_servers_name(client: httpx.AsyncClient) -> None:
    response = await client.post(
        "/detokenize", json={"tokens": [104, 105], "model": MODEL, "skip_special_tokens": True}
    )
    assert response.json() == {"prompt": "hi", "content": "hi", "text": "hi"}
    empty = await client.post("/detokenize", json={"tokens": []})
    assert empty.json() == {"prompt": "", "content": "", "text": ""}


@pytest.mark.parametrize(
    ("body", "named"),
    [({}, "tokens"), ({"tokens": [257]}, "tokens"), ({"tokens": [-1]}, "tokens"), ({"tokens": "hi"}, "tokens")],
)
async def test_tokens_that_are_none_are_refused(client: httpx.AsyncClient, body: dict[str, object], named: str) -> None:
    response = await client.post("/detokenize", json=body)
    assert response.status_code == 400
    assert error_of(response)["param"] == named


async def test_tokens_and_text_are_turned_into_each_other(client: httpx.AsyncClient) -> None:
    tokens = (await tokenized(client, prompt="naïve ☕"))["tokens"]
    back = (await client.post("/detokenize", json={"tokens": tokens})).json()["prompt"]
    assert back == "naïve ☕"


# -- what else vLLM's clients look for ---------------------------------------------------------------------------------


async def test_the_tokenizer_says_what_lm_eval_looks_for(client: httpx.AsyncClient) -> None:
    info = (await client.get("/tokenizer_info")).json()
    assert info == {"tokenizer_class": "ByteTokenizer", "eos_token": "</s>", "chat_template": "{{ messages }}"}


async def test_version_and_ping(client: httpx.AsyncClient, inference: FakeInference) -> None:
    assert (await client.get("/version")).json() == {"version": VERSION}
    for method in ("GET", "HEAD", "POST"):
        response = await client.request(method, "/ping")
        assert (response.status_code, response.content) == (200, b"")
    inference.state = Readiness(False, "draining")
    assert (await client.get("/ping")).status_code == (await client.post("/ping")).status_code == 503


async def test_load_counts_what_is_under_way(client: httpx.AsyncClient, inference: FakeInference) -> None:
    assert (await client.get("/load")).json() == {"server_load": 0}
    never = asyncio.Event()
    inference.script = [never]
    asking = asyncio.create_task(client.post("/generate", json={"inputs": "hi"}))
    await inference.began.acquire()
    assert (await client.get("/load")).json() == {"server_load": 1}
    asking.cancel()
    await asyncio.wait([asking])


async def test_probes_need_no_key_and_the_rest_does() -> None:
    async with rest_client(FakeInference(), api_key="secret") as client:
        assert (await client.get("/ping")).status_code == (await client.get("/version")).status_code == 200
        for path in ("/tokenizer_info", "/load"):
            assert (await client.get(path)).status_code == 401
        for path in ("/tokenize", "/detokenize", "/ping"):
            assert (await client.post(path, json={"prompt": "hi"})).status_code == 401


GENERATIONS = (("/v1/chat/completions", {"messages": [USER]}), ("/v1/completions", {"prompt": "hi there"}))


@pytest.mark.parametrize(("path", "prompt"), GENERATIONS)
async def test_prompts_may_be_truncated_salted_and_get_special_tokens(
    client: httpx.AsyncClient, inference: FakeInference, path: str, prompt: dict[str, object]
) -> None:
    body = {"model": MODEL, **prompt}
    more = {"truncate_prompt_tokens": 3, "cache_salt": "s", "add_special_tokens": True, "truncation_side": "left"}
    usage = (await client.post(path, json={**body, **more})).json()["usage"]
    assert usage["prompt_tokens"] == 3
    request = inference.requests[-1]
    assert (request.truncate_prompt, request.cache_salt, request.add_special_tokens) == (3, "s", True)
    await client.post(path, json=body)
    request = inference.requests[-1]
    assert request.truncate_prompt is request.cache_salt is request.add_special_tokens is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("truncate_prompt_tokens", 0),
        ("truncate_prompt_tokens", -1),
        ("truncation_side", "right"),
        ("cache_salt", ""),
        ("cache_salt", "s" * 1025),
        ("add_special_tokens", 1),
        ("priority", 1),
        ("bad_words", ["a"]),
        ("allowed_token_ids", [1]),
    ],
)
@pytest.mark.parametrize(("path", "prompt"), GENERATIONS)
async def test_what_is_wrong_with_them_is_named(
    client: httpx.AsyncClient, path: str, prompt: dict[str, object], name: str, value: object
) -> None:
    response = await client.post(path, json={"model": MODEL, **prompt, name: value})
    assert response.status_code == 400
    assert error_of(response)["param"] == name


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"model": MODEL, "messages": [USER]}, "/v1/chat/completions"),
        ({"model": MODEL, "prompt": "hi"}, "/v1/completions"),
        ({"model": MODEL, "prompt": "hi", "stream": True}, "/v1/completions"),
        ({"inputs": "hi"}, "/"),
        ({"inputs": "hi", "stream": True}, "/"),
        ({"model": MODEL, "prompt": "hi", "temperature": 5}, "/v1/completions"),
        ({"inputs": "hi", "parameters": {"watermark": True}}, "/"),
    ],
)
async def test_an_invocation_is_answered_as_elsewhere(body: dict[str, object], path: str) -> None:
    async def answer(path: str) -> tuple[int, str, str]:
        async with rest_client(FakeInference()) as client:
            response = await client.post(path, json=body)
            text = re.sub(r'"created":\d+', "", response.text)
            return response.status_code, response.headers["content-type"], text

    assert await answer("/invocations") == await answer(path)


@pytest.mark.parametrize("body", [{}, {"prompt": "hi", "inputs": "hi"}, {"prompt": None}])
async def test_an_invocation_of_nothing_or_of_two_things_is_refused(
    client: httpx.AsyncClient, body: dict[str, object]
) -> None:
    response = await client.post("/invocations", json=body)
    assert response.status_code == 400
    assert "give one of messages, prompt, inputs" in (error_of(response)["message"] or "")


async def test_hanging_up_stops_an_invocation(inference: FakeInference) -> None:
    never = asyncio.Event()
    inference.script = [never]
    async with served(inference) as client:
        asking = asyncio.create_task(client.post("/invocations", json={"inputs": "hi"}))
        await inference.began.acquire()
        asking.cancel()
        async with asyncio.timeout(20):
            await inference.idle.wait()


def test_answers_are_as_they_are_documented() -> None:
    document: Any = openapi_document(dialects_of(FakeInference()))
    kinds = document["paths"]["/tokenize"]["post"]["requestBody"]["content"]["application/json"]["schema"]["anyOf"]
    names = {kind["$ref"].rpartition("/")[2] for kind in kinds}
    assert names == {"TokenizeText", "TokenizeMessages", "TokenizeContent", "TokenizeInputs"}
    schemas = document["components"]["schemas"]
    assert all(schemas[name]["additionalProperties"] is False for name in names)
    assert set(schemas["DetokenizedText"]["properties"]) == {"prompt", "content", "text"}
    assert set(schemas["TokenizedText"]["properties"]) == {"count", "max_model_len", "tokens", "token_strs"}
