"""The keywords of JSON Schema that are about values of one type, as atoms of formulas. Does not know those that apply
other schemas to the same value.
"""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from engine.errors import InvalidRequest
from frontend.schemas.formats import FORMATS
from frontend.schemas.formula import WHOLE, All, Atom, Formula, Not, Shapes, Some
from frontend.schemas.places import Library, Place
from frontend.schemas.regex import terminal, whole
from frontend.schemas.shapes import (
    ANYTHING,
    NEVER,
    Condition,
    Count,
    Field,
    Fields,
    Items,
    Literal,
    Number,
    Rule,
    Text,
    some_of,
    tidy,
)
from frontend.schemas.values import exact

Schema = dict[str, Any]


def invalid(place: Place, keyword: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{place.path}/{keyword} {why}")


def counted(place: Place, keyword: str) -> int | None:
    """A keyword whose value is a count."""
    value = schema_of(place).get(keyword)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise invalid(place, keyword, "is no count")
    return value


def schema_of(place: Place) -> Schema:
    assert isinstance(place.schema, dict)
    return place.schema


def mapping(place: Place, keyword: str) -> Schema:
    value = schema_of(place).get(keyword, {})
    if not isinstance(value, dict):
        raise invalid(place, keyword, "is no object")
    return value


def names(place: Place, keyword: str, value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise invalid(place, keyword, "is no list of names")
    return value


class Keywords:
    """Reads them, for the schemas of a library."""

    def __init__(self, library: Library, shapes: Shapes) -> None:
        self._library = library
        self._shapes = shapes

    def read(self, place: Place, kind: str) -> Iterator[Formula]:
        match kind:
            case "number" if self._library.validates(place):
                yield from _number(place)
            case "string" if self._library.validates(place):
                yield from _string(place)
            case "array":
                yield from self._array(place)
            case "object":
                yield from self._object(place)

    def condition(self, place: Place, schema: object, path: str) -> Condition:
        """That a value within holds a schema."""
        if not isinstance(schema, dict | bool):
            raise invalid(place, path, "is no schema")
        return some_of([self._library.settled(self._library.child(place, schema, path))])

    def _array(self, place: Place) -> Iterator[Formula]:
        prefix, rest = self.positions(place)
        if prefix:
            fails = (Items((ANYTHING,) * at + (opposite(each),), least=at + 1) for at, each in enumerate(prefix))
            yield Atom((Items(tuple(prefix)),), tuple(fails))
        yield items_after(len(prefix), rest)
        yield from self._contains(place)
        if not self._library.validates(place):
            return
        if least := counted(place, "minItems"):
            yield Atom((Items(least=least),), (Items(most=least - 1),))
        if (most := counted(place, "maxItems")) is not None:
            yield Atom((Items(most=most),), (Items(least=most + 1),))
        if schema_of(place).get("uniqueItems") is True:
            where = f"{place.path}/uniqueItems"
            yield Atom((Items(unique=where),), None, where)

    def positions(self, place: Place) -> tuple[list[Condition], Condition]:
        """What is asked of the first items, and of the rest."""
        schema = schema_of(place)
        prefix, rest = schema.get("prefixItems", []), ("items", schema.get("items", True))
        if isinstance(rest[1], list):  # as older drafts have it
            prefix, rest = rest[1], ("additionalItems", schema.get("additionalItems", True))
        elif self._library.is_old(place):
            prefix = []
        if not isinstance(prefix, list):
            raise invalid(place, "prefixItems", "is no list of schemas")
        made = [self.condition(place, each, f"prefixItems/{at}") for at, each in enumerate(prefix)]
        return made, self.condition(place, rest[1], rest[0])

    def _contains(self, place: Place) -> Iterator[Formula]:
        schema = schema_of(place)
        if "contains" not in schema:
            return
        held = self.condition(place, schema["contains"], "contains")
        least = 1
        most = None
        if not self._library.is_old(place) and self._library.validates(place):
            least = 1 if (given := counted(place, "minContains")) is None else given
            most = counted(place, "maxContains")
        more: tuple[Items, ...] = () if most is None else (_holding(held, most + 1, None),)
        if most is not None and most < least:
            yield Some()
        else:
            yield Atom((_holding(held, least, most),), (*((_holding(held, 0, least - 1),) if least else ()), *more))

    def _object(self, place: Place) -> Iterator[Formula]:
        properties = {
            name: self.condition(place, each, f"properties/{name}")
            for name, each in mapping(place, "properties").items()
        }
        if properties:
            fails = (Fields((Field(name, opposite(each), required=True),)) for name, each in properties.items())
            named = tuple(Field(name, each, required=False) for name, each in properties.items())
            yield Atom((Fields(named),), tuple(fails))
        for pattern, each in mapping(place, "patternProperties").items():
            yield rule((self.matching(place, pattern),), self.condition(place, each, f"patternProperties/{pattern}"))
        if "additionalProperties" in schema_of(place):
            others = self.condition(place, schema_of(place)["additionalProperties"], "additionalProperties")
            yield rule((self.others(place),), others)
        if "propertyNames" in schema_of(place):
            yield from self._names(place)
        if self._library.validates(place):
            yield from _sizes(place)

    def matching(self, place: Place, pattern: str) -> Text:
        """The names that a pattern of `patternProperties` is about."""
        return Text(terms=frozenset({(True, _pattern(place, "patternProperties", pattern))}))

    def others(self, place: Place) -> Text:
        """The names of which neither `properties` nor `patternProperties` say anything."""
        patterns = mapping(place, "patternProperties")
        terms = frozenset((False, _pattern(place, "patternProperties", each)) for each in patterns)
        return Text(without=frozenset(mapping(place, "properties")), terms=terms)

    def _names(self, place: Place) -> Iterator[Formula]:
        held = self.condition(place, schema_of(place)["propertyNames"], "propertyNames")
        bad = tuple(shape for shape in self._shapes.of(opposite(held), "string") if isinstance(shape, Text))
        if bad:
            yield rule(bad, NEVER)


def opposite(condition: Condition) -> Condition:
    """Of what a single schema asks."""
    if condition in (ANYTHING, NEVER):
        return NEVER if condition == ANYTHING else ANYTHING
    (literal,) = condition
    return frozenset({Literal(not literal.positive, literal.options)})


def items_after(length: int, condition: Condition) -> Formula:
    """That all items but the first hold a condition."""
    if condition == ANYTHING:
        return All()
    if condition == NEVER:
        return Atom((Items(most=length),), (Items(least=length + 1),))
    fails = Items(counts=(Count(opposite(condition), length, 1, None),))
    return Atom((Items((ANYTHING,) * length, condition),), (fails,))


def _holding(condition: Condition, least: int, most: int | None) -> Items:
    """Lists with so many items that hold a condition."""
    if condition == ANYTHING:
        return Items(least=least, most=most)
    return Items(counts=(Count(condition, 0, least, most),))


def rule(matching: tuple[Text, ...], condition: Condition) -> Atom:
    if condition == ANYTHING:
        return Atom((WHOLE["object"],), ())
    holds = Fields(rules=(Rule(matching, condition),))
    return Atom((holds,), (Fields(some=(Rule(matching, opposite(condition)),)),))


def _sizes(place: Place) -> Iterator[Formula]:
    schema = schema_of(place)
    required = schema.get("required", [])
    if not isinstance(required, bool):  # in very old schemas a property says so itself
        for name in names(place, "required", required):
            yield has(name)
    if least := counted(place, "minProperties"):
        yield Atom((Fields(least=least),), (Fields(most=least - 1),))
    if (most := counted(place, "maxProperties")) is not None:
        yield Atom((Fields(most=most),), (Fields(least=most + 1),))


def has(name: str) -> Atom:
    """That an object has a property."""
    there = Fields((Field(name, ANYTHING, required=True),))
    return Atom((there,), (Fields((Field(name, NEVER, required=False),)),))


def dependent_names(place: Place, keyword: str) -> Iterator[Formula]:
    for name, needed in mapping(place, keyword).items():
        if isinstance(needed, list):
            yield Some((Not(has(name)), All(tuple(map(has, names(place, keyword, needed))))))


def _string(place: Place) -> Iterator[Formula]:
    schema = schema_of(place)
    if least := counted(place, "minLength"):
        yield Atom((Text(least=least),), (Text(most=least - 1),))
    if (most := counted(place, "maxLength")) is not None:
        yield Atom((Text(most=most),), (Text(least=most + 1),))
    if "pattern" in schema:
        yield _matching(_pattern(place, "pattern", schema["pattern"]))
    if "format" in schema:
        pattern = FORMATS.get(schema["format"]) if isinstance(schema["format"], str) else None
        if pattern is None:
            raise invalid(place, "format", f"{schema['format']!r} is not supported")
        yield _matching(whole(pattern))


def _matching(term: str) -> Atom:
    return Atom((Text(terms=frozenset({(True, term)})),), (Text(terms=frozenset({(False, term)})),))


def _pattern(place: Place, keyword: str, pattern: object) -> str:
    if not isinstance(pattern, str):
        raise invalid(place, keyword, "is no pattern")
    try:
        return terminal(pattern)
    except InvalidRequest as error:
        raise invalid(place, keyword, error.message) from error


def _number(place: Place) -> Iterator[Formula]:
    schema = schema_of(place)
    bounds: dict[str, Fraction] = {}
    for keyword in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"):
        value = schema.get(keyword)
        if isinstance(value, bool) and keyword.startswith("exclusive"):  # as draft 4 has it
            plain = schema.get("minimum" if keyword == "exclusiveMinimum" else "maximum")
            value = plain if value else None
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise invalid(place, keyword, "is no number")
        bounds[keyword] = exact(value)
    if (bound := bounds.get("minimum")) is not None:
        yield Atom((Number(least=bound),), (Number(most=bound, below=True),))
    if (bound := bounds.get("maximum")) is not None:
        yield Atom((Number(most=bound),), (Number(least=bound, above=True),))
    if (bound := bounds.get("exclusiveMinimum")) is not None:
        yield Atom((Number(least=bound, above=True),), (Number(most=bound),))
    if (bound := bounds.get("exclusiveMaximum")) is not None:
        yield Atom((Number(most=bound, below=True),), (Number(least=bound),))
    if (step := bounds.get("multipleOf")) is not None:
        if step <= 0:
            raise invalid(place, "multipleOf", "is not above 0")
        fails = (Number(whole=False),) if step == 1 else None
        holds = Number(whole=True) if step == 1 else tidy(Number(step=step))
        assert holds is not None
        yield Atom((holds,), fails, f"{place.path}/multipleOf")
