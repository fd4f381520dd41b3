"""What Ollama's requests ask the frontend for, and what is refused by name."""

import json
from functools import partial
from typing import Any

import pytest

from engine.errors import InvalidRequest, TandemError, UnknownModel
from frontend.callers import ANYBODY
from frontend.fields import UnsupportedParameter
from frontend.request import Chat, GenerateRequest, Grammar, GrammarKind, Infill, reasoning_fields
from frontend.rest.ollama import request_types as types
from frontend.rest.ollama.models import served
from frontend.rest.ollama.parse import Ask, parse_chat, parse_generate
from tests.frontend.fake_inference import MAX_CONTEXT, MODEL
from tests.frontend.fake_ollama import ABLE, OllamaInference
from tests.frontend.parsed_script import WEATHER

USER = {"role": "user", "content": "hi"}
PLAIN = {**ABLE, "calls_tools": False, "reasons": False, "template_variables": frozenset()}


def generate(abilities: dict[str, Any] = ABLE, **fields: Any) -> Ask:
    return _parse(parse_generate, abilities, {"model": MODEL, "prompt": "hi", **fields})


def chat(abilities: dict[str, Any] = ABLE, **fields: Any) -> Ask:
    return _parse(parse_chat, abilities, {"model": MODEL, "messages": [USER], **fields})


def _parse(parse: Any, abilities: dict[str, Any], fields: dict[str, Any]) -> Ask:
    ask: Ask = parse(json.dumps(fields).encode(), partial(served, OllamaInference(abilities=abilities), ANYBODY))
    return ask


def wanted(ask: Ask) -> GenerateRequest:
    assert ask.generation is not None
    return ask.generation


def conversation(ask: Ask) -> Chat:
    prompt = wanted(ask).prompt
    assert isinstance(prompt, Chat)
    return prompt


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [generate, chat])
def test_what_is_not_given_is_ollamas_default(ask: Any) -> None:
    nothing = {"top_k": None, "seed": -1, "num_predict": -1}
    for options in ({}, {"options": {}}, {"options": None}, {"options": nothing}):
        request = wanted(ask(**options))
        assert (request.temperature, request.top_k, request.top_p, request.min_p) == (0.8, 40, 0.9, 0.0)
        assert (request.repetition_penalty, request.presence_penalty, request.frequency_penalty) == (1.0, 0.0, 0.0)
        assert (request.max_tokens, request.seed, request.stop, request.logprobs) == (None, None, (), None)
        assert ask(**options).stream is True


def test_every_option_that_works_has_its_field() -> None:
    given = {
        "num_predict": 7,
        "temperature": 0,
        "top_k": 3,
        "top_p": 0.5,
        "min_p": 0.25,
        "repeat_penalty": 1.5,
        "presence_penalty": 0.75,
        "frequency_penalty": -0.5,
        "seed": 0,
        "stop": ["a", "b"],
        "num_ctx": 2048,
        "num_keep": 4,
    }
    request = wanted(generate(options=given))
    assert (request.max_tokens, request.temperature, request.top_k, request.top_p) == (7, 0, 3, 0.5)
    assert (request.min_p, request.repetition_penalty, request.seed, request.stop) == (0.25, 1.5, 0, ("a", "b"))
    assert (request.presence_penalty, request.frequency_penalty) == (0.75, -0.5)


@pytest.mark.parametrize("num_predict", [-2, -1, 0])
def test_no_length_is_what_is_left_of_the_context(num_predict: int) -> None:
    assert wanted(generate(options={"num_predict": num_predict})).max_tokens is None


def test_hints_for_a_machine_mean_nothing() -> None:
    hints = {"numa": False, "num_batch": 2, "num_gpu": 1, "main_gpu": 0, "use_mmap": True, "num_thread": 8}
    assert generate(options={**hints, "low_vram": True, "use_mlock": False}) == generate()


@pytest.mark.parametrize("name", sorted(types.OPTIONS_OFF))
def test_options_that_are_not_there_are_refused_unless_they_ask_for_nothing(name: str) -> None:
    for nothing in types.OPTIONS_OFF[name]:
        assert generate(options={name: nothing}) == generate()
    with pytest.raises(InvalidRequest, match=f"options.{name} is not supported"):
        generate(options={name: 0.7})


def test_unknown_options_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="unknown parameter: options.temprature"):
        chat(options={"temprature": 1})


def test_penalties_look_back_over_everything_or_are_off() -> None:
    assert wanted(generate(options={"repeat_penalty": 1.1, "repeat_last_n": -1})).repetition_penalty == 1.1
    off = wanted(generate(options={"repeat_penalty": 1.1, "presence_penalty": 1, "repeat_last_n": 0}))
    assert (off.repetition_penalty, off.presence_penalty) == (1.0, 0.0)
    assert generate(options={"repeat_last_n": 64}) == generate(options={"repeat_last_n": 64, "repeat_penalty": 1})
    with pytest.raises(InvalidRequest, match="repeat_last_n"):
        generate(options={"repeat_penalty": 1.1, "repeat_last_n": 64})


def test_no_context_is_promised_that_is_not_there() -> None:
    assert generate(options={"num_ctx": MAX_CONTEXT}) == generate()
    with pytest.raises(InvalidRequest, match=f"options.num_ctx asks for {MAX_CONTEXT + 1}.*{MAX_CONTEXT}"):
        chat(options={"num_ctx": MAX_CONTEXT + 1})


# -- generate ----------------------------------------------------------------------------------------------------------


def test_a_prompt_is_what_a_user_says() -> None:
    assert conversation(generate()).messages == ({"role": "user", "content": "hi"},)
    asked = conversation(generate(system="Be brief."))
    assert asked.messages == ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"})
    assert asked.add_generation_prompt


def test_a_raw_prompt_is_taken_as_it_is() -> None:
    ask = generate(raw=True)
    assert wanted(ask).prompt == "hi"
    assert not ask.tells_context
    for fields in ({"system": "a"}, {"context": [1]}):
        with pytest.raises(InvalidRequest, match="raw takes neither"):
            generate(raw=True, **fields)


def test_without_a_template_every_prompt_is_raw() -> None:
    base = {**PLAIN, "has_chat_template": False}
    assert wanted(generate(base)).prompt == "hi"
    with pytest.raises(InvalidRequest, match="system needs a model with a chat template"):
        generate(base, system="a")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("template", "{{ .Prompt }}"),
        ("images", ["aGk="]),
        ("truncate", True),
        ("shift", True),
        ("width", 64),
        ("height", 64),
        ("steps", 1),
        ("_debug_render_only", True),
    ],
)
def test_what_generate_lacks_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field} is not supported"):
        generate(**{field: value})


def test_what_stands_before_a_suffix() -> None:
    able = {**ABLE, "infills": True}
    ask = generate(able, suffix="b")
    assert (wanted(ask).prompt, ask.tells_context) == (Infill("hi", "b"), False)
    assert wanted(generate(able, prompt="", suffix="b")).prompt == Infill("", "b")
    for beside in ({"raw": True}, {"system": "a"}, {"context": [1]}):
        with pytest.raises(InvalidRequest, match="^suffix takes neither"):
            generate(able, suffix="b", **beside)
    with pytest.raises(UnsupportedParameter, match="^think is not supported"):
        generate(able, suffix="b", think=True)
    with pytest.raises(UnsupportedParameter, match="does not support insert"):
        generate(suffix="b")


def test_what_a_client_sends_for_nothing_is_nothing() -> None:
    empty = {"suffix": "", "template": "", "system": "", "images": [], "context": [], "format": "", "keep_alive": "5m"}
    assert generate(**empty, raw=False, truncate=False, shift=False, think=None) == generate()
    assert chat(tools=[], format=None, keep_alive=-1, options={}) == chat()


@pytest.mark.parametrize("parse", [parse_generate, parse_chat])
def test_nothing_to_answer_asks_to_load(parse: Any) -> None:
    assert _parse(parse, ABLE, {"model": MODEL}).generation is None
    what = "prompt" if parse is parse_generate else "messages"
    assert _parse(parse, ABLE, {"model": MODEL, what: None}).generation is None
    assert _parse(parse, ABLE, {"model": MODEL, "keep_alive": "10m"}).generation is None
    for keep_alive in (0, 0.0, "0", "0s"):
        with pytest.raises(UnsupportedParameter, match="keep_alive"):
            _parse(parse, ABLE, {"model": MODEL, "keep_alive": keep_alive})


# -- names of models ---------------------------------------------------------------------------------------------------


def test_a_model_has_its_name_with_latest_and_without() -> None:
    for name in (MODEL, f"{MODEL}:latest"):
        ask = generate(model=name)
        assert (ask.model, wanted(ask).model) == (name, MODEL)


@pytest.mark.parametrize("name", ["other", f"{MODEL}:7b", f"{MODEL}:latest:latest"])
def test_other_models_are_not_found(name: str) -> None:
    with pytest.raises(UnknownModel, match=f"model '{name}' not found"):
        chat(model=name)


@pytest.mark.parametrize("name", ["", ":latest", None])
def test_a_model_must_be_named(name: str | None) -> None:
    with pytest.raises(InvalidRequest, match="model"):
        generate(model=name)


# -- format, thinking, logprobs ----------------------------------------------------------------------------------------


def test_format_is_a_grammar() -> None:
    assert wanted(chat()).grammar is None
    assert wanted(chat(format="json")).grammar == Grammar(GrammarKind.JSON_OBJECT)
    schema = {"type": "object", "properties": {"\u00e4": {"type": "integer"}}}
    grammar = wanted(chat(format=schema)).grammar
    assert grammar is not None
    assert grammar.kind is GrammarKind.JSON_SCHEMA
    assert json.loads(grammar.text) == {**schema, "additionalProperties": False}
    for wrong in ("yaml", 5, [1]):
        with pytest.raises(InvalidRequest, match="format"):
            chat(format=wrong)


@pytest.mark.parametrize(
    ("think", "is_on"), [(None, True), (True, True), (False, False)], ids=["not given", "true", "false"]
)
@pytest.mark.parametrize("ask", [generate, chat])
def test_who_can_think_does_unless_told_not_to(ask: Any, think: bool | None, is_on: bool) -> None:
    request = wanted(ask(think=think))
    assert isinstance(request.prompt, Chat)
    assert request.prompt.template_kwargs == {"enable_thinking": is_on}
    assert request.separate_reasoning is is_on


def test_who_cannot_think_is_not_asked_to() -> None:
    assert conversation(chat(PLAIN)).template_kwargs == {}
    assert conversation(chat(PLAIN, think=False)).template_kwargs == {}
    for think in (True, "low"):
        with pytest.raises(InvalidRequest, match=f"'{MODEL}' does not support thinking"):
            chat(PLAIN, think=think)


def test_thinking_is_turned_off_only_where_it_can_be() -> None:
    always = {**ABLE, "template_variables": frozenset({"messages", "tools"})}
    assert wanted(chat(always)).separate_reasoning
    with pytest.raises(InvalidRequest, match="cannot turn reasoning off"):
        chat(always, think=False)


def test_levels_are_for_templates_that_know_them() -> None:
    with pytest.raises(InvalidRequest, match="knows no levels"):
        chat(think="high")
    leveled = {**ABLE, "template_variables": frozenset({"reasoning_effort", "thinking"})}
    asked = conversation(chat(leveled, think="high"))
    assert asked.template_kwargs == {"reasoning_effort": "high", "thinking": True}
    with pytest.raises(InvalidRequest, match="think"):
        chat(leveled, think="hard")


def test_an_answer_in_a_format_is_not_thought_about() -> None:
    request = wanted(chat(format="json"))
    assert isinstance(request.prompt, Chat)
    assert request.prompt.template_kwargs["enable_thinking"] is False
    for fields in ({"format": "json"}, {"raw": True}, {"context": [1]}):
        with pytest.raises(InvalidRequest, match="^think"):
            generate(think=True, **fields)
    assert not wanted(generate(context=[1])).separate_reasoning


def test_logprobs() -> None:
    assert wanted(generate(logprobs=True)).logprobs == 0
    assert wanted(chat(logprobs=True, top_logprobs=3)).logprobs == 3
    with pytest.raises(InvalidRequest, match="top_logprobs needs logprobs"):
        chat(top_logprobs=3)


# -- messages and tools ------------------------------------------------------------------------------------------------


def test_messages_are_as_templates_know_them() -> None:
    messages = [
        {"role": "SYSTEM", "content": "a"},
        {"role": "user", "content": "b", "images": []},
        {"role": "assistant", "content": "c", "thinking": "d"},
        {"role": "user"},
    ]
    assert conversation(chat(messages=messages)).messages == (
        {"role": "system", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c", **reasoning_fields("d")},
        {"role": "user", "content": ""},
    )


def called(name: str, call_id: str | None = None, **arguments: object) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}} | ({"id": call_id} if call_id else {})


def test_answers_of_tools_are_told_which_call_they_are_for() -> None:
    messages = [
        USER,
        {"role": "assistant", "tool_calls": [called("look", x=1), called("find"), called("look", x=2)]},
        {"role": "tool", "tool_name": "find", "content": "f"},
        {"role": "tool", "tool_name": "look", "content": "1"},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "tool_calls": [called("look", "mine")]},
        {"role": "tool", "tool_call_id": "mine", "content": "3"},
        {"role": "tool", "tool_name": "nobody", "content": "4"},
    ]
    _, first, find, look, rest, _, mine, nobody = conversation(chat(messages=messages)).messages
    calls: Any = first["tool_calls"]
    ids = [call["id"] for call in calls]
    assert len(set(ids)) == 3
    assert calls[0] == {"id": ids[0], "type": "function", "function": {"name": "look", "arguments": {"x": 1}}}
    assert first["content"] == ""
    assert [(each["tool_call_id"], each["name"]) for each in (find, look, rest)] == [
        (ids[1], "find"),
        (ids[0], "look"),
        (ids[2], "look"),
    ]
    assert (mine["tool_call_id"], mine["name"]) == ("mine", "look")
    assert nobody == {"role": "tool", "content": "4", "name": "nobody"}


def test_an_assistants_last_message_is_continued() -> None:
    said = {"role": "assistant", "content": "Well,"}
    asked = conversation(chat(messages=[USER, said]))
    assert (asked.continue_final_message, asked.add_generation_prompt) == (True, False)
    for messages in ([USER, said, USER], [USER, {"role": "assistant", "tool_calls": [called("look")]}]):
        asked = conversation(chat(messages=messages))
        assert (asked.continue_final_message, asked.add_generation_prompt) == (False, True)


def test_tools_are_as_the_client_spelled_them() -> None:
    assert conversation(chat(tools=[WEATHER])).tools == (WEATHER,)
    untyped = {"function": {**WEATHER["function"], "description": None}}  # type: ignore[dict-item]
    (tool,) = conversation(chat(tools=[untyped])).tools
    assert tool["type"] == "function"
    assert set(tool["function"]) == {"name", "parameters"}  # type: ignore[call-overload]
    with pytest.raises(InvalidRequest, match=f"'{MODEL}' does not support tools"):
        chat(PLAIN, tools=[WEATHER])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": [{**USER, "images": ["aGk="]}]}, r"messages\[0\].images is not supported"),
        ({"messages": [{**USER, "name": "ann"}]}, r"unknown parameter: messages\[0\].name"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "role"),
        ({"messages": [{"content": "hi"}]}, "messages.role|role"),
        ({"messages": [{**USER, "content": [{"type": "text", "text": "hi"}]}]}, "content"),
        ({"messages": [{**USER, "tool_calls": [called("look")]}]}, "only an assistant"),
        ({"messages": [USER] * 4097}, "at most 4096"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "name of"),
        ({"tools": [WEATHER] * 257}, "at most 256"),
        ({"tool_choice": "auto"}, "unknown parameter: tool_choice"),
        ({"options": {"stop": "a"}}, "options.stop"),
        ({"options": {"stop": ["a"] * 17}}, "at most 16"),
        ({"options": {"num_predict": 1.5}}, "options.num_predict"),
        ({"options": [1]}, "options"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(TandemError, match=message):
        chat(**fields)
