"""Values that a schema names, as shapes. Does not know other keywords than `const` and `enum`."""

import json
from collections.abc import Iterable
from fractions import Fraction

from frontend.schemas.formula import Atom
from frontend.schemas.places import Place
from frontend.schemas.shapes import (
    ANYTHING,
    NEVER,
    Boolean,
    Condition,
    Field,
    Fields,
    Items,
    Null,
    Number,
    Rule,
    Shape,
    Text,
    some_of,
)


def kind_of(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def exact(number: int | float) -> Fraction:
    """As it was written."""
    return Fraction(repr(number))


def among(values: Iterable[object], kind: str, where: str) -> list[Atom]:
    """That a value of one type is one of these: any of the atoms."""
    mine = [value for value in values if kind_of(value) == kind]
    if kind == "string" and mine:
        texts = frozenset(map(str, mine))
        return [Atom((Text(among=texts),), (Text(without=texts),), where)]
    return [Atom((_shape(value),), _others(value), where) for value in mine]


def _shape(value: object) -> Shape:
    match value:
        case None:
            return Null()
        case bool():
            return Boolean(frozenset({value}))
        case int() | float():
            return Number(exact(value), exact(value))
        case str():
            return Text(among=frozenset({value}))
        case list():
            return Items(tuple(map(_is, value)), NEVER, len(value), len(value))
        case dict():
            named = tuple(Field(name, _is(item), required=True) for name, item in value.items())
            return Fields(named, (Rule((Text(without=frozenset(value)),), NEVER),))
    raise AssertionError("no other values are read from JSON")


def _others(value: object) -> tuple[Shape, ...]:
    match value:
        case bool():
            return (Boolean(frozenset({not value})),)
        case int() | float():
            return (Number(most=exact(value), below=True), Number(least=exact(value), above=True))
        case list():
            lengths = (Items(most=len(value) - 1),) if value else ()
            different = (
                Items((ANYTHING,) * position + (_is(item, positive=False),), least=position + 1)
                for position, item in enumerate(value)
            )
            return (*lengths, Items(least=len(value) + 1), *different)
        case dict():
            missing = (Fields((Field(name, NEVER, required=False),)) for name in value)
            changed = (Fields((Field(name, _is(item, positive=False), required=True),)) for name, item in value.items())
            more = Fields(some=(Rule((Text(without=frozenset(value)),), ANYTHING),))
            return (*missing, *changed, more)
    return ()


def _is(value: object, *, positive: bool = True) -> Condition:
    """That a value is just this one."""
    key = json.dumps(value, sort_keys=True)
    return some_of([Place(("const", key), schema={"const": value}, path="const")], positive=positive)
