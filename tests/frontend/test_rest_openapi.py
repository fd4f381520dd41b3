"""The OpenAPI document says what the app does."""

from functools import partial
from typing import Any

import msgspec
import pytest

from frontend.callers import ANYBODY
from frontend.rest.app import dialects_of
from frontend.rest.openai import request_types as types
from frontend.rest.openai.parse import parse_chat, parse_completion
from frontend.rest.openai.responses.parse import parse_response
from frontend.rest.openai.responses.request_types import RESPONSE_OFF, ResponseRequest
from frontend.rest.openai.responses.store import Store
from frontend.rest.openapi import openapi_document
from tests.frontend.fake_inference import MODEL, FakeInference
from tests.frontend.test_rest_app import rest_client
from tests.statuses import record

DIALECTS = dialects_of(FakeInference())
DOCUMENT: Any = openapi_document(DIALECTS)
SCHEMAS = DOCUMENT["components"]["schemas"]


KEPT = record(1)


def filled(path: str) -> str:
    """With values for its parameters that lead somewhere."""
    return path.replace("{id}", MODEL).replace("{request_id}", KEPT.request_id)


def refs(value: Any) -> set[str]:
    match value:
        case dict():
            own = {value["$ref"]} if "$ref" in value else set()
            return own.union(*(refs(item) for item in value.values()))
        case list():
            return set().union(*(refs(item) for item in value))
        case _:
            return set()


def test_every_reference_leads_somewhere() -> None:
    assert refs(DOCUMENT) <= {f"#/components/schemas/{name}" for name in SCHEMAS}
    assert DOCUMENT["openapi"] == "3.1.0"
    assert msgspec.json.decode(msgspec.json.encode(DOCUMENT)) == DOCUMENT


@pytest.mark.parametrize(
    ("name", "kind", "off", "parse"),
    [
        ("ChatCompletionRequest", types.ChatCompletionRequest, types.CHAT_OFF, parse_chat),
        ("CompletionRequest", types.CompletionRequest, types.COMPLETION_OFF, parse_completion),
        ("ResponseRequest", ResponseRequest, RESPONSE_OFF, partial(parse_response, store=Store().of(ANYBODY))),
    ],
)
def test_documented_parameters_are_those_that_are_taken(name: str, kind: Any, off: types.Off, parse: Any) -> None:
    properties = SCHEMAS[name]["properties"]
    assert set(properties) == set(kind.__struct_fields__)
    assert not set(properties) & set(off)
    assert SCHEMAS[name]["additionalProperties"] is False
    prompts = {"messages": [{"role": "user", "content": "x"}], "prompt": "x", "input": "x"}
    prompt = {field: value for field, value in prompts.items() if field in properties}
    for parameter in set(properties) - {"model", *prompt}:
        parse(msgspec.json.encode({"model": MODEL, **prompt, parameter: None}))


async def test_every_documented_path_exists_and_every_field_of_answers_is_documented() -> None:
    inference = FakeInference()
    inference.recorder.add(KEPT)
    async with rest_client(inference) as client:
        for path, verbs in DOCUMENT["paths"].items():
            for verb, operation in verbs.items():
                is_of_kept = path.startswith("/v1/responses/{id}")  # and nothing is kept
                response = await client.request(verb, path.replace("{id}", "resp_1") if is_of_kept else filled(path))
                expected = {400, 422} if "requestBody" in operation else {404} if is_of_kept else {200}
                assert response.status_code in expected, path
                assert str(response.status_code) in operation["responses"], path
        headers = {"x-tandem-timing": "1"}
        question = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
        question |= {"logprobs": True, "return_token_ids": True, "prompt_logprobs": 1}
        chat = await client.post("/v1/chat/completions", json=question, headers=headers)
        assert set(chat.json()) == set(SCHEMAS["ChatCompletion"]["properties"])
        completion = await client.post("/v1/completions", json={"model": MODEL, "prompt": "hi"}, headers=headers)
        assert set(completion.json()) == set(SCHEMAS["Completion"]["properties"])
        made = await client.post("/v1/responses", json={"model": MODEL, "input": "hi"})
        assert set(made.json()) == set(SCHEMAS["ResponseDocument"]["properties"])
        assert (await client.get("/openapi.json")).json() == openapi_document(DIALECTS, guarded=False)


async def test_a_key_is_asked_for_where_the_document_says_so() -> None:
    async with rest_client(FakeInference(), api_key="secret") as client:
        document = (await client.get("/openapi.json")).json()
        assert document == DOCUMENT
        for path, verbs in document["paths"].items():
            for verb, operation in verbs.items():
                needs_key = operation.get("security", document["security"]) != []
                response = await client.request(verb, filled(path))
                assert (response.status_code == 401) == needs_key, path
                assert ("401" in operation["responses"]) == needs_key, path
    assert "security" not in openapi_document(DIALECTS, guarded=False)
