"""JSON schemas without what nobody has named: an object that names its properties has no others.

JSON Schema itself allows any other property. Functions take none, llama.cpp and Ollama read schemas so, and a model
that is not sure of itself makes some up. Pure.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

Schema: TypeAlias = Any
"""An object of keywords, or whatever else stands where a schema may."""

NAMED = ("properties", "patternProperties", "$defs", "definitions")
"""Keywords that hold schemas by name; several; and one."""
LISTED = ("prefixItems", "anyOf", "oneOf", "allOf")
SINGLE = ("items", "additionalProperties")
OPENING = frozenset(
    {"$dynamicRef", "$ref", "additionalProperties", "allOf", "anyOf", "dependentSchemas", "if", "minProperties"}
    | {"oneOf", "patternProperties", "unevaluatedProperties"}
)
"""Keywords beside which an object may have, or must have, properties that `properties` does not name."""
SOURCES = (("properties", "required"), ("$ref",), ("anyOf",), ("oneOf",), ("allOf",), ("if",), ("dependentSchemas",))
"""Where it can be said what an object has."""


def closed(schema: Schema) -> Schema:
    """`schema`, with objects closed that name all their properties. What matches it matches `schema`.

    Objects whose properties come from several places stay open, as each of these would forbid what the others name.
    Raises RecursionError.
    """
    return _closed(schema, with_definitions=not any(map(_is_combined, _all(schema))))


def _closed(schema: Schema, *, with_definitions: bool) -> Schema:
    """`with_definitions`: nobody who refers to them says more of the same object."""
    if not isinstance(schema, dict):
        return schema
    apart = {"patternProperties"}
    if not with_definitions:
        apart |= {"$defs", "definitions"}
    if _is_combined(schema):
        apart |= {"anyOf", "oneOf", "allOf"}
    if "contains" in schema:
        apart |= {"items", "prefixItems"}
    made = _mapped(schema, lambda each: _closed(each, with_definitions=with_definitions), apart)
    named, required = made.get("properties"), made.get("required", [])
    if not isinstance(named, dict) or not isinstance(required, list) or not OPENING.isdisjoint(made):
        return made
    if all(isinstance(name, str) and name in named for name in required):
        made["additionalProperties"] = False
    return made


def _is_combined(schema: dict[str, Schema]) -> bool:
    """Whether several schemas say what an object has."""
    several = isinstance(every := schema.get("allOf"), list) and len(every) > 1
    sources = sum(any(keyword in schema for keyword in source) for source in SOURCES)
    return several or sources > 1 or not {"$dynamicRef", "not", "unevaluatedProperties"}.isdisjoint(schema)


def _all(schema: Schema) -> Iterator[dict[str, Schema]]:
    """It and those within it."""
    if isinstance(schema, dict):
        yield schema
        within: list[Schema] = []
        _mapped(schema, within.append, set())
        for each in within:
            yield from _all(each)


def _mapped(schema: dict[str, Schema], change: Callable[[Schema], Schema], apart: set[str]) -> dict[str, Schema]:
    """With what is made of each schema right within it, but for those below the keywords `apart`."""
    made = dict(schema)
    for keyword in schema.keys() - apart:
        match keyword, schema[keyword]:
            case _, dict(named) if keyword in NAMED:
                made[keyword] = {name: change(each) for name, each in named.items()}
            case _, list(several) if keyword in LISTED:
                made[keyword] = [change(each) for each in several]
            case _, one if keyword in SINGLE:
                made[keyword] = change(one)
    return made
