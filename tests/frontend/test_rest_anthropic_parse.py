"""What Anthropic's bodies come to, and what is refused, by the name of the parameter at fault."""

import json
from typing import Any

import msgspec
import pytest

from engine.errors import InvalidRequest
from frontend.fields import UnknownParameter, UnsupportedParameter
from frontend.request import Chat, GenerateRequest, Grammar, GrammarKind
from frontend.rest.anthropic import request_types as types
from frontend.rest.anthropic.parse import Ask, parse_count, parse_messages
from frontend.tools import NO_TOOLS, ToolChoice, ToolMode
from tests.frontend.fake_inference import MODEL
from tests.frontend.parsed_script import WEATHER

USER = {"role": "user", "content": "hi"}
SCHEMA = WEATHER["function"]["parameters"]  # type: ignore[index]
TOOL = {"name": "get_weather", "description": "Current weather of a city.", "input_schema": SCHEMA}
USE = {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "Paris"}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "sunny"}


def text(said: str) -> dict[str, object]:
    return {"type": "text", "text": said}


def ask(**fields: object) -> Ask:
    return parse_messages(msgspec.json.encode({"model": MODEL, "max_tokens": 2000, "messages": [USER], **fields}))


def generation(**fields: object) -> GenerateRequest:
    return ask(**fields).generation


def prompt(**fields: object) -> Chat:
    chat = generation(**fields).prompt
    assert isinstance(chat, Chat)
    return chat


# -- parameters --------------------------------------------------------------------------------------------------------


def test_sampling_is_handed_on() -> None:
    given = generation(temperature=0.5, top_p=0.9, top_k=5.0, max_tokens=9, stop_sequences=["a", "b"])
    assert (given.temperature, given.top_p, given.top_k, given.max_tokens) == (0.5, 0.9, 5, 9)
    assert given.stop == ("a", "b")
    assert generation(temperature=0).temperature == 0
    assert generation(temperature=1, top_k=0).top_k == 0
    assert ask(stream=True).stream
    assert not ask(stream=False).stream


def test_what_is_not_given_is_left_to_the_model() -> None:
    bare = generation()
    assert bare == GenerateRequest(prompt=Chat((USER,)), model=MODEL, max_tokens=2000)
    optional = {*types.MessagesRequest.__struct_fields__, *types.MESSAGES_OFF} - {"model", "messages", "max_tokens"}
    assert ask(**dict.fromkeys(optional)) == ask()


def test_what_means_nothing_here_is_accepted() -> None:
    hint = {"type": "ephemeral", "ttl": "1h"}
    blocks = [{**text("hi"), "cache_control": hint, "citations": None}]
    given = generation(
        metadata={"user_id": "ann"},
        service_tier="standard_only",
        cache_control={"type": "ephemeral"},
        messages=[{"role": "user", "content": blocks}],
    )
    assert given == generation()


def test_an_answer_in_a_format() -> None:
    schema = {"type": "object", "properties": {"é": {"type": "integer", "maximum": 10**30}}}
    body = {"model": MODEL, "max_tokens": 5, "messages": [USER]}
    config = {"format": {"type": "json_schema", "schema": schema}, "effort": None}
    grammar = parse_messages(json.dumps({**body, "output_config": config}).encode()).generation.grammar
    assert isinstance(grammar, Grammar)
    assert grammar.kind is GrammarKind.JSON_SCHEMA
    assert json.loads(grammar.text) == schema
    assert generation(output_config={}).grammar is None


def test_thinking_is_told_to_the_template() -> None:
    assert prompt(thinking={"type": "enabled", "budget_tokens": 1024}).template_kwargs == {
        "enable_thinking": True,
        "thinking": True,
    }
    assert prompt(thinking={"type": "disabled"}).template_kwargs == {"enable_thinking": False, "thinking": False}
    for config in (None, {"type": "adaptive"}, {"type": "adaptive", "display": "summarized"}):
        assert prompt(thinking=config) == prompt()


# -- conversations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", ["be nice", [text("be"), text("nice")]])
def test_a_system_prompt_is_the_first_message(system: object) -> None:
    first, second = prompt(system=system).messages
    assert first == {"role": "system", "content": "be nice" if isinstance(system, str) else "be\nnice"}
    assert second == USER
    assert prompt(system="") == prompt(system=[]) == prompt()


def test_neighbours_of_one_role_are_one_message() -> None:
    messages = [
        {"role": "system", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "user", "content": [text("d"), text("e")]},
        {"role": "assistant", "content": "f"},
        {"role": "assistant", "content": [text("g")]},
        {"role": "system", "content": [text("h")]},
        USER,
    ]
    assert prompt(system="a", messages=messages).messages == (
        {"role": "system", "content": "a\nb"},
        {"role": "user", "content": "c\nd\ne"},
        {"role": "assistant", "content": "f\ng"},
        {"role": "system", "content": "h"},
        USER,
    )


def test_a_round_of_tools() -> None:
    thinking = {"type": "thinking", "thinking": "hm", "signature": "x"}
    redacted = {"type": "redacted_thinking", "data": "x"}
    other = {**USE, "id": "t2", "input": {"b": [1.5, None], "a": {}}, "caller": {"type": "direct"}}
    failed = {"type": "tool_result", "tool_use_id": "t2", "content": [text("no"), text("way")], "is_error": True}
    messages = [
        USER,
        {"role": "assistant", "content": [thinking, redacted, text("Well."), USE, other]},
        {"role": "user", "content": [RESULT, failed, text("and?")]},
        {"role": "assistant", "content": [{**USE, "id": "t3", "toolset_name": None}]},
        {"role": "user", "content": [text("wait"), {"type": "tool_result", "tool_use_id": "t3"}]},
    ]

    def call(use: dict[str, Any]) -> dict[str, object]:
        return {"id": use["id"], "type": "function", "function": {"name": use["name"], "arguments": use["input"]}}

    thought = {"reasoning_content": "hm", "reasoning": "hm", "thinking": "hm"}
    asked = prompt(messages=messages, tools=[TOOL])
    assert asked.messages == (
        USER,
        {"role": "assistant", "content": "Well.", **thought, "tool_calls": [call(USE), call(other)]},
        {"role": "tool", "content": "sunny", "tool_call_id": "t1", "name": "get_weather"},
        {"role": "tool", "content": "Error: no\nway", "tool_call_id": "t2", "name": "get_weather"},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": None, "tool_calls": [call({**USE, "id": "t3"})]},
        {"role": "user", "content": "wait"},
        {"role": "tool", "content": "", "tool_call_id": "t3", "name": "get_weather"},
    )
    assert asked.add_generation_prompt
    assert not asked.continue_final_message


def test_a_last_message_of_the_assistants_is_continued() -> None:
    begun = {"role": "assistant", "content": "The answer is ("}
    asked = prompt(messages=[USER, begun])
    assert asked.messages == (USER, begun)
    assert (asked.continue_final_message, asked.add_generation_prompt) == (True, False)
    for nothing in ("", [], [text("")]):
        assert prompt(messages=[USER, {"role": "assistant", "content": nothing}]) == prompt()
    thought = {"type": "thinking", "thinking": "hm"}
    thinking = prompt(messages=[USER, {"role": "assistant", "content": [thought]}])
    assert thinking.continue_final_message
    assert thinking.messages[-1]["content"] == ""


def test_messages_may_be_empty() -> None:
    for nothing in ("", []):
        assert prompt(messages=[{"role": "user", "content": nothing}]).messages == ({"role": "user", "content": ""},)


# -- tools -------------------------------------------------------------------------------------------------------------


def test_tools_are_as_templates_know_them() -> None:
    assert prompt(tools=[{**TOOL, "type": "custom", "strict": False, "eager_input_streaming": True}]).tools == (
        WEATHER,
    )
    (bare,) = prompt(tools=[{"name": "f", "input_schema": {"b": 1, "a": None}}]).tools
    assert json.dumps(bare) == '{"type": "function", "function": {"name": "f", "parameters": {"b": 1, "a": null}}}'
    assert prompt(tools=[]) == prompt()
    auto = prompt(tools=[TOOL], tool_choice={"type": "auto"})
    assert auto == prompt(tools=[TOOL])
    assert auto.parallel_tool_calls
    assert not prompt(tools=[TOOL], tool_choice={"type": "auto", "disable_parallel_tool_use": True}).parallel_tool_calls
    none = prompt(tools=[TOOL], tool_choice={"type": "none"})
    assert (none.tool_choice, none.offered) == (NO_TOOLS, ())


def test_a_strict_tool() -> None:
    other = {**TOOL, "name": "other"}
    assert prompt(tools=[{**TOOL, "strict": True}, {**other, "strict": False}]).strict_tools == {"get_weather"}
    assert prompt(tools=[{**TOOL, "strict": True}]).tools == prompt(tools=[TOOL]).tools


def test_an_effort_is_told_unless_it_is_the_one_that_goes_without_saying() -> None:
    efforts = ("low", "medium", "xhigh", "max", "high", None)
    told = [prompt(output_config={"effort": effort}).reasoning_effort for effort in efforts]
    assert told == ["low", "medium", "xhigh", "max", None, None]
    with pytest.raises(InvalidRequest, match="^output_config.effort"):
        prompt(output_config={"effort": "minimal"})


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "any"}, ToolChoice(ToolMode.REQUIRED)),
        ({"type": "tool", "name": "get_weather"}, ToolChoice(ToolMode.REQUIRED, "get_weather")),
    ],
)
def test_choices_that_must_be_kept_are_asked_for(
    choice: dict[str, object], expected: ToolChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frontend.tools._check_enforceable", lambda choice: None, raising=False)
    asked = prompt(tools=[TOOL], tool_choice={**choice, "disable_parallel_tool_use": True})
    assert asked.tool_choice == expected
    assert not asked.parallel_tool_calls


# -- what is refused ---------------------------------------------------------------------------------------------------

ASSISTANT = {"role": "assistant", "content": [USE]}
IMAGE = {"type": "image", "source": {"type": "url", "url": "x"}}
DEEP = {"type": "tool_result", "tool_use_id": "t1", "content": [{**RESULT, "content": [RESULT]}]}


def user(*blocks: object) -> dict[str, object]:
    return {"messages": [ASSISTANT, {"role": "user", "content": [*blocks]}]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 1.5}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"model": None}, "model"),
        ({"stop_sequences": "a"}, "stop_sequences"),
        ({"stop_sequences": ["a"] * 17}, "stop_sequences"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"metadata": {"user_id": 5}}, "metadata.user_id"),
        ({"cache_control": {"type": "eternal"}}, "cache_control.type"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [USER] * 4097}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        (user({"type": "text"}), "messages[1].content[0].text"),
        (user({"type": "audio"}), "messages[1].content[0].type"),
        (user(*[text("a")] * 1025), "messages[1].content"),
        (user(USE), "messages[1].content[0].type"),
        (user(text("a"), {**RESULT, "tool_use_id": "t9"}), "messages[1].content[1].tool_use_id"),
        (user(DEEP), "messages[1].content[0].content[0].type"),
        ({"messages": [USER, {"role": "assistant", "content": [RESULT]}]}, "messages[1].content[0].type"),
        ({"messages": [USER, ASSISTANT]}, "messages[1].content[0]"),
        ({"messages": [{"role": "system", "content": [USE]}, USER]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "assistant", "content": [{**USE, "input": "x"}]}, USER]},
            "messages[0].content[0].input",
        ),
        ({"system": [USE]}, "system[0].type"),
        ({"system": 5}, "system"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [{**TOOL, "name": "a b"}]}, "tools"),
        ({"tools": [TOOL] * 257}, "tools"),
        ({"tool_choice": {"type": "auto"}}, "tool_choice"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "auto"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "required"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1023}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "thinking.budget_tokens"),
        (
            {
                "thinking": {"type": "enabled", "budget_tokens": 1024},
                "output_config": {"format": {"type": "json_schema", "schema": {}}},
            },
            "thinking",
        ),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        ask(**fields)
    assert raised.value.field == param
    assert not isinstance(raised.value, UnsupportedParameter)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        *(({name: "x"}, name) for name in types.MESSAGES_OFF),
        (user(IMAGE), "messages[1].content[0].type"),
        (user({"type": "document", "source": {}}), "messages[1].content[0].type"),
        (user({**RESULT, "content": [text("a"), IMAGE]}), "messages[1].content[0].content[1].type"),
        (user({**text("a"), "citations": [{}]}), "messages[1].content[0].citations"),
        ({"system": [IMAGE]}, "system[0].type"),
        ({"tools": [{**TOOL, "input_examples": [{}]}]}, "tools[0].input_examples"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [TOOL, {"type": "bash_20250124", "name": "bash"}]}, "tools[1].type"),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, "thinking.display"),
    ],
)
def test_what_is_not_supported_is_named(fields: dict[str, object], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as raised:
        ask(**fields)
    assert raised.value.field == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"mood": 1}, "mood"),
        ({"n": 2}, "n"),
        ({"messages": [{**USER, "id": "msg_1"}]}, "messages[0].id"),
        (user({**text("a"), "mood": 1}), "messages[1].content[0].mood"),
        ({"tools": [{**TOOL, "parameters": {}}]}, "tools[0].parameters"),
        ({"output_config": {"mood": 1}}, "output_config.mood"),
    ],
)
def test_what_nobody_knows_is_named(fields: dict[str, object], param: str) -> None:
    with pytest.raises(UnknownParameter) as raised:
        ask(**fields)
    assert raised.value.field == param


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"mood": 1}},
        {"tools": [TOOL], "tool_choice": {"type": "none", "disable_parallel_tool_use": True}},
        {"thinking": {"type": "disabled", "budget_tokens": 1024}},
    ],
)
def test_what_has_no_place_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match="unknown field"):
        ask(**fields)


@pytest.mark.parametrize("inner", ['{"type":"tool_result","content":[', '{"a":[', "["])
def test_what_is_nested_too_deeply_is_refused(inner: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_messages(b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":[' + inner.encode() * 100_000)


@pytest.mark.parametrize("depth", [50, 200, 300, 400, 500])
def test_what_is_nested_deeply_is_taken_or_refused(depth: int) -> None:
    schema = '{"a":' * depth + "{}" + "}" * depth
    blocks = '{"type":"tool_result","tool_use_id":"a","content":[' * depth + "]}" * depth
    for fields in (
        f'"output_config":{{"format":{{"type":"json_schema","schema":{schema}}}}}',
        f'"tools":[{{"name":"f","input_schema":{schema}}}]',
        f'"messages":[{{"role":"user","content":[{blocks}]}}]',
    ):
        messages = "" if "messages" in fields else ',"messages":[{"role":"user","content":"a"}]'
        body = f'{{"model":"m","max_tokens":1,{fields}{messages}}}'.encode()
        try:
            parse_messages(body)
        except InvalidRequest:
            assert depth > 50 or "messages" in fields


# -- counting ----------------------------------------------------------------------------------------------------------


def test_what_is_counted_is_what_would_be_asked() -> None:
    fields: dict[str, Any] = {
        "model": MODEL,
        "messages": [USER],
        "system": [text("be nice")],
        "tools": [TOOL],
        "tool_choice": {"type": "none"},
        "thinking": {"type": "enabled", "budget_tokens": 5000},
    }
    counted = parse_count(msgspec.json.encode(fields))
    assert counted.model == MODEL
    assert counted.chat == prompt(**{**fields, "max_tokens": 6000})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 5}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "thinking.budget_tokens"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0].type"),
    ],
)
def test_what_cannot_be_counted_is_named(fields: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse_count(msgspec.json.encode({"model": MODEL, "messages": [USER], **fields}))
    assert raised.value.field == param
