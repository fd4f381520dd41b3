"""JSON schemas as clients send them: read and bounded. Does not know what they mean."""

import json
from typing import NoReturn

from engine.errors import InvalidRequest

MAX_SCHEMA_BYTES = 128 * 1024
MAX_DEPTH = 64
"""Of objects and lists in one another."""


def read_schema(text: str) -> object:
    """The schema that `text` is, with whole numbers as such.

    Raises InvalidRequest for what is no schema, or a larger one than is taken.
    """
    if len(text) > MAX_SCHEMA_BYTES:
        raise _invalid(f"it has {len(text)} characters; at most {MAX_SCHEMA_BYTES} are taken")
    try:
        given = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"it is not valid JSON: {error}") from error
    return check_schema(given)


def check_schema(given: object) -> object:
    """As `read_schema`, of what was read already."""
    if not isinstance(given, dict | bool):
        raise _invalid("it is neither an object nor true or false")
    if isinstance(given, dict) and "x-guidance" in given:
        raise _invalid("x-guidance is not taken")
    return _data(given, 0)


def _data(given: object, depth: int) -> object:
    """Numbers as they are meant: 2.0 may be a count."""
    match given:
        case float():
            if given - given != 0:
                raise _invalid("a number is out of range")
            return int(given) if given.is_integer() and abs(given) < 2**53 else given
        case dict():
            _check_depth(depth)
            return {key: _data(value, depth + 1) for key, value in given.items()}
        case list():
            _check_depth(depth)
            return [_data(value, depth + 1) for value in given]
        case _:
            return given


def _check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise _invalid(f"it is nested more than {MAX_DEPTH} deep")


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(f"the JSON schema cannot be honoured: {message}", field="grammar")
