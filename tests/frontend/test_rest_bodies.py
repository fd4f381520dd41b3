"""Bodies over HTTP: whatever is sent, the answer is an answer or a 4xx that says why, and the next request works."""

import json

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frontend.callers import KeyRing
from frontend.rest.app import build_app
from frontend.rest.openai import request_types as types
from tests.frontend.fake_inference import MODEL, FakeInference
from tests.frontend.test_rest_app import error_of, rest_client

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MESSAGES = [{"role": "user", "content": "hi"}]
ENDPOINTS = [(CHAT, {"messages": MESSAGES}), (COMPLETIONS, {"prompt": "hi"})]

NOT_JSON = {
    "empty": b"",
    "text": b"hello",
    "cut": b'{"model":',
    "trailing": b"{} {}",
    "nan": b'{"model":"org/demo","temperature":NaN}',
    "infinity": b'{"model":"org/demo","temperature":-Infinity}',
    "too large a number": b'{"model":"org/demo","temperature":1e999}',
    "too long a number": b'{"model":"org/demo","seed":' + b"1" * 6000 + b"}",
    "not utf-8": b'{"model":"\xff\xfe"}',
    "utf-16": '{"model":"x"}'.encode("utf-16"),
    "lone surrogate": b'{"model":"\\ud800"}',
    "nested lists": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "nested value": b'{"model":"org/demo","prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "list": b"[]",
    "string": b'"hi"',
    "null": b"null",
    "number": b"5",
}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
async def test_bodies_that_are_no_json_object(path: str, body: bytes) -> None:
    async with rest_client(FakeInference()) as client:
        response = await client.post(path, content=body, headers={"content-type": "application/json"})
        assert response.status_code == 400
        assert error_of(response)["type"] == "invalid_request_error"
        assert (await client.post(CHAT, json={"model": MODEL, "messages": MESSAGES})).status_code == 200


@pytest.mark.parametrize("text", [rb"a\ud83d", rb"a\ud83d and", rb"\udc00", rb"\ud83d\ud83d"])
async def test_half_an_emoji_is_called_so(text: bytes) -> None:
    async with rest_client(FakeInference()) as client:
        refused = await client.post(COMPLETIONS, content=b'{"model": "org/demo", "prompt": "%b"}' % text)
        assert "half a surrogate pair" in error_of(refused)["message"]
        cut = await client.post(COMPLETIONS, content=rb'{"model": "org/demo", "prompt": "\ud83d\ude00')
        assert "truncated" in error_of(cut)["message"]


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "zstd"])
async def test_packed_bodies_are_refused_in_every_dialect(encoding: str) -> None:
    async with rest_client(FakeInference()) as client:
        for path in (CHAT, "/v1/messages", "/api/chat", "/generate", "/completion"):
            refused = await client.post(path, content=b"{}", headers={"content-encoding": encoding})
            assert refused.status_code == 415
            assert "Content-Encoding" in refused.text
        body = {"model": MODEL, "messages": MESSAGES}
        answered = await client.post(CHAT, json=body, headers={"content-encoding": "identity"})
        assert answered.status_code == 200


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        (CHAT, {"messages": MESSAGES, "max_completion_tokens": 0}, "max_completion_tokens must be at least 1, not 0"),
        (COMPLETIONS, {"prompt": "hi", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens must be at least 1"),
        ("/api/chat", {"messages": MESSAGES, "options": {"top_p": 2}}, "options.top_p must be between 0 and 1, not 2"),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 0}, "max_tokens must be at least 1, not 0"),
        ("/generate", {"inputs": "hi", "parameters": {"max_new_tokens": 0}}, "max_new_tokens must be at least 1"),
    ],
)
async def test_messages_call_parameters_as_their_clients_do(path: str, fields: dict[str, object], message: str) -> None:
    async with rest_client(FakeInference()) as client:
        named = {} if path == "/generate" else {"model": MODEL}
        error = (await client.post(path, json={**named, **fields})).json()["error"]
        assert (error["message"] if isinstance(error, dict) else error).startswith(message)


OUT_OF_RANGE: list[tuple[str, object]] = [
    ("temperature", -0.1),
    ("temperature", 2.1),
    ("temperature", 10**40),
    ("top_p", -0.1),
    ("top_p", 1.1),
    ("top_k", -2),
    ("min_p", -1),
    ("repetition_penalty", 0),
    ("repetition_penalty", 1e-300),
    ("presence_penalty", 3),
    ("frequency_penalty", -3),
    ("max_tokens", 0),
    ("max_tokens", -1),
    ("min_tokens", -1),
    ("min_tokens", 5000),
    ("stop", ""),
    ("stop", ["a"] * 17),
    ("stop_token_ids", [-1]),
    ("stop_token_ids", [1 << 70]),
    ("logit_bias", {"300": 1}),
    ("logit_bias", {"1": 101}),
]


@pytest.mark.parametrize(("path", "prompt"), ENDPOINTS)
@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
async def test_ranges_are_checked(path: str, prompt: dict[str, object], name: str, value: object) -> None:
    async with rest_client(FakeInference()) as client:
        body = {"model": MODEL, **prompt}
        response = await client.post(path, json={**body, name: value})
        assert response.status_code == 400
        assert error_of(response)["param"] == name
        assert (await client.post(path, json=body)).status_code == 200


async def test_names_are_those_of_the_dialect() -> None:
    async with rest_client(FakeInference()) as client:
        for body, param, code in (
            ({"max_completion_tokens": 5000}, "max_completion_tokens", "context_length_exceeded"),
            ({"max_completion_tokens": 0}, "max_completion_tokens", None),
            ({"messages": [{"role": "user", "content": "x" * 5000}]}, "messages", "context_length_exceeded"),
            ({"model": "other"}, "model", "model_not_found"),
            ({"modalities": ["audio"]}, "modalities", "unsupported_parameter"),
            ({"x" * 10_000: 1}, "x" * 200, "unknown_parameter"),
        ):
            response = await client.post(CHAT, json={"model": MODEL, "messages": MESSAGES, **body})
            assert response.status_code == (404 if param == "model" else 400)
            assert error_of(response)["param"] == param
            assert error_of(response)["code"] == code
        for prompt in ([300], [[1], [-1]]):
            response = await client.post(COMPLETIONS, json={"model": MODEL, "prompt": prompt})
            assert response.status_code == 400
            assert error_of(response)["param"] == "prompt"


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/json; charset=utf-8", "nonsense"])
async def test_json_is_taken_under_any_name(content_type: str | None) -> None:
    body = json.dumps({"model": MODEL, "prompt": "hi"}).encode()
    headers = {} if content_type is None else {"content-type": content_type}
    async with rest_client(FakeInference()) as client:
        assert (await client.post(COMPLETIONS, content=body, headers=headers)).status_code == 200


async def test_what_nobody_has_may_be_ignored() -> None:
    """And nothing else: what is known and not supported is refused as ever."""
    app = build_app(FakeInference(), keys=KeyRing(""), max_body_bytes=1 << 20, metrics=lambda: b"", lenient=True)
    unknown = {"mood": 1}
    asked = {"messages": [{**MESSAGES[0], **unknown}], "stream": True, "stream_options": {**unknown}}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        for path, fields in (
            (CHAT, asked),
            (COMPLETIONS, {"prompt": "hi"}),
            ("/v1/responses", {"input": [{"role": "user", "content": "a", **unknown}]}),
            ("/v1/responses/input_tokens", {"input": "a"}),
        ):
            response = await client.post(path, json={"model": MODEL, **fields, **unknown})
            assert response.status_code == 200, response.text
        for path, fields in ((CHAT, {**asked, "logit_processors": [], "audio": {}}), (CHAT, {**asked, "top_k": "x"})):
            assert (await client.post(path, json={"model": MODEL, **fields})).status_code == 400


# -- anything at all ---------------------------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-3, 20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("role", max_size=4), inner, max_size=3)
)
message = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "tool", "developer"]) | values,
        "content": st.text("ab") | st.lists(st.fixed_dictionaries({"type": st.just("text") | values, "text": values})),
        "name": values,
        "tool_calls": values,
    },
)
names = sorted({*types.ChatCompletionRequest.__struct_fields__, *types.COMPLETION_OFF, *types.CHAT_OFF, "prompt", "x"})
bodies = st.dictionaries(st.sampled_from(names), values, max_size=4)


@settings(max_examples=100, deadline=None)
@given(body=bodies, messages=st.lists(message, max_size=2) | values, stream=st.booleans())
async def test_no_body_is_a_server_error(body: dict[str, object], messages: object, stream: bool) -> None:
    async with rest_client(FakeInference()) as client:
        for path, given_prompt in ((CHAT, {"messages": messages}), (COMPLETIONS, {"prompt": messages}), (CHAT, {})):
            fields = {"model": MODEL, "stream": stream, **given_prompt, **body}
            response = await client.post(path, content=msgspec.json.encode(fields))
            assert response.status_code < 500
            if response.status_code != 200:
                assert error_of(response)["type"] == "invalid_request_error"


@settings(max_examples=100, deadline=None)
@given(body=st.binary(max_size=60) | values.map(msgspec.json.encode))
async def test_no_bytes_are_a_server_error(body: bytes) -> None:
    async with rest_client(FakeInference()) as client:
        for path in (CHAT, COMPLETIONS):
            assert (await client.post(path, content=body)).status_code == 400
