"""Schemas as clients write them: bounded, without what asks for nothing, and what no grammar honours is found."""

import json

import pytest

from engine.errors import InvalidRequest
from frontend.schema import MAX_DEPTH, MAX_SCHEMA_BYTES, check_schema, read_schema, unsupported


def test_whole_numbers_are_written_as_such_wherever_they_stand() -> None:
    given = '{"maxItems": 2.0, "const": [1.0, 1.5], "properties": {"a": {"minimum": -3.0}}, "maximum": 1e300}'
    assert repr(read_schema(given)) == repr(
        {"maxItems": 2, "const": [1, 1.5], "properties": {"a": {"minimum": -3}}, "maximum": 1e300}
    )


def test_what_asks_for_nothing_is_left_out_and_names_are_not_keywords() -> None:
    assert check_schema({"uniqueItems": False, "items": {"unevaluatedProperties": True, "uniqueItems": True}}) == {
        "items": {"uniqueItems": True}
    }
    names = {"properties": {"uniqueItems": False, "not": True}, "const": {"uniqueItems": False}}
    assert check_schema(names) == names
    assert list(unsupported(names)) == []


def test_keywords_that_no_grammar_honours_are_found_with_their_place() -> None:
    schema = {
        "properties": {"a": {"not": {}}, "b": {"items": {"uniqueItems": True}}},
        "$defs": {"c": {"anyOf": [True, {"if": {}}]}},
        "enum": [{"not": 1}],
        "additionalProperties": False,
    }
    assert list(unsupported(schema)) == [
        "#/properties/a/not",
        "#/properties/b/items/uniqueItems",
        "#/$defs/c/anyOf/1/if",
    ]


def nested(depth: int) -> str:
    return '{"items": ' * depth + "true" + "}" * depth


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "neither an object"),
        ('"x"', "neither an object"),
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ('{"minimum": NaN}', "not valid JSON"),
        ('{"minimum": 1e999}', "out of range"),
        ('{"minimum": ' + "1" * 5000 + "}", "not valid JSON"),
        (nested(MAX_DEPTH + 1), "nested"),
        (nested(100_000), "JSON"),
        (json.dumps({"const": "x" * MAX_SCHEMA_BYTES}), "at most"),
        ('{"x-guidance": {"lenient": true}, "not": {}}', "x-guidance"),
        ('{"enum": [' + "[" * 200 + "]" * 200 + "]}", "nested"),
    ],
    ids=str,
)
def test_what_is_no_schema_or_too_much_of_one_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as raised:
        read_schema(text)
    assert raised.value.field == "grammar"


def test_what_is_not_too_deep_is_taken() -> None:
    assert read_schema(nested(MAX_DEPTH)) == json.loads(nested(MAX_DEPTH))
    assert read_schema("true") is True
