"""Schemas of Ollama's and llama.cpp's clients: what is closed, what stays, and that nothing else becomes of them."""

import copy
from typing import Any

import pytest
from pydantic import BaseModel, Field

from frontend.closed_schema import closed
from tests.frontend.test_schema_suites import groups, validator_of

NAME = {"properties": {"name": {"type": "string"}}}
ONLY_OTHERS = ("additional", "forbidden property")
"""Groups whose valid instances all have properties that their schema does not name."""
REF = {"$ref": "#/$defs/a"}
CLOSED = {**NAME, "additionalProperties": False}


class Leg(BaseModel):
    length: float


class Animal(BaseModel):
    """As clients make schemas of their classes."""

    name: str
    legs: list[Leg] = Field(default_factory=list)
    tail: Leg | None = None
    notes: dict[str, Leg] = Field(default_factory=dict)


def test_a_class_has_its_own_fields_alone() -> None:
    given = Animal.model_json_schema()
    before = copy.deepcopy(given)
    validator = validator_of(closed(given))
    assert given == before
    leg, more = {"length": 1}, {"length": 1, "age": 3}
    right: dict[str, Any] = {"name": "a", "legs": [leg], "tail": leg, "notes": {"any": leg}}
    assert validator.is_valid(right)
    wrong: list[dict[str, Any]] = [{"age": 3}, {"legs": [more]}, {"tail": more}, {"notes": {"any": more}}]
    assert not any(validator.is_valid({**right, **each}) for each in wrong)


@pytest.mark.parametrize(
    ("given", "becomes"),
    [
        (NAME, CLOSED),
        ({"items": NAME, "prefixItems": [NAME]}, {"items": CLOSED, "prefixItems": [CLOSED]}),
        ({"anyOf": [NAME, {"type": "null"}]}, {"anyOf": [CLOSED, {"type": "null"}]}),
        ({"allOf": [REF], "$defs": {"a": NAME}}, {"allOf": [REF], "$defs": {"a": CLOSED}}),
        ({"additionalProperties": NAME}, {"additionalProperties": CLOSED}),
        ({"properties": {"properties": NAME}}, {"properties": {"properties": CLOSED}, "additionalProperties": False}),
    ],
)
def test_objects_that_name_their_properties_are_closed(given: Any, becomes: Any) -> None:
    assert closed(given) == becomes


@pytest.mark.parametrize(
    "given",
    [
        True,
        {"type": "object"},
        {**NAME, "additionalProperties": True},
        {**NAME, "patternProperties": {"^x": True}},
        {**NAME, "required": ["name", "other"]},
        {**NAME, "$ref": "#/$defs/a"},
        {"allOf": [NAME, {"properties": {"age": True}}]},
        {**NAME, "anyOf": [{"required": ["age"]}]},
        {**NAME, "if": NAME, "then": {"required": ["age"]}},
        {"items": {"not": NAME}},
        {**NAME, "unevaluatedProperties": False},
        {"enum": [NAME], "const": NAME, "default": NAME, "examples": [NAME]},
        {"properties": [], "items": 3, "anyOf": {}, "$defs": None},
        {**NAME, "required": [{}]},
    ],
)
def test_others_stay_as_they_are(given: Any) -> None:
    assert closed(given) == given


def test_what_a_closed_schema_allows_the_public_ones_allow() -> None:
    changed = 0
    for group in groups():
        if (becomes := closed(group.schema)) != group.schema:
            changed += 1
            validator = validator_of(becomes)
            assert not any(validator.is_valid(value) for value in group.invalid), group.name
            if group.valid and not any(words in group.name for words in ONLY_OTHERS):
                assert any(validator.is_valid(value) for value in group.valid), group.name
    assert changed > 20


def test_what_refers_to_definitions_and_says_more_leaves_them_open() -> None:
    inline = {"properties": {"a": NAME, "b": {"$ref": "#/$defs/n", "required": ["age"]}}, "$defs": {"n": NAME}}
    made = closed(inline)
    assert made["$defs"] == {"n": NAME}
    assert made["properties"]["a"] == CLOSED
