"""/v1/responses: what is taken, what it comes to, the shapes of answers and events, and what is kept for whom."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidRequest, Overloaded, Unavailable
from frontend.callers import ANYBODY
from frontend.events import Delta, Finish
from frontend.fields import UnknownParameter, UnsupportedParameter
from frontend.request import Chat, GenerateRequest, Grammar, GrammarKind
from frontend.rest.app import dialects_of
from frontend.rest.openai.responses.parse import parse_response
from frontend.rest.openai.responses.request_types import RESPONSE_OFF, ResponseRequest
from frontend.rest.openai.responses.store import Store
from frontend.rest.openapi import openapi_document
from frontend.tools import NO_TOOLS
from tests.frontend.fake_inference import MODEL, FakeInference, say
from tests.frontend.parsed_script import WEATHER, parsed, split
from tests.frontend.test_rest_app import error_of, rest_client
from tests.frontend.test_rest_bodies import NOT_JSON, values

PATH = "/v1/responses"
ASKED: dict[str, Any] = {"model": MODEL, "input": "hi"}
TOOL = {"type": "function", **WEATHER["function"], "strict": True}  # type: ignore[dict-item]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.fixture
def inference() -> FakeInference:
    return FakeInference()


@pytest.fixture
async def client(inference: FakeInference) -> AsyncIterator[httpx.AsyncClient]:
    async with rest_client(inference) as client:
        yield client


def generation(**fields: object) -> GenerateRequest:
    return parse_response(msgspec.json.encode({**ASKED, **fields}), Store().of(ANYBODY)).generation


def prompt(**fields: object) -> Chat:
    asked = generation(**fields).prompt
    assert isinstance(asked, Chat)
    return asked


async def post(client: httpx.AsyncClient, **fields: object) -> Any:
    response = await client.post(PATH, json={**ASKED, **fields})
    assert response.status_code == 200, response.text
    return response.json()


async def events(client: httpx.AsyncClient, **fields: object) -> list[Any]:
    response = await client.post(PATH, json={**ASKED, "stream": True, **fields})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *parts, end = response.text.split("\n\n")
    assert end == ""
    made = []
    for part in parts:
        name, data = part.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        made.append(event)
    assert [event["sequence_number"] for event in made] == list(range(len(made)))
    return made


# -- requests ----------------------------------------------------------------------------------------------------------


def test_parameters_are_handed_on() -> None:
    fields = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 7, "frequency_penalty": 1}
    made = generation(**fields, max_output_tokens=9, stop="x")
    assert {name: getattr(made, name) for name in fields} == fields
    assert (made.max_tokens, made.stop, made.logprobs) == (9, ("x",), None)
    assert generation(top_logprobs=3).logprobs == 3
    assert generation(top_logprobs=0).logprobs is None
    assert generation(include=["message.output_text.logprobs"]).logprobs == 0
    assert generation(include=["reasoning.encrypted_content"]).logprobs is None
    bare = generation()
    assert bare == GenerateRequest(prompt=bare.prompt, model=MODEL)
    nulls = dict.fromkeys({*ResponseRequest.__struct_fields__, *RESPONSE_OFF} - {"model", "input"})
    assert generation(**nulls) == bare


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name, values in RESPONSE_OFF.items() for value in values),
        ("user", "ann"),
        ("metadata", {"a": "b"}),
        ("truncation", "disabled"),
        ("reasoning", {"summary": "auto"}),
        ("text", {"format": {"type": "text"}, "verbosity": "medium"}),
        ("service_tier", "auto"),
        ("tool_choice", "auto"),
        ("tools", []),
        ("max_tool_calls", 3),
        ("store", False),
        ("background", False),
        ("background", True),
    ],
)
def test_what_asks_for_nothing_changes_nothing(name: str, value: object) -> None:
    assert generation(**{name: value}) == generation()


def test_formats() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "name": "x", "schema": schema, "strict": True, "description": None}
    assert generation(text={"format": form}).grammar == Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema))
    any_object = {"format": {"type": "json_object"}}
    assert generation(text=any_object).grammar == Grammar(GrammarKind.JSON_OBJECT)
    assert generation(text=any_object, tools=[TOOL], tool_choice="required").format_only


def test_items_become_a_conversation() -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'}
    other = {**call, "id": "fc_2", "call_id": "c2", "arguments": "", "status": "completed", "caller": None}
    said = {"type": "output_text", "text": "Let me see.", "annotations": [], "logprobs": []}
    items = [
        {"role": "developer", "content": "be brief"},
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}],
        },
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [said],
            "phase": None,
        },
        call,
        other,
        {"type": "function_call_output", "call_id": "c1", "output": "5"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "6"}], "name": "f"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "So."}]},
        {"role": "assistant", "content": "ok"},
        {"role": "assistant", "content": "and"},
        {"type": "reasoning", "summary": []},
        {"role": "user", "content": "c"},
    ]
    function = {"name": "f", "arguments": {"a": 1}}
    calls = [
        {"id": "c1", "type": "function", "function": function},
        {"id": "c2", "type": "function", "function": {**function, "arguments": {}}},
    ]
    thought = {"reasoning_content": "Hm.", "reasoning": "Hm.", "thinking": "Hm."}
    second = {"reasoning_content": "So.", "reasoning": "So.", "thinking": "So."}
    assert prompt(input=items, instructions="You are kind.").messages == (
        {"role": "system", "content": "You are kind."},
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "Let me see.", **thought, "tool_calls": calls},
        {"role": "tool", "content": "5", "tool_call_id": "c1", "name": "f"},
        {"role": "tool", "content": "6", "tool_call_id": "c2", "name": "f"},
        {"role": "assistant", "content": "ok", **second},
        {"role": "assistant", "content": "and"},
        {"role": "user", "content": "c"},
    )


def test_tools_become_those_that_templates_know() -> None:
    asked = prompt(tools=[TOOL], parallel_tool_calls=False, chat_template_kwargs={"enable_thinking": False})
    assert asked.tools == (WEATHER,)
    assert not asked.parallel_tool_calls
    assert asked.template_kwargs == {"enable_thinking": False}
    assert prompt(reasoning={"effort": "low"}).reasoning_effort == "low"
    assert asked.strict_tools == {"get_weather"}
    assert prompt(tools=[TOOL], tool_choice="none").tool_choice == NO_TOOLS
    assert prompt(tools=[TOOL], tool_choice="required").demanded == (WEATHER,)
    other = {"type": "function", "name": "other"}
    assert prompt(tools=[TOOL, other], tool_choice={"type": "function", "name": "get_weather"}).demanded == (WEATHER,)
    some = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get_weather"}]}
    assert prompt(tools=[TOOL, other], tool_choice=some).offered == (WEATHER,)


@pytest.mark.parametrize(
    ("fields", "param", "kind"),
    [
        ({"input": None}, "input", InvalidRequest),
        ({"input": 5}, "input", InvalidRequest),
        ({"input": [5]}, "input[0]", InvalidRequest),
        ({"input": [{"role": "robot", "content": "a"}]}, "input[0].role", InvalidRequest),
        ({"input": [{"role": "user"}]}, "input[0].content", InvalidRequest),
        ({"input": [{"role": "user", "content": "a", "mood": 1}]}, "input[0].mood", UnknownParameter),
        ({"input": [{"type": "web_search_call", "id": "a"}]}, "input[0].type", UnsupportedParameter),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0].type",
            UnsupportedParameter,
        ),
        (
            {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]},
            "input[0].encrypted_content",
            UnsupportedParameter,
        ),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "5"}]}, "input", InvalidRequest),
        (
            {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "5"}]},
            "input",
            InvalidRequest,
        ),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input", InvalidRequest),
        ({"input": [{"role": "user", "content": "a"}] * 4097}, "input", InvalidRequest),
        ({"previous_response_id": "resp_1"}, "previous_response_id", InvalidRequest),
        ({"background": True, "stream": True}, "stream", UnsupportedParameter),
        ({"background": True, "store": False}, "store", UnsupportedParameter),
        ({"conversation": "conv_1"}, "conversation", UnsupportedParameter),
        ({"prompt": {"id": "p"}}, "prompt", UnsupportedParameter),
        ({"truncation": "auto"}, "truncation", InvalidRequest),
        ({"reasoning": {"effort": "more"}}, "reasoning.effort", InvalidRequest),
        ({"reasoning": {"summary": "concise"}}, "reasoning.summary", InvalidRequest),
        ({"text": {"verbosity": "low"}}, "text.verbosity", InvalidRequest),
        ({"text": {"mood": "low"}}, "text.mood", UnknownParameter),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema", InvalidRequest),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type", InvalidRequest),
        ({"include": ["file_search_call.results"]}, "include[0]", InvalidRequest),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", UnsupportedParameter),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools", InvalidRequest),
        ({"tool_choice": "required"}, "tool_choice", InvalidRequest),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice", InvalidRequest),
        ({"tools": [TOOL], "tool_choice": {"type": "mcp"}}, "tool_choice.type", InvalidRequest),
        ({"top_logprobs": 21}, "top_logprobs", InvalidRequest),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options", InvalidRequest),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
            InvalidRequest,
        ),
        ({"metadata": {str(i): "x" for i in range(17)}}, "metadata", InvalidRequest),
        ({"tools": [{**TOOL, "parameters": nested(200)}]}, "tools", InvalidRequest),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": nested(200)}}}, "text", InvalidRequest),
        ({"n": 2}, "n", UnknownParameter),
        ({"messages": []}, "messages", UnknownParameter),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, object], param: str, kind: type[InvalidRequest]) -> None:
    with pytest.raises(kind) as raised:
        generation(**fields)
    assert raised.value.field == param


async def test_errors_are_named_as_the_client_spelled_them(client: httpx.AsyncClient) -> None:
    for fields, status, param, code in (
        ({"max_output_tokens": 0}, 400, "max_output_tokens", None),
        ({"max_output_tokens": 5000}, 400, "max_output_tokens", "context_length_exceeded"),
        ({"input": "x" * 5000}, 400, "input", "context_length_exceeded"),
        ({"temperature": 3}, 400, "temperature", None),
        ({"model": "other"}, 404, "model", "model_not_found"),
        ({"previous_response_id": "resp_1"}, 400, "previous_response_id", "previous_response_not_found"),
    ):
        for stream in (False, True):
            response = await client.post(PATH, json={**ASKED, **fields, "stream": stream})
            assert response.status_code == status
            error = error_of(response)
            assert (error["param"], error["code"]) == (param, code)


# -- answers -----------------------------------------------------------------------------------------------------------


async def test_a_whole_response(client: httpx.AsyncClient) -> None:
    made = await post(client, metadata={"a": "b"}, temperature=0.5, instructions="Be kind.")
    assert made["created_at"] <= made["completed_at"]
    (item,) = made["output"]
    assert item.pop("id").startswith("msg_")
    part = {"type": "output_text", "text": "Hello!", "annotations": [], "logprobs": []}
    assert item == {"type": "message", "role": "assistant", "content": [part], "status": "completed"}
    expected = {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": "Be kind.",
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {"a": "b"},
        "model": MODEL,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": True,
        "temperature": 0.5,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": None,
        "truncation": "disabled",
        "usage": {
            "input_tokens": 24,
            "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
            "output_tokens": 6,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 30,
        },
        "user": None,
    }
    assert {
        name: value for name, value in made.items() if name not in ("created_at", "completed_at", "output")
    } == expected


async def test_the_events_of_a_text(client: httpx.AsyncClient) -> None:
    made = await events(client)
    assert [event["type"] for event in made] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    created, _, added, part_added, delta, *_, text_done, part_done, item_done, completed = made
    assert created["response"]["status"] == "in_progress"
    assert created["response"]["output"] == []
    assert "usage" in created["response"]
    assert added["item"] == {**item_done["item"], "content": [], "status": "in_progress"}
    assert part_added["part"] == {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    place = {"item_id": added["item"]["id"], "output_index": 0, "content_index": 0}
    for event in (part_added, delta, text_done, part_done):
        assert {name: event[name] for name in place} == place
    assert (delta["delta"], delta["logprobs"]) == ("Hel", [])
    assert (text_done["text"], text_done["logprobs"]) == ("Hello!", [])
    assert part_done["part"]["text"] == "Hello!"
    assert completed["response"]["output"] == [item_done["item"]]
    assert completed["response"]["status"] == "completed"
    assert completed["response"]["id"] == created["response"]["id"]


async def test_what_is_streamed_is_what_is_answered_whole() -> None:
    script = parsed(*split(f"<think>\nHm.\n</think>\n\nLet me see.{CALL}\n{CALL}"), reasoning="think")
    async with rest_client(FakeInference(script)) as client:
        whole = await post(client, tools=[TOOL])
        made = await events(client, tools=[TOOL])
    assert [item["type"] for item in whole["output"]] == ["reasoning", "message", "function_call", "function_call"]
    reasoning, message, first, second = whole["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert (reasoning["summary"], reasoning["encrypted_content"]) == ([], None)
    assert message["content"][0]["text"] == "Let me see."
    assert [(call["name"], json.loads(call["arguments"])) for call in (first, second)] == [
        ("get_weather", {"city": "Paris"})
    ] * 2
    assert first["call_id"] != second["call_id"]
    assert whole["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    built: dict[int, Any] = {}
    for event in made:
        index = event.get("output_index")
        match event["type"].removeprefix("response."):
            case "output_item.added":
                assert index == len(built)
                built[index] = [event["item"]["id"], "", None]
            case "output_text.delta" | "reasoning_text.delta" | "function_call_arguments.delta":
                assert event["item_id"] == built[index][0]
                built[index][1] += event["delta"]
            case "output_text.done" | "reasoning_text.done":
                assert event["text"] == built[index][1]
            case "function_call_arguments.done":
                assert (event["arguments"], event["name"]) == (built[index][1], "get_weather")
            case "output_item.done":
                assert event["item"]["id"] == built[index][0]
                assert event["item"]["status"] == "completed"
                built[index][2] = event["item"]
    assert made[-1]["response"]["output"] == [item for _, _, item in built.values()]
    assert list(map(nameless, made[-1]["response"]["output"])) == list(map(nameless, whole["output"]))


def nameless(item: dict[str, Any]) -> dict[str, Any]:
    """Without what is drawn at random."""
    return {key: value for key, value in item.items() if key not in ("id", "call_id")}


async def test_one_item_ends_where_another_begins() -> None:
    script = parsed(CALL, " So it is.", CALL)
    async with rest_client(FakeInference(script)) as client:
        made = await events(client, tools=[TOOL])
    kinds = [(event["item"]["type"], event["type"].rpartition(".")[2]) for event in made if "item" in event]
    names = ["function_call", "message", "function_call"]
    assert kinds == [(name, what) for name in names for what in ("added", "done")]


async def test_an_answer_that_is_cut_is_incomplete() -> None:
    async with rest_client(FakeInference(say("Hel", reason=Finish.LENGTH, matched=None))) as client:
        made = await post(client, max_output_tokens=3)
        assert (made["status"], made["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
        assert (made["output"][0]["status"], made["completed_at"]) == ("incomplete", None)
        *_, last = await events(client, max_output_tokens=3)
        assert last["type"] == "response.incomplete"
        assert last["response"]["usage"]["output_tokens"] == 3


async def test_an_answer_that_says_nothing_is_an_empty_message() -> None:
    async with rest_client(FakeInference(say())) as client:
        (item,) = (await post(client))["output"]
        assert item["content"] == [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}]
        made = await events(client)
        assert "response.output_text.done" in [event["type"] for event in made]


async def test_logprobs_are_of_text() -> None:
    async with rest_client(FakeInference(say("h\u00e9", "", "a"))) as client:
        made = await post(client, top_logprobs=1)
        entries = made["output"][0]["content"][0]["logprobs"]
        assert [entry["token"] for entry in entries] == ["h", "bytes:\\xc3", "bytes:\\xa9", "a"]
        assert entries[0]["top_logprobs"] == [{"token": "h", "logprob": -0.5, "bytes": [104]}]
        streamed = await events(client, include=["message.output_text.logprobs"])
        deltas = [entry for event in streamed if event["type"].endswith("text.delta") for entry in event["logprobs"]]
        assert [entry["token"] for entry in deltas] == [entry["token"] for entry in entries]
        (done,) = [event for event in streamed if event["type"] == "response.output_text.done"]
        assert done["logprobs"] == deltas
        assert deltas[0]["top_logprobs"] == []


async def test_what_fails_in_the_middle_is_told_in_the_stream() -> None:
    script = [Delta("par", (1,), 0), Unavailable("the worker is gone")]
    async with rest_client(FakeInference(scripts=[script, [Overloaded("full", retry_after_s=1)], say("so")])) as client:
        *_, last = await events(client)
        assert last["type"] == "response.failed"
        failed = last["response"]
        assert (failed["status"], failed["error"]) == (
            "failed",
            {"code": "server_error", "message": "the worker is gone"},
        )
        assert failed["output"][0]["content"][0]["text"] == "par"
        assert (await client.get(f"{PATH}/{failed['id']}")).json() == failed
        response = await client.post(PATH, json={**ASKED, "stream": True})
        assert (response.status_code, response.headers["retry-after"]) == (429, "1")
        assert (await post(client))["status"] == "completed"


async def test_events_are_as_they_are_documented() -> None:
    schemas: Any = openapi_document(dialects_of(FakeInference()))["components"]
    script = parsed(f"<think>Hm.</think>Well.{CALL}", reasoning="think")
    async with rest_client(FakeInference(script)) as client:
        made = await events(client, tools=[TOOL], top_logprobs=2)
    for event in made:
        (schema,) = [
            schema
            for schema in schemas["schemas"].values()
            if event["type"] in schema.get("properties", {}).get("type", {}).get("enum", ())
        ]
        assert set(event) == set(schema["properties"])
        jsonschema.validate(event, {**schema, "components": schemas})
    documents = [event["response"] for event in made if "response" in event]
    for document in documents:
        jsonschema.validate(document, {**schemas["schemas"]["ResponseDocument"], "components": schemas})


# -- what is kept ------------------------------------------------------------------------------------------------------


async def test_a_response_goes_on_with_another(client: httpx.AsyncClient, inference: FakeInference) -> None:
    first = await post(client, instructions="Be kind.", input=[{"role": "user", "content": "a"}])
    second = await post(client, input="b", previous_response_id=first["id"])
    assert second["previous_response_id"] == first["id"]
    (await events(client, input="c", previous_response_id=second["id"]))[-1]
    asked = inference.requests[-1].prompt
    assert isinstance(asked, Chat)
    said = {"role": "assistant", "content": "Hello!"}
    assert asked.messages == (
        {"role": "user", "content": "a"},
        said,
        {"role": "user", "content": "b"},
        said,
        {"role": "user", "content": "c"},
    )
    branched = await post(client, input="d", previous_response_id=first["id"])
    assert branched["status"] == "completed"


async def test_calls_are_answered_by_the_next_response(inference: FakeInference) -> None:
    inference.scripts = [parsed(CALL), say("Sunny.")]
    async with rest_client(inference) as client:
        first = await post(client, tools=[TOOL])
        output = {"type": "function_call_output", "call_id": first["output"][0]["call_id"], "output": "sun"}
        await post(client, tools=[TOOL], input=[output], previous_response_id=first["id"])
    asked = inference.requests[-1].prompt
    assert isinstance(asked, Chat)
    assert [message["role"] for message in asked.messages] == ["user", "assistant", "tool"]


async def test_retrieving_and_forgetting(client: httpx.AsyncClient) -> None:
    made = await post(client)
    path = f"{PATH}/{made['id']}"
    assert (await client.get(path)).json() == made
    cancelled = await client.post(f"{path}/cancel")
    assert cancelled.status_code == 400
    assert "background" in (error_of(cancelled)["message"] or "")
    deleted = await client.delete(path)
    assert deleted.json() == {"id": made["id"], "object": "response", "deleted": True}
    for verb, end in (("get", ""), ("delete", ""), ("post", "/cancel"), ("get", "/input_items")):
        response = await client.request(verb, path + end)
        assert response.status_code == 404
        assert error_of(response)["type"] == "invalid_request_error"
    assert (await client.post(PATH, json={**ASKED, "previous_response_id": made["id"]})).status_code == 400


async def test_what_is_not_to_be_kept_is_not(client: httpx.AsyncClient) -> None:
    made = await post(client, store=False)
    assert made["store"] is False
    assert (await client.get(f"{PATH}/{made['id']}")).status_code == 404


async def test_items_can_be_listed_and_named_again(client: httpx.AsyncClient, inference: FakeInference) -> None:
    items = [{"role": "user", "content": str(i)} for i in range(5)]
    made = await post(client, input=items)
    path = f"{PATH}/{made['id']}/input_items"
    newest = (await client.get(path)).json()
    assert [item["content"] for item in newest["data"]] == [
        [{"type": "input_text", "text": str(i)}] for i in (4, 3, 2, 1, 0)
    ]
    assert (newest["object"], newest["has_more"]) == ("list", False)
    assert (newest["first_id"], newest["last_id"]) == (newest["data"][0]["id"], newest["data"][-1]["id"])
    page = (await client.get(path, params={"order": "asc", "limit": 2})).json()
    assert [item["content"][0]["text"] for item in page["data"]] == ["0", "1"]
    assert page["has_more"]
    rest = (await client.get(path, params={"order": "asc", "after": page["last_id"]})).json()
    assert [item["content"][0]["text"] for item in rest["data"]] == ["2", "3", "4"]
    for query in ({"limit": 0}, {"limit": "x"}, {"order": "up"}, {"after": "x"}, {"include": "x"}, {"mood": "x"}):
        response = await client.get(path, params=query)
        assert (response.status_code, error_of(response)["param"]) == (400, next(iter(query)))
    referred = [{"type": "item_reference", "id": made["output"][0]["id"]}, {"id": page["first_id"]}]
    await post(client, input=referred)
    asked = inference.requests[-1].prompt
    assert isinstance(asked, Chat)
    assert asked.messages == ({"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "0"})


async def test_a_stream_cannot_be_had_again(client: httpx.AsyncClient) -> None:
    made = await post(client)
    response = await client.get(f"{PATH}/{made['id']}", params={"stream": "true"})
    assert (response.status_code, error_of(response)["param"]) == (400, "stream")
    assert (await client.get(f"{PATH}/{made['id']}", params={"stream": "false"})).status_code == 200


async def test_tokens_are_counted(client: httpx.AsyncClient, inference: FakeInference) -> None:
    response = await client.post(f"{PATH}/input_tokens", json={"model": MODEL, "input": "hi", "instructions": "Be."})
    assert response.json() == {"object": "response.input_tokens", "input_tokens": len("system:Be.\nuser:hi\n")}
    assert not inference.requests
    first = await post(client)
    counted = {"input": "hi", "previous_response_id": first["id"]}
    response = await client.post(f"{PATH}/input_tokens", json=counted)
    assert response.json()["input_tokens"] == len("user:hi\nassistant:Hello!\nuser:hi\n")
    missing = await client.post(f"{PATH}/input_tokens", json={"model": "other", "input": "a"})
    assert missing.status_code == 404
    unknown = await client.post(f"{PATH}/input_tokens", json={"input": "a", "temperature": 1})
    assert error_of(unknown)["code"] == "unknown_parameter"


# -- in the background -------------------------------------------------------------------------------------------------


async def status(client: httpx.AsyncClient, response_id: str) -> Any:
    return (await client.get(f"{PATH}/{response_id}")).json()


async def test_a_response_is_made_while_nobody_waits(inference: FakeInference) -> None:
    go = asyncio.Event()
    inference.script = [*say("Hel")[:1], go, *say("lo", reason=Finish.LENGTH, matched=None)]
    async with rest_client(inference) as client:
        begun = await post(client, background=True)
        assert (begun["status"], begun["background"], begun["output"]) == ("in_progress", True, [])
        assert await status(client, begun["id"]) == begun
        early = await client.post(PATH, json={**ASKED, "previous_response_id": begun["id"]})
        assert (early.status_code, error_of(early)["param"]) == (400, "previous_response_id")
        go.set()
        await inference.idle.wait()
        await asyncio.sleep(0)
        ended = await status(client, begun["id"])
        assert (ended["status"], ended["usage"]["output_tokens"]) == ("incomplete", 2)
        assert ended["output"][0]["content"][0]["text"] == "Hello"
        assert (await client.post(f"{PATH}/{begun['id']}/cancel")).json() == ended, "there is nothing left to end"
        await post(client, previous_response_id=begun["id"])


async def test_a_response_is_cancelled(inference: FakeInference) -> None:
    inference.script = [*say("Hel")[:1], asyncio.Event()]
    async with rest_client(inference) as client:
        begun = await post(client, background=True)
        cancelled = (await client.post(f"{PATH}/{begun['id']}/cancel")).json()
        assert inference.idle.is_set()
        assert (cancelled["id"], cancelled["status"]) == (begun["id"], "cancelled")
        assert cancelled["output"][0]["status"] == "incomplete"
        assert await status(client, begun["id"]) == cancelled
        deleted = await post(client, background=True)
        await client.delete(f"{PATH}/{deleted['id']}")
        await inference.idle.wait()
        assert (await client.get(f"{PATH}/{deleted['id']}")).status_code == 404


async def test_what_fails_in_the_background_is_told_who_asks() -> None:
    scripts = [
        [Overloaded("full", retry_after_s=1)],
        [*say("par")[:1], Unavailable("gone")],
        [*say("par")[:1], ValueError()],
    ]
    inference = FakeInference(scripts=scripts)
    async with rest_client(inference) as client:
        refused = await client.post(PATH, json={**ASKED, "background": True})
        assert refused.status_code == 429
        wrong = await client.post(PATH, json={**ASKED, "background": True, "max_output_tokens": 5000})
        assert (wrong.status_code, error_of(wrong)["param"]) == (400, "max_output_tokens")
        inference.scripts = list(scripts[1:])
        for message in ("gone", "internal error"):
            begun = await post(client, background=True)
            await inference.idle.wait()
            await asyncio.sleep(0)
            ended = await status(client, begun["id"])
            assert (ended["status"], ended["error"]["message"]) == ("failed", message)


# -- anything at all ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
async def test_bodies_that_are_no_json_object(body: bytes, client: httpx.AsyncClient) -> None:
    for path in (PATH, f"{PATH}/input_tokens"):
        response = await client.post(path, content=body)
        assert response.status_code == 400
        assert error_of(response)["type"] == "invalid_request_error"


names = sorted({*ResponseRequest.__struct_fields__, *RESPONSE_OFF, "x"})


item = st.fixed_dictionaries(
    {},
    optional={
        name: st.sampled_from(options) | values
        for name, options in {
            "type": ["message", "reasoning", "function_call", "function_call_output", "item_reference"],
            "role": ["user", "assistant"],
            "content": ["a"],
            "summary": [[]],
            "call_id": ["c"],
            "name": ["f"],
            "arguments": ["{}"],
            "output": ["5"],
            "id": ["x"],
        }.items()
    },
)
bodies = st.dictionaries(st.sampled_from(names), values, max_size=4)


@settings(max_examples=100, deadline=None)
@given(body=bodies, items=st.lists(item, max_size=4) | values)
async def test_no_body_is_a_server_error(body: dict[str, object], items: object) -> None:
    async with rest_client(FakeInference()) as client:
        response = await client.post(PATH, content=msgspec.json.encode({"model": MODEL, **body, "input": items}))
        assert response.status_code < 500
        if response.status_code != 200:
            assert error_of(response)["type"] == "invalid_request_error"
