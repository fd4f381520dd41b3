"""Tools and reasoning in chat: what is taken, what it comes to, and the shapes of answers, whole and in chunks."""

import json
from typing import Any

import msgspec
import pytest

from engine.errors import InvalidRequest
from frontend.events import Finish
from frontend.fields import UnknownParameter
from frontend.request import Chat
from frontend.rest.openai.parse import Ask, parse_chat
from frontend.tools import NO_TOOLS, ToolChoice, ToolMode
from tests.frontend.fake_inference import MODEL, FakeInference, say
from tests.frontend.parsed_script import WEATHER, parsed, split
from tests.frontend.test_rest_answers import CHAT, QUESTION, chunks, post
from tests.frontend.test_rest_app import error_of, rest_client

MESSAGES = [{"role": "user", "content": "hi"}]
ASKED: dict[str, Any] = {**QUESTION, "tools": [WEATHER]}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


def chat(**fields: object) -> Ask:
    return parse_chat(msgspec.json.encode({"model": MODEL, "messages": MESSAGES, **fields}))


def prompt(**fields: object) -> Chat:
    (generation,) = chat(**fields).generations
    assert isinstance(generation.prompt, Chat)
    return generation.prompt


# -- requests ----------------------------------------------------------------------------------------------------------


def test_tools_reach_the_template_as_they_were_written() -> None:
    function = {"parameters": {"b": 1, "a": None}, "name": "f", "strict": True, "description": None}
    (tool,) = prompt(tools=[{"function": function, "type": "function"}], tool_choice="auto").tools
    assert json.dumps(tool) == '{"function": {"parameters": {"b": 1, "a": null}, "name": "f"}, "type": "function"}'
    assert prompt(tools=[{"function": function, "type": "function"}, WEATHER]).strict_tools == {"f"}
    assert prompt(functions=[function]).strict_tools == {"f"}
    assert prompt(tools=[WEATHER]).offered == (WEATHER,)
    none = prompt(tools=[WEATHER], tool_choice="none")
    assert (none.tool_choice, none.offered) == (NO_TOOLS, ())
    assert prompt(tools=[]) == prompt()
    assert not prompt(tools=[WEATHER], parallel_tool_calls=False).parallel_tool_calls


def test_functions_are_tools() -> None:
    ask = chat(functions=[WEATHER["function"]], function_call="auto")
    assert ask.functions
    asked = ask.generations[0].prompt
    assert isinstance(asked, Chat)
    assert asked.tools == (WEATHER,)
    assert not asked.parallel_tool_calls
    assert prompt(functions=[WEATHER["function"]], function_call="none").tool_choice == NO_TOOLS
    assert prompt(functions=[]) == prompt()


def test_conversations_with_tools() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"b": 1, "a": [2.0]}'}}
    bare = {"id": "c2", "index": 1, "function": {"name": "g", "arguments": ""}}
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call, bare], "reasoning_content": "hm"},
        {"role": "tool", "content": [{"type": "text", "text": "5"}], "tool_call_id": "c1"},
        {"role": "assistant", "content": "", "tool_calls": [call], "reasoning": "so"},
        {"role": "assistant", "content": "ok", "tool_calls": []},
        {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "6"},
    ]
    called = {**call, "function": {"name": "f", "arguments": {"b": 1, "a": [2.0]}}}
    empty = {"id": "c2", "type": "function", "function": {"name": "g", "arguments": {}}}
    legacy = {"id": "fn0000005", "type": "function", "function": {"name": "f", "arguments": {}}}
    thought = {"reasoning_content": "hm", "reasoning": "hm", "thinking": "hm"}
    second = {"reasoning_content": "so", "reasoning": "so", "thinking": "so"}
    assert prompt(messages=messages).messages == (
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [called, empty], **thought},
        {"role": "tool", "content": "5", "tool_call_id": "c1"},
        {"role": "assistant", "content": "", "tool_calls": [called], **second},
        {"role": "assistant", "content": "ok"},
        {"role": "assistant", "content": None, "tool_calls": [legacy]},
        {"role": "tool", "content": "6", "name": "f", "tool_call_id": "fn0000005"},
    )


def test_what_the_template_is_told_besides() -> None:
    asked = prompt(documents=[{"title": "a", "n": 1}], chat_template_kwargs={"enable_thinking": False})
    assert asked.documents == ({"title": "a", "n": 1},)
    assert asked.template_kwargs == {"enable_thinking": False}
    continued = prompt(continue_final_message=True)
    assert (continued.continue_final_message, continued.add_generation_prompt) == (True, False)
    assert prompt(reasoning_effort="low").reasoning_effort == "low"
    assert chat(separate_reasoning=False).generations[0].separate_reasoning is False


FUNCTION = WEATHER["function"]
NAMED = {"type": "function", "function": {"name": "get_weather"}}
OTHER = {"type": "function", "function": {"name": "other"}}


def allowed(mode: str, *names: str) -> dict[str, object]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


ASSISTANT = {"role": "assistant", "content": None}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [{}]}, "tools[0].type"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a" * 129}}]}, "tools[0].function.name"),
        ({"tools": [WEATHER] * 257}, "tools"),
        ({"tools": [WEATHER], "functions": [FUNCTION]}, "functions"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
        ({"tools": [WEATHER], "tool_choice": allowed("required", "x")}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": allowed("required")}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "custom"}}, "tool_choice.type"),
        ({"functions": [{"name": "a b"}]}, "functions"),
        ({"functions": [FUNCTION], "function_call": {"name": "x"}}, "function_call"),
        ({"functions": [FUNCTION], "function_call": "none", "tool_choice": "none"}, "function_call"),
        ({"documents": [5]}, "documents[0]"),
        ({"documents": [{}] * 1025}, "documents"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"messages": [{**ASSISTANT}]}, "messages[0].content"),
        ({"messages": [{**ASSISTANT, "tool_calls": []}]}, "messages[0].content"),
        ({"messages": [{**ASSISTANT, "tool_calls": [{}]}]}, "messages[0].tool_calls[0].id"),
        ({"messages": [{**ASSISTANT, "tool_calls": [5]}]}, "messages[0].tool_calls[0]"),
        ({"messages": [{"role": "tool", "tool_call_id": "a"}]}, "messages[0].content"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        chat(**fields)
    assert raised.value.field == param


@pytest.mark.parametrize("arguments", ["{", "[1]", "5", '{"a": NaN}', '"x"', "[" * 100_000])
def test_arguments_of_earlier_calls_must_be_objects(arguments: str) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    with pytest.raises(InvalidRequest, match="JSON object") as raised:
        chat(messages=[{"role": "assistant", "tool_calls": [call]}])
    assert raised.value.field == "messages[0].tool_calls[0].function.arguments"


def test_only_assistants_call() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    with pytest.raises(InvalidRequest, match="assistant") as raised:
        chat(messages=[{"role": "user", "content": "x", "tool_calls": [call]}])
    assert raised.value.field == "messages[0].tool_calls"


def test_unknown_fields_of_tools_are_refused() -> None:
    for tool in ({**WEATHER, "mood": 1}, {"type": "function", "function": {**FUNCTION, "mood": 1}}):
        with pytest.raises(InvalidRequest, match="mood"):
            chat(tools=[tool])
    with pytest.raises(UnknownParameter):
        chat(tool=1)


def test_who_chooses() -> None:
    tools = [WEATHER, OTHER]
    assert prompt(tools=tools, tool_choice="auto").tool_choice == ToolChoice(ToolMode.AUTO)
    required = prompt(tools=tools, tool_choice="required")
    assert required.demanded == required.offered == (WEATHER, OTHER)
    named = prompt(tools=tools, tool_choice=NAMED)
    assert (named.demanded, named.offered) == ((WEATHER,), (WEATHER, OTHER))
    legacy = prompt(functions=[FUNCTION, OTHER["function"]], function_call={"name": "other"})
    assert legacy.demanded == (OTHER,)
    some = prompt(tools=tools, tool_choice=allowed("required", "other"))
    assert some.demanded == some.offered == (OTHER,)
    any_of = prompt(tools=tools, tool_choice=allowed("auto", "get_weather"))
    assert (any_of.demanded, any_of.offered) == ((), (WEATHER,))


def test_the_format_of_content_binds_no_calls() -> None:
    """A grammar is of the whole answer."""
    tags = {"type": "structural_tag", "structures": [], "triggers": []}
    for fields, is_format in (
        ({"response_format": {"type": "json_object"}}, True),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}}, True),
        ({"response_format": tags}, False),
        ({"guided_json": {}}, False),
        ({"structured_outputs": {"regex": "a"}}, False),
        ({"response_format": {"type": "text"}}, False),
    ):
        assert chat(tools=[WEATHER], **fields).generations[0].format_only == is_format


# -- answers -----------------------------------------------------------------------------------------------------------


async def test_a_whole_answer_with_calls() -> None:
    script = parsed(*split(f"Let me see.\n{CALL}\n{CALL}"))
    async with rest_client(FakeInference(script)) as client:
        (choice,) = (await post(client, CHAT, ASKED))["choices"]
    assert choice["finish_reason"] == "tool_calls"
    first, second = choice["message"].pop("tool_calls")
    assert choice["message"] == {"role": "assistant", "content": "Let me see.", "refusal": None}
    function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    assert first == {"id": first["id"], "type": "function", "function": function}
    assert second["function"] == function
    assert first["id"] != second["id"]


async def test_content_is_null_beside_calls_and_empty_beside_nothing() -> None:
    async with rest_client(FakeInference(scripts=[parsed(CALL), parsed("")])) as client:
        (choice,) = (await post(client, CHAT, ASKED))["choices"]
        assert choice["message"]["content"] is None
        (choice,) = (await post(client, CHAT, ASKED))["choices"]
        assert choice["message"] == {"role": "assistant", "content": "", "refusal": None}


def deltas(events: list[Any]) -> list[Any]:
    return [(event["choices"][0]["delta"], event["choices"][0]["finish_reason"]) for event in events]


async def test_a_streamed_call_is_spelled_as_openai_does() -> None:
    script = parsed(
        "Well.\n<tool_call>", '{"name": "get_weather", "arguments": {"city"', ': "Paris"}}', "\n</tool_call>"
    )
    async with rest_client(FakeInference(script)) as client:
        events = await chunks(client, CHAT, ASKED)
    heads = [{key: value for key, value in event.items() if key != "choices"} for event in events]
    assert heads == [heads[0]] * len(events)
    call_id = events[2]["choices"][0]["delta"]["tool_calls"][0]["id"]
    begun = {"index": 0, "id": call_id, "type": "function", "function": {"name": "get_weather", "arguments": ""}}
    assert deltas(events) == [
        ({"role": "assistant", "content": "", "refusal": None}, None),
        ({"content": "Well."}, None),
        ({"tool_calls": [begun]}, None),
        ({"tool_calls": [{"index": 0, "function": {"arguments": '{"city"'}}]}, None),
        ({"tool_calls": [{"index": 0, "function": {"arguments": ': "Paris"}'}}]}, None),
        ({}, "tool_calls"),
    ]
    assert all(event["choices"][0]["logprobs"] is None for event in events)


async def test_the_first_chunk_of_an_answer_may_be_a_call() -> None:
    async with rest_client(FakeInference(parsed(CALL + CALL))) as client:
        events = await chunks(client, CHAT, ASKED)
    opening, *called, last = deltas(events)
    assert opening == ({"role": "assistant", "content": "", "refusal": None}, None)
    parts = [delta["tool_calls"][0] for delta, _ in called]
    assert [part["index"] for part in parts] == [0, 0, 1, 1]
    assert ["id" in part for part in parts] == [True, False, True, False]
    assert last == ({}, "tool_calls")


async def test_a_call_that_is_cut_ends_for_its_length() -> None:
    async with rest_client(FakeInference(parsed(CALL[:-20], cut=True))) as client:
        (choice,) = (await post(client, CHAT, ASKED))["choices"]
        assert choice["finish_reason"] == "length"
        assert choice["message"]["tool_calls"][0]["function"]["name"] == "get_weather"
        assert deltas(await chunks(client, CHAT, ASKED))[-1] == ({}, "length")


async def test_functions_are_answered_as_they_were() -> None:
    asked = {**QUESTION, "functions": [FUNCTION]}
    async with rest_client(FakeInference(parsed(CALL))) as client:
        (choice,) = (await post(client, CHAT, asked))["choices"]
        call = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
        message = {"role": "assistant", "content": None, "refusal": None, "function_call": call}
        assert choice["message"] == message
        assert choice["finish_reason"] == "function_call"
        assert deltas(await chunks(client, CHAT, asked))[1:] == [
            ({"function_call": {"name": "get_weather", "arguments": ""}}, None),
            ({"function_call": {"arguments": '{"city": "Paris"}'}}, None),
            ({}, "function_call"),
        ]


async def test_reasoning_has_both_names_and_is_counted() -> None:
    script = parsed("Hm.", "</think>", "Yes.", tools="none", reasoning="think", prompt_end="<think>")
    body = {**QUESTION, "stream_options": {"include_usage": True}}
    async with rest_client(FakeInference(script)) as client:
        answer = await post(client, CHAT, QUESTION)
        *events, last = await chunks(client, CHAT, body)
    assert answer["choices"][0]["message"] == {
        "role": "assistant",
        "content": "Yes.",
        "refusal": None,
        "reasoning_content": "Hm.",
        "reasoning": "Hm.",
    }
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": len("Hm.</think>")}
    assert last["usage"] == answer["usage"]
    assert [delta for delta, _ in deltas(events)] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"reasoning_content": "Hm.", "reasoning": "Hm."},
        {"content": "Yes."},
        {},
    ]


async def test_logprobs_are_told_once_each() -> None:
    script = parsed("Hm.</think>Yes." + CALL, reasoning="think", prompt_end="<think>")
    async with rest_client(FakeInference(script)) as client:
        events = await chunks(client, CHAT, {**ASKED, "logprobs": True})
        (choice,) = (await post(client, CHAT, {**ASKED, "logprobs": True}))["choices"]
    told = [event["choices"][0]["logprobs"] for event in events]
    assert [entry for logprobs in told if logprobs for entry in logprobs["content"]] == choice["logprobs"]["content"]
    assert len(choice["logprobs"]["content"]) == len("Hm.</think>Yes." + CALL)


async def test_several_answers_call_on_their_own() -> None:
    scripts = [parsed(*split(CALL)), say("Sunny."), parsed(CALL)]
    async with rest_client(FakeInference(scripts=[*scripts, *scripts])) as client:
        whole = await post(client, CHAT, {**ASKED, "n": 3})
        events = await chunks(client, CHAT, {**ASKED, "n": 3})
    assert [choice["finish_reason"] for choice in whole["choices"]] == ["tool_calls", "stop", "tool_calls"]
    assert [Finish(choice["finish_reason"]) for choice in whole["choices"]][1] is Finish.STOP
    arguments = dict.fromkeys(range(3), "")
    for event in events:
        (choice,) = event["choices"]
        for part in choice["delta"].get("tool_calls", ()):
            arguments[choice["index"]] += part["function"]["arguments"]
    assert arguments == {0: '{"city": "Paris"}', 1: "", 2: '{"city": "Paris"}'}


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({**ASKED, "tool_choice": NAMED}, "stop"),
        ({**ASKED, "tool_choice": "required"}, "tool_calls"),
        ({**QUESTION, "functions": [FUNCTION], "function_call": {"name": "get_weather"}}, "stop"),
    ],
)
async def test_a_call_that_was_named_is_no_reason_to_end(asked: dict[str, Any], reason: str) -> None:
    async with rest_client(FakeInference(parsed(CALL))) as client:
        (choice,) = (await post(client, CHAT, asked))["choices"]
        *_, (delta, streamed) = deltas(await chunks(client, CHAT, asked))
    assert (choice["finish_reason"], delta, streamed) == (reason, {}, reason)
    assert ("tool_calls" in choice["message"]) != ("function_call" in choice["message"])
    async with rest_client(FakeInference(parsed(CALL[:-20], cut=True))) as client:
        (choice,) = (await post(client, CHAT, asked))["choices"]
    assert choice["finish_reason"] == "length"


async def test_errors_name_the_parameter_in_openais_words() -> None:
    async with rest_client(FakeInference()) as client:
        response = await client.post(CHAT, json={**ASKED, "tool_choice": {"type": "custom"}})
        assert response.status_code == 400
        error = error_of(response)
        assert (error["type"], error["param"]) == ("invalid_request_error", "tool_choice.type")


@pytest.mark.parametrize(
    ("field", "asked", "param"),
    [
        ("tools", {"tools": [WEATHER]}, "tools"),
        ("tools", {"functions": [FUNCTION]}, "functions"),
        ("template_kwargs", {}, "chat_template_kwargs"),
    ],
)
async def test_what_the_model_refuses_is_named_as_the_client_spelled_it(
    field: str, asked: dict[str, Any], param: str
) -> None:
    async with rest_client(FakeInference([InvalidRequest("no", field=field)])) as client:
        response = await client.post(CHAT, json={**QUESTION, **asked})
        assert error_of(response)["param"] == param
