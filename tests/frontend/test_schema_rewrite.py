"""What is said in other keywords means the same: to jsonschema, of every instance of a motley lot."""

import itertools
import json
from typing import Any

import jsonschema
import pytest

from frontend.schema import check_schema, unsupported

VALUES: list[Any] = [None, True, 0, 1.5, "", "abc", [], [1], [1, "x"], {}]
INSTANCES = [*VALUES, *({"a": v} for v in VALUES), *({"b": v} for v in VALUES)]
INSTANCES += [dict(zip("abc", values, strict=True)) for values in itertools.product((1, "x"), repeat=3)]
INSTANCES += [{"a": 1, "b": 1}, {"b": 1, "c": "x"}, {"a": 1, "c": 1}, {"abcd": 1}, [[1], {}], [1, 2, 3]]

SAID_OTHERWISE: list[dict[str, Any]] = [
    {"dependentRequired": {"a": ["b"], "b": []}},
    {"dependentRequired": {"a": ["b", "c"]}, "allOf": [{"required": ["a"]}]},
    {"dependentSchemas": {"a": {"properties": {"b": {"type": "string"}}}, "b": False}},
    {"dependentSchemas": {"a": True}},
    {"propertyNames": {"pattern": "^[ab]"}},
    {"propertyNames": {"enum": ["a", "b"]}, "properties": {"a": {"type": "integer"}}},
    {"propertyNames": {"const": "a"}},
    {"propertyNames": {"maxLength": 2, "type": "string"}},
    {"propertyNames": {"minLength": 2, "maxLength": 4}},
    {"propertyNames": False},
    {"propertyNames": {}},
    {"properties": {"a": {"type": "string"}}, "unevaluatedProperties": False},
    {"additionalProperties": True, "unevaluatedProperties": False},
    {"patternProperties": {"^a": True}, "unevaluatedProperties": {"type": "string"}},
    {"prefixItems": [{"type": "integer"}], "unevaluatedItems": False},
    {"items": True, "unevaluatedItems": False},
    {"unevaluatedItems": {"type": "string"}},
    {"not": {"type": "string"}},
    {"not": {"type": ["number", "object"]}},
    {"not": {"type": ["null", "boolean", "number", "string", "array", "object"]}},
    {"not": {"required": ["a"]}},
    {"not": {}},
    {"not": False, "type": "object"},
    {"if": True, "then": {"type": "string"}, "else": {"type": "null"}},
    {"if": False, "then": {"type": "string"}, "else": {"type": "null"}},
    {"if": {}, "else": False},
    {"if": {"type": "string"}},
    {"then": False, "else": False},
    {"minContains": 3, "maxContains": 1},
    {"contains": {"type": "string"}, "minContains": 0},
    {"items": {"uniqueItems": False, "not": {"type": "null"}}},
]
LEFT: list[tuple[dict[str, Any], str]] = [
    ({"allOf": [{"properties": {"a": True}}], "unevaluatedProperties": False}, "unevaluatedProperties"),
    ({"contains": {}, "unevaluatedItems": False}, "unevaluatedItems"),
    ({"not": {"type": "integer"}}, "not"),
    ({"not": {"const": 1}}, "not"),
    ({"not": {"type": "string", "minLength": 1}}, "not"),
    ({"if": {"type": "string"}, "then": False}, "if"),
    ({"propertyNames": {"format": "uuid"}}, "propertyNames"),
    ({"dependentRequired": {str(i): ["a"] for i in range(7)}}, "dependentRequired"),
    ({"contains": True}, "contains"),
    ({"uniqueItems": True}, "uniqueItems"),
]


def judged(schema: object) -> list[bool]:
    validator = jsonschema.Draft202012Validator(schema)
    return [validator.is_valid(instance) for instance in INSTANCES]


@pytest.mark.parametrize("schema", SAID_OTHERWISE, ids=json.dumps)
def test_what_is_said_otherwise_means_the_same(schema: dict[str, Any]) -> None:
    made = check_schema(schema)
    assert list(unsupported(made)) == []
    assert judged(made) == judged(schema)


@pytest.mark.parametrize(("schema", "keyword"), LEFT, ids=json.dumps)
def test_what_cannot_be_said_otherwise_is_left(schema: dict[str, Any], keyword: str) -> None:
    assert f"#/{keyword}" in set(unsupported(check_schema(schema)))


def test_in_old_drafts_keywords_mean_what_they_meant() -> None:
    old = {"$schema": "http://json-schema.org/draft-07/schema#"}
    alone = {"$ref": "#/definitions/a", "dependencies": {"a": ["b"]}, "definitions": {"a": {"not": {"type": "null"}}}}
    made = check_schema({**old, **alone})
    assert isinstance(made, dict)
    assert made["dependencies"] == {"a": ["b"]}
    assert "not" not in made["definitions"]["a"]
    newer = {**old, "dependentRequired": {"a": ["b"]}}
    assert check_schema(newer) == newer
    dependent = {**old, "dependencies": {"a": ["b"], "b": {"required": ["c"]}}}
    validator, rewritten = jsonschema.Draft7Validator(dependent), jsonschema.Draft7Validator(check_schema(dependent))
    assert [rewritten.is_valid(i) for i in INSTANCES] == [validator.is_valid(i) for i in INSTANCES]
