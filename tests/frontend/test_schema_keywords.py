"""Keywords, one by one and together: what a grammar lets through is what jsonschema calls valid, of every instance of a
motley lot."""

import itertools
import json
import random
from typing import Any

import jsonschema
import pytest

from engine.errors import InvalidRequest
from frontend.schemas.given import check_schema
from frontend.schemas.places import no_documents
from frontend.schemas.writer import write
from tests.spelling import Bytes

WHITE_SPACE = r"[ \n]{1,2}"
VALUES: list[Any] = [None, True, False, 0, 1, -3, 1.5, 12, "", "a", "abc", "b\n", [], [1], [1, "x"], ["x", "x"], {}]
INSTANCES = [
    *VALUES,
    *({"a": v} for v in VALUES),
    *({"b": v} for v in VALUES),
    *([v, w] for v in (1, "a") for w in VALUES),
]
INSTANCES += [dict(zip("abc", values, strict=True)) for values in itertools.product((1, "x"), repeat=3)]
INSTANCES += [{"a": 1, "b": 1}, {"b": 1, "c": "x"}, {"a": 1, "c": 1}, {"abcd": 1}, {"a": {"a": 1}}, {"a": {"b": [1]}}]
INSTANCES += [[[1], {}], [1, 2, 3], [1, 1, 1], ["a", 1, 1, "a"], [{"a": 1}, {"a": 1}], [1, 2, 3, 4, 5]]
OLD = {"$schema": "http://json-schema.org/draft-07/schema#"}

SCHEMAS: list[dict[str, Any]] = [
    {},
    {"dependentRequired": {"a": ["b"], "b": []}},
    {"dependentRequired": {"a": ["b", "c"]}, "allOf": [{"required": ["a"]}]},
    {"dependentRequired": {str(i): ["a"] for i in range(8)}},
    {"dependentSchemas": {"a": {"properties": {"b": {"type": "string"}}}, "b": False}},
    {"dependentSchemas": {"a": True}},
    {"propertyNames": {"pattern": "^[ab]"}},
    {"propertyNames": {"enum": ["a", "b"]}, "properties": {"a": {"type": "integer"}}},
    {"propertyNames": {"const": "a"}},
    {"propertyNames": {"maxLength": 2, "type": "string"}},
    {"propertyNames": {"not": {"minLength": 2, "maxLength": 4}}},
    {"propertyNames": {"anyOf": [{"minLength": 3}, {"const": "b"}]}, "maxProperties": 1},
    {"propertyNames": False},
    {"not": {"propertyNames": {"enum": ["a", "c"]}}},
    {
        "patternProperties": {"^a": {"type": "integer"}, "d$": {"minimum": 1}},
        "additionalProperties": {"type": "string"},
    },
    {"properties": {"a": {"minimum": 1}}, "patternProperties": {"a": {"type": "integer"}}},
    {"not": {"additionalProperties": {"type": "string"}}},
    {"not": {"patternProperties": {"^[ab]": {"type": "string"}}, "properties": {"a": True}}},
    {"minProperties": 1, "maxProperties": 2, "properties": {"a": True, "b": True}},
    {"not": {"minProperties": 1}},
    {"not": {"maxProperties": 1}, "type": "object"},
    {"properties": {"a": {"type": "string"}}, "unevaluatedProperties": False},
    {"allOf": [{"properties": {"a": True}}], "unevaluatedProperties": False},
    {
        "anyOf": [{"required": ["a"], "properties": {"a": True}}, {"properties": {"b": True}}],
        "unevaluatedProperties": False,
    },
    {"patternProperties": {"^a": True}, "unevaluatedProperties": {"type": "string"}},
    {"not": {"properties": {"a": True}, "unevaluatedProperties": False}},
    {"prefixItems": [{"type": "integer"}], "unevaluatedItems": False},
    {"contains": {"type": "integer"}, "unevaluatedItems": {"type": "string"}},
    {"anyOf": [{"prefixItems": [{"const": 1}]}, {"prefixItems": [True, {"const": "a"}]}], "unevaluatedItems": False},
    {"unevaluatedItems": {"type": "string"}},
    {"not": {"type": "string"}},
    {"not": {"type": "integer"}},
    {"not": {"type": ["number", "object"]}},
    {"not": {"const": 1}},
    {"not": {"enum": [1, "a", None, True, [1], {"a": 1}]}},
    {"not": {"type": "string", "minLength": 1}},
    {"not": {"pattern": "^a|b"}},
    {"not": {"minimum": 0, "exclusiveMaximum": 12}},
    {"not": {"required": ["a"]}},
    {"not": {"required": ["a"], "properties": {"a": {"const": 1}}}},
    {"not": {"items": {"type": "integer"}}},
    {"not": {"prefixItems": [{"type": "integer"}], "minItems": 2}},
    {"not": {"contains": {"const": 1}}},
    {"not": {}},
    {"not": False, "type": "object"},
    {"if": True, "then": {"type": "string"}, "else": {"type": "null"}},
    {"if": {"type": "string"}, "then": {"minLength": 2}, "else": {"not": {"type": "array"}}},
    {
        "if": {"properties": {"a": {"const": 1}}, "required": ["a"]},
        "then": {"required": ["b"]},
        "else": {"maxProperties": 1},
    },
    {"if": {}, "else": False},
    {"if": {"type": "string"}},
    {"then": False, "else": False},
    {"minContains": 3, "maxContains": 1},
    {"contains": {"type": "string"}, "minContains": 0},
    {"contains": True},
    {"contains": {"const": 1}, "minContains": 2, "maxContains": 2, "maxItems": 3},
    {"contains": {"type": "string"}, "prefixItems": [{"const": 1}], "minItems": 2},
    {"allOf": [{"contains": {"const": 1}}, {"contains": {"const": "a"}, "maxContains": 1}]},
    {"items": {"enum": [1, "x", 2]}, "uniqueItems": True},
    {"items": {"type": "boolean"}, "uniqueItems": True, "minItems": 1},
    {"prefixItems": [{"enum": [1, "a"]}, {"enum": [1, "a"]}], "items": False, "uniqueItems": True},
    {"items": {"type": "string"}, "maxItems": 1, "uniqueItems": True},
    {"items": {"uniqueItems": False, "not": {"type": "null"}}},
    {"oneOf": [{"type": "integer"}, {"minimum": 1}]},
    {"oneOf": [{"required": ["a"]}, {"required": ["b"]}, {"required": ["c"]}], "type": "object"},
    {"oneOf": [{"pattern": "a"}, {"maxLength": 1}, {"type": "array", "minItems": 2}]},
    {"not": {"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}},
    {"anyOf": [{"type": "object", "properties": {"a": {"$ref": "#"}}}, {"type": "integer"}]},
    {"type": ["array", "integer"], "items": {"$ref": "#"}, "maxItems": 2},
    {"minimum": -3, "maximum": 12, "not": {"const": 0}},
    {"multipleOf": 0.5, "type": ["number", "null"]},
    {"allOf": [{"multipleOf": 2}, {"multipleOf": 3}]},
    {**OLD, "dependencies": {"a": ["b"], "b": {"required": ["c"]}}},
    {**OLD, "items": [{"type": "integer"}], "additionalItems": {"type": "string"}},
    {**OLD, "$ref": "#/definitions/a", "type": "string", "definitions": {"a": {"not": {"type": "null"}}}},
    {**OLD, "dependentRequired": {"a": ["b"]}, "unevaluatedProperties": False, "prefixItems": [False]},
    {"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 1, "exclusiveMinimum": True},
]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"type": "array", "uniqueItems": True}, "#/uniqueItems"),
    ({"items": {"type": "array", "items": {"type": "string"}, "uniqueItems": True}}, "#/items/uniqueItems"),
    ({"not": {"uniqueItems": True}}, "#/not/uniqueItems"),
    ({"properties": {"a": {"not": {"multipleOf": 3}}}}, "#/properties/a/not/multipleOf"),
    ({"multipleOf": 1234567}, "multipleOf"),
    ({"format": "sonnet"}, "#/format 'sonnet'"),
    ({"type": "sonnet"}, "#/type 'sonnet'"),
    ({"pattern": "(?<=a)b"}, "look-around"),
    ({"pattern": r"(a)\1"}, "refers back"),
    ({"items": {"pattern": "("}}, "#/items/pattern"),
    ({"dependencies": {"a": ["b"]}}, "#/dependencies"),
    ({"$ref": "http://127.0.0.1:1/schema.json"}, "127.0.0.1"),
    ({"$ref": "#/$defs/a"}, "there is nothing"),
    ({"$ref": "#a"}, "no such anchor"),
    ({"$ref": "#"}, "refers to itself"),
    ({"allOf": [{"$ref": "#"}]}, "without end"),
    ({"$schema": "http://example.com/mine"}, "$schema"),
    ({"$recursiveRef": "#"}, "$recursiveRef"),
    ({"minItems": -1}, "#/minItems"),
    ({"minimum": "1"}, "#/minimum"),
    ({"maximum": 1e30}, "maximum"),
    ({"required": "a"}, "#/required"),
    ({"properties": []}, "#/properties"),
    ({"properties": {"a": 1}}, "#/properties/a"),
    ({"anyOf": {}}, "#/anyOf"),
    ({"enum": 1}, "#/enum"),
    ({"multipleOf": 0}, "#/multipleOf"),
    ({"allOf": [{"anyOf": [{"required": [f"a{i}"]}, {"required": [f"b{i}"]}]} for i in range(30)]}, "more than 512"),
    ({"minimum": 10**400}, "minimum"),
    ({"allOf": [{"contains": {"const": i}} for i in range(9)]}, "contains"),
    ({"$ref": "#/$defs/0", "$defs": {str(i): {"allOf": [{"$ref": f"#/$defs/{i + 1}"}]} for i in range(900)}}, "$ref"),
    ({"anyOf": [{"properties": {str(i): {}}} for i in range(12)], "unevaluatedProperties": False}, "unevaluated"),
]


def grammar_of(schema: dict[str, Any]) -> Bytes:
    return Bytes(write(check_schema(schema), WHITE_SPACE, no_documents))


def can_be_written(grammar: Bytes, value: Any) -> bool:
    return any(grammar.accepts(json.dumps(each)) for each in orders_of(value))


def orders_of(value: Any) -> list[Any]:
    """With the names of an object in any order."""
    if not isinstance(value, dict):
        return [value]
    return [{name: value[name] for name in names} for names in itertools.permutations(value)]


@pytest.mark.parametrize("schema", SCHEMAS, ids=json.dumps)
def test_what_can_be_written_is_what_is_valid(schema: dict[str, Any]) -> None:
    validator = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)(schema)
    valid = [value for value in INSTANCES if validator.is_valid(value)]
    if not valid:
        with pytest.raises(InvalidRequest, match="Unsatisfiable"):
            grammar_of(schema)
        return
    grammar = grammar_of(schema)
    assert [value for value in INSTANCES if can_be_written(grammar, value)] == valid
    rng = random.Random(0)
    answers = [grammar.draw(rng, long=30) for _ in range(10)]
    assert [each for each in answers if each is not None and not validator.is_valid(json.loads(each))] == []


@pytest.mark.parametrize(("schema", "words"), REFUSED, ids=str)
def test_what_cannot_be_honoured_is_refused_with_its_keyword(schema: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        grammar_of(schema)
    assert words in raised.value.message


def test_properties_come_in_their_order_and_a_name_is_never_spelled_in_another_way() -> None:
    grammar = grammar_of({"properties": {"b": {"type": "integer"}, "a": {}}, "required": ["c"]})
    assert grammar.accepts('{"b":1,"a":2,"c":3,"d":4}')
    assert not grammar.accepts('{"a":2,"b":1,"c":3}')
    assert not grammar.accepts('{"\\u0062":"x","c":1}')
    assert not grammar.accepts('{"c":1,"b":2}')


def test_values_that_cannot_be_are_never_begun() -> None:
    grammar = grammar_of(
        {
            "type": "object",
            "properties": {
                "a": {"type": "string", "pattern": "^a", "not": {"pattern": "^a"}},
                "b": {"type": "integer", "minimum": 2.1, "maximum": 2.9},
                "e": {"type": "string", "pattern": "a[]"},
                "f": {"type": "string", "maxLength": 0, "not": {"const": ""}},
                "c": {"type": "array", "items": {"enum": []}, "minItems": 1},
                "d": {"type": "object", "properties": {"d": {"$ref": "#/properties/d"}}, "required": ["d"]},
            },
        }
    )
    for name in "abcdef":
        assert not grammar.accepts(f'{{"{name}":')
        assert {
            answer for answer in (grammar.draw(random.Random(seed)) for seed in range(20)) if name in str(answer)[:3]
        } == set()


PLAIN: list[Any] = [True, False, {"type": "integer"}, {"type": "string"}, {"const": 1}, {"enum": ["a", 1, None]}]
PLAIN += [{"minimum": 1}, {"maxLength": 1}, {"type": "object"}, {"type": ["array", "null"]}]
OF_ONE = ("additionalProperties", "items", "contains", "not", "unevaluatedProperties", "unevaluatedItems")
OF_MANY = ("anyOf", "oneOf", "allOf", "prefixItems")
OF_NAMES = ("properties", "dependentSchemas")
COUNTS = ("minProperties", "maxProperties", "minItems", "maxItems", "minLength", "minContains", "maxContains")


def made_up(rng: random.Random, depth: int) -> Any:
    if depth == 0 or rng.random() < 0.25:
        return rng.choice(PLAIN)
    schema: dict[str, Any] = {}
    for _ in range(rng.choice((1, 1, 2, 2, 3))):
        parts = [made_up(rng, depth - 1) for _ in range(3)]
        one, many, names, count = (rng.choice(each) for each in (OF_ONE, OF_MANY, OF_NAMES, COUNTS))
        a, b = rng.choice("abc"), rng.choice("abc")
        schema |= rng.choice(
            [
                {one: parts[0]},
                {many: parts[:2]},
                {names: {a: parts[0], b: parts[1]}},
                {count: rng.choice((1, 2))},
                {"properties": {a: {"$ref": "#"}}},
                {"required": [a]},
                {"dependentRequired": {a: [b]}},
                {"patternProperties": {rng.choice(("^a", "b|c", "d$")): parts[0]}},
                {"propertyNames": rng.choice(({"maxLength": 1}, {"pattern": "^[ab]"}, {"enum": ["a", "c"]}))},
                {"if": parts[0], "then": parts[1], **({"else": parts[2]} if rng.random() < 0.5 else {})},
                {rng.choice(("minimum", "exclusiveMaximum")): rng.choice((1, 12))},
                {"pattern": "^a"},
            ]
        )
    return schema


def has_a_name_twice(text: str) -> bool:
    """What is then read is one property, which the grammar has counted as two (docs/json-schema.md)."""
    found: list[bool] = []
    json.loads(text, object_pairs_hook=lambda pairs: found.append(len(dict(pairs)) < len(pairs)))
    return any(found)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_schemas_made_up_at_random_mean_what_they_mean_to_jsonschema(seed: int) -> None:
    rng, num_refused = random.Random(seed), 0
    for _ in range(60):
        schema = {"allOf": [made_up(rng, 3)]}
        validator = jsonschema.Draft202012Validator(schema)
        valid = [value for value in INSTANCES if validator.is_valid(value)]
        refusal = ""
        try:
            grammar = grammar_of(schema)
        except InvalidRequest as error:
            refusal = error.message
        if refusal:
            assert not valid or "Unsatisfiable" not in refusal, json.dumps(schema)
            num_refused += "Unsatisfiable" not in refusal
            continue
        assert [value for value in INSTANCES if can_be_written(grammar, value)] == valid, json.dumps(schema)
        answers = (grammar.draw(rng, long=30) for _ in range(5))
        judged = [each for each in answers if each is not None and not has_a_name_twice(each)]
        wrong = [each for each in judged if not validator.is_valid(json.loads(each))]
        assert wrong == [], json.dumps(schema)
    assert num_refused <= 12
