"""How clients say what an answer must match: every spelling, in both endpoints and over gRPC."""

import json
from typing import Any

import pytest

from engine.errors import InvalidRequest
from frontend.fields import UnsupportedParameter
from frontend.grpc_convert import generate_request
from frontend.request import Grammar, GrammarKind
from protos import generate_pb2 as pb
from tests.frontend.fake_inference import FakeInference
from tests.frontend.test_rest_app import rest_client
from tests.frontend.test_rest_parse import chat, completion, only

SCHEMA = {"type": "object", "properties": {"b": {"maximum": 2**60}, "a": {"const": 1.5}}}
STRUCTURES = [{"begin": "<f>", "schema": {}, "end": "</f>"}]

SPELLINGS: list[tuple[dict[str, Any], str, Grammar]] = [
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": strict, "schema": SCHEMA}}},
        "response_format",
        Grammar(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA if strict else {**SCHEMA, "additionalProperties": False})),
    )
    for strict in (True, False, None)
]
SPELLINGS += [
    ({"response_format": {"type": "json_object"}}, "response_format", Grammar(GrammarKind.JSON_OBJECT)),
    (
        {"response_format": {"type": "structural_tag", "structures": STRUCTURES, "triggers": ["<f"]}},
        "response_format",
        Grammar(GrammarKind.STRUCTURAL_TAG, json.dumps({"structures": STRUCTURES, "triggers": ["<f"]})),
    ),
]
KINDS: list[tuple[str, Any, Grammar]] = [
    ("json", SCHEMA, Grammar(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA))),
    ("json", '{"type": "null"}', Grammar(GrammarKind.JSON_SCHEMA, '{"type": "null"}')),
    ("regex", "a+", Grammar(GrammarKind.REGEX, "a+")),
    ("choice", ["a", "ö"], Grammar(GrammarKind.CHOICE, '["a", "ö"]')),
    ("grammar", "start: /a/", Grammar(GrammarKind.LARK, "start: /a/")),
]
SPELLINGS += [({"structured_outputs": {kind: value}}, f"structured_outputs.{kind}", as_) for kind, value, as_ in KINDS]
SPELLINGS += [({f"guided_{kind}": value}, f"guided_{kind}", made) for kind, value, made in KINDS]
SPELLINGS += [
    ({"structured_outputs": {"json_object": True}}, "structured_outputs.json_object", Grammar(GrammarKind.JSON_OBJECT)),
    (
        {"structured_outputs": {"structural_tag": "{}", "disable_any_whitespace": False}},
        "structured_outputs.structural_tag",
        Grammar(GrammarKind.STRUCTURAL_TAG, "{}"),
    ),
]


@pytest.mark.parametrize("parse", [chat, completion])
@pytest.mark.parametrize(("fields", "name", "grammar"), SPELLINGS)
def test_every_spelling_is_understood(parse: Any, fields: dict[str, Any], name: str, grammar: Grammar) -> None:
    ask = parse(**fields, n=2)
    assert [generation.grammar for generation in ask.generations] == [grammar] * 2
    assert ask.names["grammar"] == name


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "text"}},
        {"response_format": {"type": "text", "json_schema": None}, "structured_outputs": {}},
        {"structured_outputs": {"json_object": False, "regex": None}},
    ],
)
def test_some_ask_for_nothing(fields: dict[str, Any]) -> None:
    assert only(chat(**fields)) == only(chat())


@pytest.mark.parametrize("parse", [chat, completion])
@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"response_format": {"type": "sonnet"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "json_object", "json_schema": {"name": "x"}}}, "response_format.json_schema"),
        ({"response_format": {"type": "text", "triggers": []}}, "response_format.triggers"),
        ({"response_format": {"type": "structural_tag", "triggers": ["a"]}}, "response_format.structures"),
        ({"response_format": {"type": "text", "x": 1}}, "response_format"),
        ({"response_format": "json_object"}, "response_format"),
        ({"structured_outputs": {"json": "{}", "regex": "a"}}, "structured_outputs.regex"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex"),
        ({"guided_choice": "a"}, "guided_choice"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(parse: Any, fields: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse(**fields)
    assert raised.value.field == name


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"structured_outputs": {"whitespace_pattern": " "}}, "structured_outputs.whitespace_pattern"),
        ({"structured_outputs": {"disable_any_whitespace": True}}, "structured_outputs.disable_any_whitespace"),
        ({"guided_decoding_backend": "outlines"}, "guided_decoding_backend"),
        ({"ebnf": "root ::= a"}, "ebnf"),
        ({"regex": "a"}, "regex"),
        ({"json_schema": "{}"}, "json_schema"),
    ],
)
def test_what_is_known_and_not_supported_is_refused_by_name(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(UnsupportedParameter) as raised:
        chat(**fields)
    assert raised.value.field == name


async def test_a_refusal_names_the_parameter_that_the_client_used() -> None:
    def refusal() -> InvalidRequest:
        return InvalidRequest("the regular expression cannot be honoured: x", field="grammar")

    asked = ({"guided_regex": "("}, "guided_regex"), ({"response_format": {"type": "json_object"}}, "response_format")
    async with rest_client(FakeInference(scripts=[[refusal()], [refusal()]])) as client:
        for fields, name in asked:
            body = {"model": "org/demo", "prompt": "x", **fields}
            response = await client.post("/v1/completions", json=body)
            assert response.status_code == 400
            assert response.json()["error"]["param"] == name


@pytest.mark.parametrize(
    ("message", "grammar"),
    [
        (pb.Grammar(json_schema="{}"), Grammar(GrammarKind.JSON_SCHEMA, "{}")),
        (pb.Grammar(json_object=pb.JsonObject()), Grammar(GrammarKind.JSON_OBJECT)),
        (pb.Grammar(regex="a"), Grammar(GrammarKind.REGEX, "a")),
        (pb.Grammar(choice=pb.Choice(texts=["a", "b"])), Grammar(GrammarKind.CHOICE, '["a", "b"]')),
        (pb.Grammar(lark="start: /a/"), Grammar(GrammarKind.LARK, "start: /a/")),
        (pb.Grammar(structural_tag="{}"), Grammar(GrammarKind.STRUCTURAL_TAG, "{}")),
        (None, None),
    ],
)
def test_over_grpc(message: pb.Grammar | None, grammar: Grammar | None) -> None:
    assert generate_request(pb.GenerateRequest(text="x", grammar=message), {}, None).grammar == grammar


def test_over_grpc_a_grammar_that_says_nothing_is_refused() -> None:
    with pytest.raises(InvalidRequest) as raised:
        generate_request(pb.GenerateRequest(text="x", grammar=pb.Grammar()), {}, None)
    assert raised.value.field == "grammar"
