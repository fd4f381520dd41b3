"""JSON schemas as clients send them: read, bounded, and written as llguidance takes them. Does not know grammars.

llguidance honours a schema or says that it cannot. What it would say of keywords, `unsupported` says with their place.
"""

import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NoReturn

from engine.errors import InvalidRequest
from frontend.schema_rewrite import rewrite

MAX_SCHEMA_BYTES = 128 * 1024
MAX_DEPTH = 64
"""Of objects and lists in one another."""

UNSUPPORTED = frozenset(
    {
        "$dynamicAnchor",
        "$dynamicRef",
        "$recursiveRef",
        "contains",
        "dependencies",
        "dependentRequired",
        "dependentSchemas",
        "else",
        "if",
        "maxContains",
        "minContains",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
        "uniqueItems",
    }
)
"""Keywords of which a grammar knows nothing."""
_NO_OPS: Mapping[str, bool] = MappingProxyType(
    {"uniqueItems": False, "unevaluatedItems": True, "unevaluatedProperties": True}
)
"""Those of them that ask for nothing with this value."""
_ANNOTATIONS = frozenset({"contentSchema", "deprecated"})
"""Keywords that ask for nothing and that llguidance would refuse."""

_SCHEMAS = frozenset(
    {
        "additionalItems",
        "additionalProperties",
        "allOf",
        "anyOf",
        "contains",
        "else",
        "if",
        "items",
        "not",
        "oneOf",
        "prefixItems",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
"""Keywords whose value is a schema, or a list of schemas."""
_SCHEMAS_BY_NAME = frozenset(
    {"$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"}
)


def read_schema(text: str) -> object:
    """The schema that `text` is, in keywords that llguidance has where it can be said so, and whole numbers as such.

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
    return _schema(given, 0, old=_is_old(given))


def unsupported(schema: object, path: str = "#") -> Iterator[str]:
    """Where keywords stand that no grammar can honour."""
    if not isinstance(schema, dict):
        return
    for key, value in schema.items():
        here = f"{path}/{key}"
        if key in UNSUPPORTED:
            yield here
        elif key in _SCHEMAS and isinstance(value, list):
            for position, item in enumerate(value):
                yield from unsupported(item, f"{here}/{position}")
        elif key in _SCHEMAS:
            yield from unsupported(value, here)
        elif key in _SCHEMAS_BY_NAME and isinstance(value, dict):
            for name, item in value.items():
                yield from unsupported(item, f"{here}/{name}")


def _schema(given: object, depth: int, *, old: bool) -> object:
    if isinstance(given, list):  # of schemas
        _check_depth(depth)
        return [_schema(item, depth + 1, old=old) for item in given]
    if not isinstance(given, dict):
        return _data(given, depth)
    _check_depth(depth)
    made: dict[str, object] = {}
    for key, value in given.items():
        if key in _ANNOTATIONS or (key in _NO_OPS and value is _NO_OPS[key]):
            continue
        if key in _SCHEMAS:
            made[key] = _schema(value, depth + 1, old=old)
        elif key in _SCHEMAS_BY_NAME and isinstance(value, dict):
            made[key] = {name: _schema(item, depth + 2, old=old) for name, item in value.items()}
        else:
            made[key] = _data(value, depth + 1)
    return rewrite(made, old=old)


def _is_old(given: object) -> bool:
    """Whether a schema says that it is of a draft before 2019."""
    name = given.get("$schema") if isinstance(given, dict) else None
    return isinstance(name, str) and any(f"draft-0{number}" in name for number in (3, 4, 6, 7))


def _data(given: object, depth: int) -> object:
    """What is no schema: numbers as llguidance takes them, which knows no 2.0 where a count is meant."""
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
