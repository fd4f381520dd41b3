"""The shapes of Anthropic's answers, whole and in events, of its errors, and who gets them on paths that are shared."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import msgspec
import pytest

from engine.errors import (
    CODES,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    PermissionDenied,
    Poisoned,
    ProtocolError,
    TandemError,
    Unavailable,
    UnknownModel,
    Unsupported,
)
from frontend.callers import KeyRing
from frontend.events import CallDelta, Delta, Finish, Finished, Usage
from frontend.rest.anthropic import request_types as types
from frontend.rest.anthropic.parse import parse_count, parse_messages
from frontend.rest.app import build_app, dialects_of
from frontend.rest.openapi import openapi_document
from tests.frontend.fake_inference import EOS, MODEL, TIMING, FakeInference, Step, say
from tests.frontend.parsed_script import WEATHER, parsed, split
from tests.frontend.test_callers import entry, key_file
from tests.frontend.test_rest_app import error_of, rest_client
from tests.frontend.test_rest_server import served

MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
VERSION = {"anthropic-version": "2023-06-01"}
QUESTION: dict[str, Any] = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
SCHEMA = WEATHER["function"]["parameters"]  # type: ignore[index]
TOOLS = [{"name": "get_weather", "input_schema": SCHEMA}]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
THOUGHT = parsed("Hm.", " So.</think>", "Yes.", tools="none", reasoning="think", prompt_end="<think>")


@pytest.fixture
def inference() -> FakeInference:
    return FakeInference()


@pytest.fixture
async def client(inference: FakeInference) -> AsyncIterator[httpx.AsyncClient]:
    async with rest_client(inference) as client:
        yield client


async def post(client: httpx.AsyncClient, path: str, body: dict[str, Any], **headers: str) -> Any:
    response = await client.post(path, json=body, headers=headers)
    assert response.status_code == 200, response.text
    return response.json()


async def ask(script: list[Step], **fields: object) -> Any:
    """The message that a script comes to."""
    async with rest_client(FakeInference(script)) as client:
        return await post(client, MESSAGES, {**QUESTION, **fields})


def events_of(text: str) -> list[Any]:
    """The events of a stream, each of which must be named by its type."""
    *events, end = text.split("\n\n")
    assert end == ""
    datas = []
    for event in events:
        name, data = event.split("\n")
        datas.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {datas[-1]['type']}"
    return datas


async def stream(script: list[Step], **fields: object) -> list[Any]:
    async with rest_client(FakeInference(script)) as client:
        response = await client.post(MESSAGES, json={**QUESTION, "stream": True, **fields})
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["request-id"] == "req-1"
        return events_of(response.text)


def anthropic_error_of(response: httpx.Response) -> tuple[str, str]:
    """Type and message of a response that must be an error in Anthropic's shape."""
    body = response.json()
    assert set(body) == {"type", "error", "request_id"}
    assert body["type"] == "error"
    assert set(body["error"]) == {"type", "message"}
    assert body["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
    return body["error"]["type"], body["error"]["message"]


# -- whole -------------------------------------------------------------------------------------------------------------


async def test_a_whole_answer(client: httpx.AsyncClient) -> None:
    response = await client.post(MESSAGES, json=QUESTION)
    assert response.json() == {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "model": MODEL,
        "content": [{"type": "text", "text": "Hello!"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 7,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 1,
            "output_tokens": 6,
        },
    }
    assert response.headers["request-id"] == response.headers["x-request-id"] == "req-1"


async def test_a_whole_answer_with_thinking_and_tools() -> None:
    pieces = "Hm.</think>", *split(f"Let me see.\n{CALL}\n{CALL}")
    answer = await ask(parsed(*pieces, reasoning="think", prompt_end="<think>"), tools=TOOLS)
    thinking, text, first, second = answer["content"]
    assert (thinking["type"], thinking["thinking"]) == ("thinking", "Hm.")
    assert thinking["signature"]
    assert text == {"type": "text", "text": "Let me see."}
    assert first == {"type": "tool_use", "id": first["id"], "name": "get_weather", "input": {"city": "Paris"}}
    assert first["id"] != second["id"]
    assert answer["stop_reason"] == "tool_use"
    assert answer["usage"]["output_tokens_details"] == {"thinking_tokens": len("Hm.</think>")}


async def test_text_after_a_call_is_a_block_of_its_own() -> None:
    answer = await ask(parsed("A", CALL, "B", " C", CALL), tools=TOOLS)
    assert [block.get("text", block["type"]) for block in answer["content"]] == ["A", "tool_use", "B C", "tool_use"]


async def test_an_answer_may_say_nothing() -> None:
    assert (await ask(say("")))["content"] == []


def called(arguments: str, *, cut: bool = False) -> list[Step]:
    """A call whose arguments are as they are."""
    reason = Finish.LENGTH if cut else Finish.TOOL_CALLS
    begun = Delta("", (1,), 0, calls=(CallDelta(0, "", "c1", "f"),))
    more = Delta("", (2,), 1, calls=(CallDelta(0, arguments),))
    return [begun, more, Finished(reason, None if cut else EOS, Usage(0, 100, 0), TIMING)]


@pytest.mark.parametrize("arguments", ["", "{}", '{"a": 123456789012345678901234567890}', '{"a": [0.1, "\\u00e9"]}'])
async def test_the_input_of_a_tool_is_as_the_model_wrote_it(arguments: str) -> None:
    answer = await ask(called(arguments), tools=TOOLS)
    assert answer["content"] == [{"type": "tool_use", "id": "c1", "name": "f", "input": json.loads(arguments or "{}")}]
    assert answer["stop_reason"] == "tool_use"


@pytest.mark.parametrize("arguments", ['{"a": ', "[1]", "x", '{"a": 1e999}'])
@pytest.mark.parametrize("cut", [True, False])
async def test_a_tool_is_not_used_with_another_input_than_was_meant(arguments: str, cut: bool) -> None:
    answer = await ask(called(arguments, cut=cut), tools=TOOLS)
    assert answer["content"] == [{"type": "text", "text": "f" + arguments}]
    assert answer["stop_reason"] == ("max_tokens" if cut else "end_turn")


# -- why an answer ends ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "reason", "sequence"),
    [
        (say("a"), "end_turn", None),
        (say("a", matched=None), "end_turn", None),
        (say("a", matched="END"), "stop_sequence", "END"),
        (say("a" * 100, reason=Finish.LENGTH, matched=None), "max_tokens", None),
        (say("a" * 99, reason=Finish.LENGTH, matched=None), "model_context_window_exceeded", None),
        (parsed(CALL), "tool_use", None),
        (parsed("a" * 100 + CALL, cut=True), "max_tokens", None),
    ],
)
async def test_stop_reasons(script: list[Step], reason: str, sequence: str | None) -> None:
    fields = {"tools": TOOLS, "stop_sequences": ["END"]}
    answer = await ask(script, **fields)
    assert (answer["stop_reason"], answer["stop_sequence"]) == (reason, sequence)
    *_, delta, _ = await stream(script, **fields)
    assert delta["delta"] == {"stop_reason": reason, "stop_sequence": sequence}
    assert delta["usage"] == answer["usage"]


async def test_what_does_not_fit_the_context_has_what_is_left_of_it(inference: FakeInference) -> None:
    async with rest_client(inference) as client:
        await post(client, MESSAGES, {**QUESTION, "max_tokens": 100_000})
        assert [request.max_tokens for request in inference.requests] == [100_000, None]
        long = {**QUESTION, "messages": [{"role": "user", "content": "x" * 5000}]}
        refused = await client.post(MESSAGES, json=long)
        assert refused.status_code == 400
        kind, message = anthropic_error_of(refused)
        assert kind == "invalid_request_error"
        assert message.startswith("messages: ")
        refused = await client.post(MESSAGES, json={**QUESTION, "max_tokens": 0})
        assert anthropic_error_of(refused) == ("invalid_request_error", "max_tokens must be at least 1, not 0")


# -- streams -----------------------------------------------------------------------------------------------------------


async def test_a_streamed_answer() -> None:
    def more(text: str) -> dict[str, object]:
        return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}

    begun = {"input_tokens": 8, "cache_creation_input_tokens": 0, "cache_read_input_tokens": None, "output_tokens": 0}
    usage = {"input_tokens": 7, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 1, "output_tokens": 6}
    message = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "model": MODEL,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": begun,
    }
    assert await stream(say("Hel", "", "lo", "!")) == [
        {"type": "message_start", "message": message},
        {"type": "ping"},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        more("Hel"),
        more("lo"),
        more("!"),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage},
        {"type": "message_stop"},
    ]


async def test_streamed_thinking_is_signed() -> None:
    _, _, begun, first, second, signed, stopped, text, *_ = await stream(THOUGHT)
    empty = {"type": "thinking", "thinking": "", "signature": ""}
    assert begun == {"type": "content_block_start", "index": 0, "content_block": empty}
    assert first["delta"] == {"type": "thinking_delta", "thinking": "Hm."}
    assert second["delta"] == {"type": "thinking_delta", "thinking": " So."}
    assert stopped == {"type": "content_block_stop", "index": 0}
    assert text == {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}
    whole = (await ask(THOUGHT))["content"][0]
    assert signed["delta"] == {"type": "signature_delta", "signature": whole["signature"]}


async def test_streamed_tools() -> None:
    script = parsed(
        "Well.\n<tool_call>", '{"name": "get_weather", "arguments": {"city"', ': "Paris"}}', "\n</tool_call>"
    )
    _, _, *events, _, _ = await stream(script, tools=TOOLS)
    use_id = events[3]["content_block"]["id"]
    empty = {"type": "tool_use", "id": use_id, "name": "get_weather", "input": {}}
    assert events[1:] == [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Well."}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": empty},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"city"'}},
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "input_json_delta", "partial_json": ': "Paris"}'},
        },
        {"type": "content_block_stop", "index": 1},
    ]


def assembled(events: list[Any]) -> list[tuple[str, str]]:
    """Type and content of each block; events must be in order, one block at a time."""
    blocks: list[tuple[str, str]] = []
    open_index = None
    for event in events:
        match event:
            case {"type": "content_block_start", "index": index, "content_block": block}:
                assert open_index is None
                assert index == len(blocks)
                open_index = index
                blocks.append((block["type"], ""))
            case {"type": "content_block_delta", "index": index, "delta": delta}:
                assert index == open_index
                more = delta.get("text") or delta.get("thinking") or delta.get("partial_json") or ""
                blocks[-1] = (blocks[-1][0], blocks[-1][1] + more)
            case {"type": "content_block_stop", "index": index}:
                assert index == open_index
                open_index = None
    assert open_index is None
    return blocks


SAID = f"Hm.</think>One {CALL} two {CALL}{CALL} three"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20, 50, 80, 200, len(SAID)])
async def test_a_stream_comes_to_the_whole_answer_whatever_its_pieces(size: int) -> None:
    script = parsed(*split(SAID, size), reasoning="think", prompt_end="<think>")
    blocks = assembled(await stream(script, tools=TOOLS))
    whole = (await ask(script, tools=TOOLS))["content"]
    assert [kind for kind, _ in blocks] == [block["type"] for block in whole]
    for (_, content), block in zip(blocks, whole, strict=True):
        if block["type"] == "tool_use":
            assert json.loads(content) == block["input"] == {"city": "Paris"}
        else:
            assert content == block[block["type"]]
    assert blocks[0] == ("thinking", "Hm.")
    said = "".join(content for kind, content in blocks if kind == "text")
    assert said == "Onetwothree"
    assert [kind for kind, _ in blocks].count("tool_use") == 3


async def test_a_stream_begins_before_the_first_token_and_goes_on_as_it_is_made() -> None:
    more = asyncio.Event()
    inference = FakeInference([*say("a")[:1], more, *say("b")])
    body = {**QUESTION, "stream": True}
    async with served(inference) as client, client.stream("POST", MESSAGES, json=body) as response:
        lines = response.aiter_lines()
        names = []
        while len(names) < 4:
            line = await anext(lines)
            names += [line.removeprefix("event: ")] if line.startswith("event: ") else []
        assert names == ["message_start", "ping", "content_block_start", "content_block_delta"]
        assert not more.is_set()
        more.set()
        assert [line async for line in lines][-3:] == ["event: message_stop", 'data: {"type":"message_stop"}', ""]
    assert inference.idle.is_set()


@pytest.mark.parametrize("stream", [True, False])
async def test_hanging_up_stops_the_work(stream: bool) -> None:
    inference = FakeInference([*say("a")[:1], asyncio.Event()])
    async with served(inference) as client:
        asking = asyncio.create_task(client.post(MESSAGES, json={**QUESTION, "stream": stream}))
        async with asyncio.timeout(20):
            await inference.began.acquire()
            asking.cancel()
            await inference.idle.wait()


# -- counting ----------------------------------------------------------------------------------------------------------


async def test_tokens_are_counted(client: httpx.AsyncClient, inference: FakeInference) -> None:
    body = {"model": MODEL, "messages": QUESTION["messages"], "system": "be nice"}
    assert await post(client, COUNT, body) == {"input_tokens": len("system:be nice\nuser:hi\n")}
    assert not inference.requests
    missing = await client.post(COUNT, json={**body, "model": "other"})
    assert missing.status_code == 404
    assert anthropic_error_of(missing)[0] == "not_found_error"


async def test_tokens_are_counted_for_who_may_use_the_model(tmp_path: Any) -> None:
    ring = KeyRing("", key_file(tmp_path / "keys", entry("one", "k1", 'models = ["other"]')))
    app = build_app(FakeInference(), keys=ring, max_body_bytes=1 << 20, metrics=lambda: b"")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        body = {"model": MODEL, "messages": QUESTION["messages"]}
        refused = await client.post(COUNT, json=body, headers={"x-api-key": "k1"})
    assert refused.status_code == 403
    assert anthropic_error_of(refused)[0] == "permission_error"


# -- models ------------------------------------------------------------------------------------------------------------


async def test_models_are_anthropics_for_who_sends_its_header(client: httpx.AsyncClient) -> None:
    model = {
        "type": "model",
        "id": MODEL,
        "display_name": MODEL,
        "created_at": "2023-11-14T22:13:20Z",
        "lifecycle": "active",
        "max_input_tokens": 4096,
        "max_tokens": 4096,
    }
    page = {"data": [model], "has_more": False, "first_id": MODEL, "last_id": MODEL}
    assert (await client.get("/v1/models", headers=VERSION)).json() == page
    assert (await client.get(f"/v1/models/{MODEL}", headers=VERSION)).json() == model
    assert (await client.get("/v1/models")).json()["object"] == "list"
    assert (await client.get(f"/v1/models/{MODEL}")).json()["object"] == "model"
    for query in (f"after_id={MODEL}", f"before_id={MODEL}"):
        rest = (await client.get(f"/v1/models?limit=1&{query}", headers=VERSION)).json()
        assert rest == {"data": [], "has_more": False, "first_id": None, "last_id": None}


async def test_models_come_in_pages(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    one = FakeInference().model(MODEL)
    five = [replace(one, name=name) for name in "abcde"]
    monkeypatch.setattr(FakeInference, "models", lambda self, caller: five)

    async def page(query: str) -> tuple[str, bool]:
        body = (await client.get(f"/v1/models?{query}", headers=VERSION)).json()
        ids = "".join(model["id"] for model in body["data"])
        assert (body["first_id"], body["last_id"]) == (ids[0], ids[-1])
        return ids, body["has_more"]

    assert await page("limit=2") == ("ab", True)
    assert await page("limit=2&after_id=b") == ("cd", True)
    assert await page("limit=2&after_id=d") == ("e", False)
    assert await page("limit=2&before_id=d") == ("bc", True)
    assert await page("limit=2&before_id=c") == ("ab", False)
    assert await page("") == ("abcde", False)


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "limit=-1", "after_id=x", "before_id=x"])
async def test_pages_that_make_no_sense_are_refused(client: httpx.AsyncClient, query: str) -> None:
    refused = await client.get(f"/v1/models?{query}", headers=VERSION)
    assert refused.status_code == 400
    kind, message = anthropic_error_of(refused)
    assert kind == "invalid_request_error"
    assert query.partition("=")[0] in message


@pytest.mark.parametrize("path", ["/v1/models/other", "/v1/models/"])
async def test_other_models_are_not_found(client: httpx.AsyncClient, path: str) -> None:
    missing = await client.get(path, headers=VERSION)
    assert missing.status_code == 404
    assert anthropic_error_of(missing)[0] == "not_found_error"
    assert error_of(await client.get(path))["code"] == "model_not_found"


# -- errors ------------------------------------------------------------------------------------------------------------

ERRORS: list[tuple[TandemError, str]] = [
    (InvalidRequest("bad"), "invalid_request_error"),
    (PermissionDenied("not yours"), "permission_error"),
    (UnknownModel("none"), "not_found_error"),
    (Overloaded("full", retry_after_s=2.2), "rate_limit_error"),
    (Unavailable("draining"), "overloaded_error"),
    (DeadlineExceeded("late"), "timeout_error"),
    (Poisoned("deadly"), "invalid_request_error"),
    (Unsupported("no chat template"), "api_error"),
    (ProtocolError("fence"), "api_error"),
]


@pytest.mark.parametrize(("error", "kind"), ERRORS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("stream", [True, False])
async def test_what_is_refused_has_its_status_and_type(error: TandemError, kind: str, stream: bool) -> None:
    async with rest_client(FakeInference(scripts=[[error]])) as client:
        response = await client.post(MESSAGES, json={**QUESTION, "stream": stream})
        assert response.status_code == CODES[type(error)].http
        assert anthropic_error_of(response) == (kind, error.message)
        assert response.headers.get("retry-after") == ("3" if isinstance(error, Overloaded) else None)
        assert (await client.post(MESSAGES, json=QUESTION)).status_code == 200


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Unavailable("the worker is gone"), {"type": "overloaded_error", "message": "the worker is gone"}),
        (ZeroDivisionError("secret"), {"type": "api_error", "message": "internal error"}),
    ],
)
async def test_a_failure_after_the_headers_is_an_event(error: Exception, told: dict[str, str]) -> None:
    *_, last = await stream([Delta("par", (1,), 0), error])
    assert last == {"type": "error", "error": told}


@pytest.mark.parametrize("field", ["stop", "grammar", "prompt"])
async def test_the_parameter_at_fault_is_in_the_message(field: str) -> None:
    names = {"stop": "stop_sequences", "grammar": "output_config.format", "prompt": "messages"}
    async with rest_client(FakeInference([InvalidRequest("no", field=field)])) as client:
        response = await client.post(MESSAGES, json=QUESTION)
    assert anthropic_error_of(response) == ("invalid_request_error", f"{names[field]}: no")


async def test_who_holds_a_thread_is_told_to_send_everything(client: httpx.AsyncClient) -> None:
    refused = await client.post(MESSAGES, json={**QUESTION, "thread": {"type": "create"}})
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["details"] == {"error_code": "thread_unsupported_request"}
    assert "thread" in error["message"]


async def test_errors_before_routing_are_anthropics_on_its_paths() -> None:
    async with rest_client(FakeInference(), api_key="key", max_body_bytes=1000) as client:
        key = {"x-api-key": "key"}
        for path, headers in (
            (MESSAGES, {}),
            (COUNT, {}),
            ("/v1/messages/batches/x/results", {}),
            ("/v1/models/a", VERSION),
        ):
            response = await client.request("GET" if "models" in path else "POST", path, headers=headers)
            assert response.status_code == 401
            assert anthropic_error_of(response)[0] == "authentication_error"
        large = await client.post(MESSAGES, content=bytes(2000), headers=key)
        assert large.status_code == 413
        assert anthropic_error_of(large)[0] == "request_too_large"
        broken = await client.post(MESSAGES, content=b"{", headers=key)
        assert broken.status_code == 400
        assert anthropic_error_of(broken)[0] == "invalid_request_error"
        wrong = await client.get(COUNT, headers=key)
        assert wrong.status_code == 405
        assert anthropic_error_of(wrong) == ("invalid_request_error", f"{COUNT} does not take GET")
        wrong = await client.delete("/v1/models", headers={**key, **VERSION})
        assert wrong.status_code == 405
        assert anthropic_error_of(wrong)[0] == "invalid_request_error"
        for path in ("/v1/messages/batches", "/v1/messages/batches/x/results"):
            missing = await client.get(path, headers=key)
            assert missing.status_code == 404
            assert anthropic_error_of(missing) == ("not_found_error", f"there is no {path} here")
        assert error_of(await client.get("/v1/models"))["code"] == "invalid_api_key"


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
async def test_a_choice_that_cannot_be_kept_is_refused_by_name(choice: dict[str, str]) -> None:
    """Once it can be kept, the answer is 200, and what is asked for is in `test_rest_anthropic_parse`."""
    async with rest_client(FakeInference()) as client:
        response = await client.post(MESSAGES, json={**QUESTION, "tools": TOOLS, "tool_choice": choice})
        assert response.status_code in (200, 400)
        if response.status_code == 400:
            kind, message = anthropic_error_of(response)
            assert kind == "invalid_request_error"
            assert "tool_choice" in message


async def test_betas_and_queries_change_nothing(client: httpx.AsyncClient) -> None:
    headers = {"anthropic-beta": "context-1m-2025-08-07,nobody-knows-2030-01-01", "anthropic-version": "2099-01-01"}
    assert (await post(client, f"{MESSAGES}?beta=true", QUESTION, **headers))["type"] == "message"


# -- the document ------------------------------------------------------------------------------------------------------

SCHEMAS: Any = openapi_document(dialects_of(FakeInference()))["components"]["schemas"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("kind", "off", "parse"),
    [
        (types.MessagesRequest, types.MESSAGES_OFF, parse_messages),
        (types.CountTokensRequest, types.COUNT_OFF, parse_count),
    ],
)
def test_documented_parameters_are_those_that_are_taken(kind: Any, off: types.Off, parse: Any) -> None:
    schema = SCHEMAS[kind.__name__]
    assert set(schema["properties"]) == set(kind.__struct_fields__)
    assert not set(schema["properties"]) & set(off)
    assert schema["additionalProperties"] is False
    body = {name: QUESTION[name] for name in schema["required"]}
    for parameter in set(schema["properties"]) - set(body):
        parse(msgspec.json.encode({**body, parameter: None}))


async def test_every_field_of_answers_is_documented() -> None:
    answer = await ask(THOUGHT)
    assert set(answer) == set(SCHEMAS["AnthropicMessage"]["properties"])
    assert set(answer["usage"]) == set(SCHEMAS["MessageUsage"]["properties"])
    for event in await stream(THOUGHT):
        name = "".join(word.capitalize() for word in event["type"].split("_"))
        assert set(event) == set(SCHEMAS[name]["properties"])
