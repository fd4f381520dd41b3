"""JSON schemas as llama.cpp and Ollama read them: an object that names its properties has no others.

JSON Schema itself allows any other property, and a model that is not sure of itself makes some up. Does not know
grammars.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

Schema: TypeAlias = Any
"""An object of keywords, or whatever else stands where a schema may."""

BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
"""Keywords that hold schemas by name; in a list; and one."""
LISTS = ("prefixItems", "anyOf", "oneOf", "allOf")
SINGLE = ("items", "additionalProperties")
OTHERS = ("additionalProperties", "patternProperties")
"""An object that has one of these says itself what else it may have."""
SOURCES = (("properties", "required"), ("$ref",), ("anyOf",), ("oneOf",), ("allOf",))
"""Where it can be said what an object has."""
BEYOND = frozenset(
    {"$dynamicRef", "dependentRequired", "dependentSchemas", "if", "minProperties", "not", "propertyNames"}
    | {"unevaluatedProperties"}
)


def closed(schema: Schema) -> Schema:
    """`schema`, with objects closed that name their properties and say nothing of others.

    It stays as it is where an object's properties come from several places at once, each of which would forbid what the
    others name; and where it is nested deeper than any grammar may be.
    """
    try:
        return schema if any(map(_is_combined, _all(schema))) else _closed(schema)
    except RecursionError:
        return schema


def _closed(schema: Schema) -> Schema:
    if not isinstance(schema, dict):
        return schema
    says_all = isinstance(schema.get("properties"), dict) and not any(keyword in schema for keyword in OTHERS)
    return _mapped(schema, _closed) | ({"additionalProperties": False} if says_all else {})


def _is_combined(schema: dict[str, Schema]) -> bool:
    several = isinstance(every := schema.get("allOf"), list) and len(every) > 1
    sources = sum(any(keyword in schema for keyword in source) for source in SOURCES)
    named, required = schema.get("properties"), schema.get("required")
    unnamed = isinstance(named, dict) and isinstance(required, list) and any(name not in [*named] for name in required)
    return several or sources > 1 or unnamed or not BEYOND.isdisjoint(schema)


def _all(schema: Schema) -> Iterator[dict[str, Schema]]:
    """It and those within it."""
    if isinstance(schema, dict):
        yield schema
        within: list[Schema] = []
        _mapped(schema, within.append)
        for each in within:
            yield from _all(each)


def _mapped(schema: dict[str, Schema], change: Callable[[Schema], Schema]) -> dict[str, Schema]:
    """With what is made of each schema right within it."""
    made = dict(schema)
    for keyword, value in schema.items():
        if keyword in BY_NAME and isinstance(value, dict):
            made[keyword] = {name: change(each) for name, each in value.items()}
        elif keyword in LISTS and isinstance(value, list):
            made[keyword] = [change(each) for each in value]
        elif keyword in SINGLE:
            made[keyword] = change(value)
    return made
