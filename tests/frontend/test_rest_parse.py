"""What bodies are taken, what they come to, and what is refused, by the name of the parameter at fault."""

from typing import Any

import msgspec
import pytest

from engine.errors import InvalidRequest
from frontend.fields import UnknownParameter, UnsupportedParameter
from frontend.request import Chat, GenerateRequest, Infill, TokenPrompt
from frontend.rest.openai import request_types as types
from frontend.rest.openai.parse import Ask, parse_chat, parse_completion
from tests.frontend.fake_inference import MODEL

MESSAGES = [{"role": "user", "content": "hi"}]


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
def test_a_whole_number_may_have_a_point(parse: Any) -> None:
    assert msgspec.json.encode(5.0) == b"5.0"
    generation = only(parse(top_k=5.0, max_tokens=9.0, temperature=1.0))
    assert (generation.top_k, generation.max_tokens, generation.temperature) == (5, 9, 1.0)
    assert type(generation.top_k) is int


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
    running = chat(stream=True, stream_options={"continuous_usage_stats": True})
    assert (running.running_usage, running.include_usage) == (True, False)


# -- what is refused ---------------------------------------------------------------------------------------------------

WRONG: list[tuple[str, object, str]] = [
    *((name, "1", name) for name in SAMPLING),
    *((name, True, name) for name, value in SAMPLING.items() if not isinstance(value, bool)),
    *((name, 1, name) for name, value in SAMPLING.items() if isinstance(value, bool)),
    *((name, 1.5, name) for name in ("top_k", "seed", "max_tokens", "min_tokens", "n")),
    *((name, 1e300, name) for name in ("top_k", "seed", "max_tokens", "min_tokens", "n")),
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
    ("stream_options", {"continuous_usage_stats": 1}, "stream_options.continuous_usage_stats"),
    ("stream_options", {"include_obfuscation": True}, "stream_options.include_obfuscation"),
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
    ("messages", [{"role": "assistant", "content": "a", "tool_calls": [{}]}], "messages[0].tool_calls[0].id"),
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
    ("logprobs", 1.5, "logprobs"),
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
        chat(**{name: value})


def test_echoes_and_the_best_of_many() -> None:
    assert completion(echo=True).echo
    assert not completion(echo=False, logprobs=1).echo
    ask = completion(prompt=["a", "b"], n=2, best_of=3, seed=10)
    assert (len(ask.generations), ask.num_each, ask.n) == (6, 3, 2)
    assert [generation.seed for generation in ask.generations] == [10, 11, 12] * 2
    assert [generation.logprobs for generation in ask.generations] == [0] * 6
    assert not ask.shows_logprobs
    assert completion(n=2, best_of=3, logprobs=4).generations[0].logprobs == 4
    assert completion(n=2, best_of=2).generations == completion(n=2).generations
    for fields in ({"n": 2, "best_of": 1}, {"best_of": 17}, {"best_of": 2, "stream": True}):
        with pytest.raises(InvalidRequest) as wrong:
            completion(**fields)
        assert wrong.value.field == "best_of"


def test_what_is_said_of_prompts() -> None:
    ask = completion(echo=True, logprobs=2, max_tokens=0)
    assert (ask.generations[0].prompt_logprobs, ask.generations[0].max_tokens) == (2, 0)
    assert (ask.echo_logprobs, ask.prompt_logprobs) == (2, None)
    both = completion(echo=True, logprobs=0, prompt_logprobs=4, prompt=["a", "b"], n=2)
    assert [each.prompt_logprobs for each in both.generations] == [4, None, 4, None]
    assert {each.num_together for each in both.generations} == {4}
    assert (both.echo_logprobs, both.prompt_logprobs) == (0, 4)
    streamed = completion(echo=True, logprobs=1, n=2, stream=True)
    assert [each.prompt_logprobs for each in streamed.generations] == [1, 1]
    assert chat(prompt_logprobs=0).generations[0].prompt_logprobs == 0
    assert chat().generations[0].prompt_logprobs is None
    assert completion(logprobs=3).generations[0].prompt_logprobs is None
    for ask_wrongly in (chat, completion):
        for fields in ({"stream": True, "prompt_logprobs": 1}, {"prompt_logprobs": -1}):
            with pytest.raises(InvalidRequest) as raised:
                ask_wrongly(**fields)
            assert raised.value.field == "prompt_logprobs"


def test_suffixes_ask_for_what_stands_between() -> None:
    ask = completion(prompt=["a", "b"], suffix="c")
    assert [each.prompt for each in ask.generations] == [Infill("a", "c"), Infill("b", "c")]
    assert completion(prompt=[5, 6], suffix="c").generations[0].prompt == Infill(TokenPrompt((5, 6)), "c")
    assert completion(suffix="").generations == completion().generations
    with pytest.raises(InvalidRequest) as raised:
        completion(suffix="c", echo=True)
    assert raised.value.field == "suffix"


@pytest.mark.parametrize("kind", sorted(types.PART_TYPES))
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
