"""What bodies are taken, what they come to, and what is refused, by the name of the parameter at fault."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidRequest
from frontend.request import Chat, GenerateRequest, TokenPrompt
from frontend.rest import openai_types as types
from frontend.rest.openai_errors import UnknownParameter, UnsupportedParameter
from frontend.rest.openai_parse import Ask, parse_chat, parse_completion
from tests.frontend.fake_inference import MODEL, FakeInference
from tests.frontend.test_rest_app import error_of, rest_client

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MESSAGES = [{"role": "user", "content": "hi"}]
ENDPOINTS = [(CHAT, {"messages": MESSAGES}), (COMPLETIONS, {"prompt": "hi"})]


def chat(**fields: object) -> Ask:
    return parse_chat(msgspec.json.encode({"model": MODEL, "messages": MESSAGES, **fields}))


def completion(**fields: object) -> Ask:
    return parse_completion(msgspec.json.encode({"model": MODEL, "prompt": "hi", **fields}))


def only(ask: Ask) -> GenerateRequest:
    (generation,) = ask.generations
    return generation


# -- what is taken -----------------------------------------------------------------------------------------------------

SAMPLING: dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "presence_penalty": -1.5,
    "frequency_penalty": 2,
    "seed": 7,
    "max_tokens": 9,
    "min_tokens": 2,
    "ignore_eos": True,
    "skip_special_tokens": False,
}


@pytest.mark.parametrize("parse", [chat, completion])
def test_sampling_is_handed_on(parse: Any) -> None:
    generation = only(parse(**SAMPLING))
    assert {name: getattr(generation, name) for name in SAMPLING} == SAMPLING
    assert generation.model == MODEL
    assert only(parse(include_stop_str_in_output=True)).include_stop
    assert only(parse(logit_bias={"5": -100, "0": 1.5})).logit_bias == {5: -100, 0: 1.5}
    assert only(parse(stop="a")).stop == ("a",)
    assert only(parse(stop=["a", "b"])).stop == ("a", "b")
    assert only(parse(stop_token_ids=[1, 2])).stop_token_ids == (1, 2)


@pytest.mark.parametrize("parse", [chat, completion])
def test_what_is_not_given_is_left_to_the_model(parse: Any) -> None:
    bare = only(parse())
    assert bare == GenerateRequest(prompt=bare.prompt, model=MODEL)
    kind = types.ChatCompletionRequest if parse is chat else types.CompletionRequest
    off = types.CHAT_OFF if parse is chat else types.COMPLETION_OFF
    nulls = dict.fromkeys({*kind.__struct_fields__, *off} - {"model", "messages", "prompt"})
    assert only(parse(**nulls)) == bare


def test_conversations() -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "Ann"},
        {"role": "assistant", "content": "c", "refusal": None, "tool_calls": None, "annotations": []},
        {"role": "tool", "content": "d", "tool_call_id": "t1"},
        {"role": "system", "content": ""},
    ]
    assert only(chat(messages=messages)).prompt == Chat(
        (
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "ab", "name": "Ann"},
            {"role": "assistant", "content": "c"},
            {"role": "tool", "content": "d", "tool_call_id": "t1"},
            {"role": "system", "content": ""},
        )
    )
    prompt = only(chat(add_generation_prompt=False)).prompt
    assert isinstance(prompt, Chat)
    assert not prompt.add_generation_prompt


def test_prompts_of_every_kind() -> None:
    def prompts(prompt: object) -> list[object]:
        return [generation.prompt for generation in completion(prompt=prompt).generations]

    assert prompts("a") == ["a"]
    assert prompts(["a", "b"]) == ["a", "b"]
    assert prompts([1, 2]) == [TokenPrompt((1, 2))]
    assert prompts([[1, 2], [3]]) == [TokenPrompt((1, 2)), TokenPrompt((3,))]


def test_lengths_and_logprobs() -> None:
    assert only(chat(max_completion_tokens=5)).max_tokens == 5
    assert only(chat(max_completion_tokens=5, max_tokens=5)).max_tokens == 5
    assert only(chat(logprobs=True)).logprobs == 0
    assert only(chat(logprobs=True, top_logprobs=3)).logprobs == 3
    assert only(chat(logprobs=False, top_logprobs=0)).logprobs is None
    assert only(completion(logprobs=4)).logprobs == 4


def test_several_answers_have_seeds_of_their_own() -> None:
    ask = completion(prompt=["a", "b"], n=2, seed=10)
    assert [(g.prompt, g.seed) for g in ask.generations] == [("a", 10), ("a", 11), ("b", 10), ("b", 11)]
    assert [g.seed for g in chat(n=3).generations] == [None, None, None]


MEANINGLESS: dict[str, object] = {
    "user": "ann",
    "metadata": {"a": "b"},
    "safety_identifier": "x",
    "prompt_cache_key": "x",
    "service_tier": "auto",
}
OFF_VALUES = [(name, value) for name, values in types.CHAT_OFF.items() for value in values]


@pytest.mark.parametrize(("name", "value"), [*MEANINGLESS.items(), *OFF_VALUES])
def test_what_asks_for_nothing_changes_nothing(name: str, value: object) -> None:
    assert chat(**{name: value}) == chat()


def test_streams() -> None:
    assert not chat().stream
    assert chat(stream=True).stream
    assert not chat(stream=True).include_usage
    assert chat(stream=True, stream_options={"include_usage": True, "include_obfuscation": False}).include_usage


# -- what is refused ---------------------------------------------------------------------------------------------------

WRONG: list[tuple[str, object, str]] = [
    *((name, "1", name) for name in SAMPLING),
    *((name, True, name) for name, value in SAMPLING.items() if not isinstance(value, bool)),
    *((name, 1, name) for name, value in SAMPLING.items() if isinstance(value, bool)),
    *((name, 1.0, name) for name in ("top_k", "seed", "max_tokens", "min_tokens", "n")),
    *((name, [1], name) for name in (*SAMPLING, "model", "stream", "user")),
    ("n", 0, "n"),
    ("n", 17, "n"),
    ("n", True, "n"),
    ("stop", 5, "stop"),
    ("stop", ["a", 5], "stop[1]"),
    ("stop_token_ids", ["a"], "stop_token_ids[0]"),
    ("stop_token_ids", 5, "stop_token_ids"),
    ("logit_bias", {"a": 1}, "logit_bias"),
    ("logit_bias", {"-1": 1}, "logit_bias"),
    ("logit_bias", {"01": 1}, "logit_bias"),
    ("logit_bias", {"9" * 5000: 1}, "logit_bias"),
    ("logit_bias", {"1": "a"}, "logit_bias"),
    ("logit_bias", [1], "logit_bias"),
    ("stream", "yes", "stream"),
    ("stream_options", {"include_usage": True}, "stream_options"),
    ("stream_options", 5, "stream_options"),
    ("stream_options", {"include_usage": 1}, "stream_options.include_usage"),
    ("stream_options", {"continuous_usage_stats": True}, "stream_options.continuous_usage_stats"),
    ("stream_options", {"what": True}, "stream_options.what"),
    ("include_stop_str_in_output", 1, "include_stop_str_in_output"),
    ("service_tier", "flex", "service_tier"),
    ("metadata", {"a": 1}, "metadata"),
    ("model", None, "model"),
]
WRONG_CHAT: list[tuple[str, object, str]] = [
    ("messages", [], "messages"),
    ("messages", None, "messages"),
    ("messages", "hi", "messages"),
    ("messages", ["hi"], "messages[0]"),
    ("messages", [{"content": "hi"}], "messages[0].role"),
    ("messages", [{"role": "user"}], "messages[0].content"),
    ("messages", [{"role": "user", "content": None}], "messages[0].content"),
    ("messages", [{"role": "user", "content": []}], "messages[0].content"),
    ("messages", [{"role": "user", "content": 5}], "messages[0].content"),
    ("messages", [{"role": "user", "content": ["hi"]}], "messages[0].content[0]"),
    ("messages", [{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
    ("messages", [{"role": "user", "content": [{"type": ["x"]}]}], "messages[0].content[0].type"),
    ("messages", [{"role": "robot", "content": "hi"}], "messages[0].role"),
    ("messages", [*MESSAGES, {"role": "user", "content": "a", "mood": "b"}], "messages[1].mood"),
    ("messages", [{"role": "assistant", "content": "a", "tool_calls": [{}]}], "messages[0].tool_calls"),
    ("logprobs", 1, "logprobs"),
    ("top_logprobs", 1, "top_logprobs"),
    ("top_logprobs", 21, "top_logprobs"),
    ("top_logprobs", -1, "top_logprobs"),
    ("add_generation_prompt", "yes", "add_generation_prompt"),
    ("max_completion_tokens", 2.5, "max_completion_tokens"),
]
WRONG_COMPLETION: list[tuple[str, object, str]] = [
    ("prompt", None, "prompt"),
    ("prompt", "", "prompt"),
    ("prompt", [], "prompt"),
    ("prompt", [""], "prompt"),
    ("prompt", ["a", ""], "prompt"),
    ("prompt", [[]], "prompt"),
    ("prompt", [[1], []], "prompt"),
    ("prompt", ["a", 1], "prompt"),
    ("prompt", [1, [1]], "prompt"),
    ("prompt", 5, "prompt"),
    ("prompt", {}, "prompt"),
    ("prompt", [1.5], "prompt[0]"),
    ("prompt", [True], "prompt[0]"),
    ("prompt", [[1, True]], "prompt[0][1]"),
    ("prompt", [None], "prompt[0]"),
    ("prompt", ["a"] * 129, "prompt"),
    ("logprobs", True, "logprobs"),
    ("logprobs", 1.0, "logprobs"),
]


@pytest.mark.parametrize(("name", "value", "param"), [*WRONG, *WRONG_CHAT])
def test_wrong_values_are_named_in_chat(name: str, value: object, param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        chat(**{name: value})
    assert raised.value.field == param


@pytest.mark.parametrize(("name", "value", "param"), [*WRONG, *WRONG_COMPLETION])
def test_wrong_values_are_named_in_completions(name: str, value: object, param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        completion(**{name: value})
    assert raised.value.field == param


def test_two_lengths_must_agree() -> None:
    with pytest.raises(InvalidRequest, match="differ"):
        chat(max_tokens=4, max_completion_tokens=5)


@pytest.mark.parametrize("name", types.CHAT_OFF)
def test_unsupported_parameters_of_chat_are_named(name: str) -> None:
    with pytest.raises(UnsupportedParameter) as raised:
        chat(**{name: "something"})
    assert raised.value.field == name


@pytest.mark.parametrize("name", types.COMPLETION_OFF)
def test_unsupported_parameters_of_completions_are_named(name: str) -> None:
    with pytest.raises(UnsupportedParameter) as raised:
        completion(**{name: "something"})
    assert raised.value.field == name


@pytest.mark.parametrize(("name", "value"), [("best_of", True), ("echo", 0), ("priority", False), ("store", 0)])
def test_off_is_a_matter_of_type_too(name: str, value: object) -> None:
    with pytest.raises(UnsupportedParameter):
        completion(**{name: value})


@pytest.mark.parametrize("kind", types.PART_TYPES)
def test_content_that_is_not_text_is_named(kind: str) -> None:
    parts = [{"type": "text", "text": "look"}, {"type": kind, kind: {"url": "x"}}]
    with pytest.raises(UnsupportedParameter, match=kind) as raised:
        chat(messages=[{"role": "user", "content": parts}])
    assert raised.value.field == "messages[0].content[1].type"


@pytest.mark.parametrize("value", [None, 5])
def test_unknown_parameters_are_named(value: object) -> None:
    with pytest.raises(UnknownParameter) as raised:
        chat(temprature=value)
    assert raised.value.field == "temprature"
    with pytest.raises(UnknownParameter):
        completion(messages=MESSAGES)


# -- over HTTP ---------------------------------------------------------------------------------------------------------

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


OUT_OF_RANGE: list[tuple[str, object]] = [
    ("temperature", -0.1),
    ("temperature", 2.1),
    ("temperature", 10**40),
    ("top_p", 0),
    ("top_p", 1.1),
    ("top_k", -2),
    ("min_p", -1),
    ("repetition_penalty", 0),
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
            ({"tools": [{}]}, "tools", "unsupported_parameter"),
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


@settings(max_examples=200, deadline=None)
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
