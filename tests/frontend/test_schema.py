"""Schemas as clients write them: read and bounded; and the documents that they may refer to."""

import json
from pathlib import Path

import pytest

from engine.errors import ConfigError, InvalidRequest
from frontend.schemas.documents import load_documents
from frontend.schemas.given import MAX_DEPTH, MAX_SCHEMA_BYTES, read_schema


def test_whole_numbers_are_written_as_such_wherever_they_stand() -> None:
    given = '{"maxItems": 2.0, "const": [1.0, 1.5], "properties": {"a": {"minimum": -3.0}}, "maximum": 1e300}'
    assert repr(read_schema(given)) == repr(
        {"maxItems": 2, "const": [1, 1.5], "properties": {"a": {"minimum": -3}}, "maximum": 1e300}
    )


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


def test_documents_are_found_by_their_place_under_a_uri(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.json").write_text('{"minLength": 2.0}')
    documents = load_documents([f"https://schemas.example/v=1/={tmp_path}"])
    assert documents("https://schemas.example/v=1/a/b.json") == {"minLength": 2}
    assert documents("https://schemas.example/v=1/a/c.json") is None
    (tmp_path / "c.json").write_text("[")
    for given, words in (
        (f"x={tmp_path}", "c.json"),
        ("nowhere", "URI=FOLDER"),
        (f"x={tmp_path}/nowhere", "URI=FOLDER"),
    ):
        with pytest.raises(ConfigError, match=words) as raised:
            load_documents([given])
        assert raised.value.field == "schemas"
