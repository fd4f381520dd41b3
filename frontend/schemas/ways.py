"""`unevaluatedProperties` and `unevaluatedItems`: about what no schema that holds has evaluated.

Which schemas hold depends on the value, so all ways in which some hold and others do not are told apart. Of each way
it is known what has been evaluated, and the rest of it is an ordinary rule.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Protocol

from engine.errors import InvalidRequest
from frontend.schemas.formula import All, Formula, Not, Some
from frontend.schemas.keywords import Keywords, has, items_after, mapping, rule, schema_of
from frontend.schemas.places import Place
from frontend.schemas.shapes import Text, is_trivial, some_of

UNEVALUATED = MappingProxyType({"array": "unevaluatedItems", "object": "unevaluatedProperties"})
MAX_WAYS = 256
"""Of one schema."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Of an object the values of these names, of a list its first items and those that hold one of some schemas."""

    names: frozenset[Text] = frozenset()
    first: int = 0
    holding: frozenset[Place] = frozenset()
    everything: bool = False

    def __or__(self, other: "Evaluated") -> "Evaluated":
        first = max(self.first, other.first)
        everything = self.everything or other.everything
        return Evaluated(self.names | other.names, first, self.holding | other.holding, everything)


NOTHING = Evaluated()
EVERYTHING = Evaluated(everything=True)
Way = tuple[Formula, Evaluated]


class Schemas(Protocol):
    """What is asked of a reader."""

    def read(self, place: Place, kind: str) -> Formula: ...
    def own(self, place: Place, kind: str) -> Formula: ...
    def asked(self, place: Place) -> set[str]: ...
    def targets(self, place: Place) -> Iterator[Place]: ...
    def dependent(self, place: Place) -> Iterator[tuple[str, Place]]: ...
    def required_by(self, place: Place) -> Iterator[Formula]: ...
    def listed(self, place: Place, keyword: str) -> list[Place]: ...
    def child(self, place: Place, keyword: str) -> Place: ...


class Ways:
    """Tells them apart."""

    def __init__(self, schemas: Schemas, keywords: Keywords) -> None:
        self._schemas = schemas
        self._keywords = keywords
        self._known: dict[tuple[Place, str], list[Way]] = {}

    def formula(self, place: Place, kind: str) -> Formula:
        """What a schema says in which one of the keywords stands. Raises InvalidRequest for too many ways."""
        return Some(tuple(way for way, _ in self._of(place, kind)))

    def _of(self, place: Place, kind: str) -> list[Way]:
        key = (place, kind)
        if key not in self._known:
            self._known[key] = self._found(place, kind)
        return self._known[key]

    def _found(self, place: Place, kind: str) -> list[Way]:
        if isinstance(place.schema, bool):
            return [(self._schemas.read(place, kind), NOTHING)]
        asked = self._schemas.asked(place)
        ways: list[Way] = [(self._schemas.own(place, kind), self._evaluated(place, kind))]
        for applied in self._applied(place, kind, asked):
            ways = _merged(_joined(ways, applied))
        if (keyword := UNEVALUATED[kind]) in asked:
            left = self._schemas.child(place, keyword)
            ways = [(All((way, self._about_rest(done, left, kind))), EVERYTHING) for way, done in ways]
        return ways

    def _applied(self, place: Place, kind: str, asked: set[str]) -> Iterator[list[Way]]:
        for target in self._schemas.targets(place):
            yield self._of(target, kind)
        if "anyOf" in asked:
            options = self._schemas.listed(place, "anyOf")
            yield self._chosen(options, kind, lambda held: any(held))
        if "oneOf" in asked:
            options = self._schemas.listed(place, "oneOf")
            yield self._chosen(options, kind, lambda held: sum(held) == 1)
        if "not" in asked:
            yield [(Not(self._schemas.read(self._schemas.child(place, "not"), kind)), NOTHING)]
        if "if" in asked:
            holds, then, otherwise = (self._schemas.child(place, each) for each in ("if", "then", "else"))
            fails: list[Way] = [(Not(self._schemas.read(holds, kind)), NOTHING)]
            yield [*_joined(self._of(holds, kind), self._of(then, kind)), *_joined(fails, self._of(otherwise, kind))]
        if kind == "object":
            yield from ([(formula, NOTHING)] for formula in self._schemas.required_by(place))
            for name, target in self._schemas.dependent(place):
                yield [(Not(has(name)), NOTHING), *_joined([(has(name), NOTHING)], self._of(target, kind))]

    def _chosen(self, options: list[Place], kind: str, is_allowed: Callable[[tuple[bool, ...]], bool]) -> list[Way]:
        """Of schemas, each of which may hold or not."""
        ways: list[Way] = []
        if 2 ** len(options) > 2 * MAX_WAYS:
            raise InvalidRequest(_TOO_MANY)
        for held in product((True, False), repeat=len(options)):
            if is_allowed(held):
                found: list[Way] = [(All(), NOTHING)]
                for place, holds in zip(options, held, strict=True):
                    fails: list[Way] = [(Not(self._schemas.read(place, kind)), NOTHING)]
                    found = _joined(found, self._of(place, kind) if holds else fails)
                ways += found
        return _merged(ways)

    def _evaluated(self, place: Place, kind: str) -> Evaluated:
        schema, asked = schema_of(place), self._schemas.asked(place)
        if kind == "object":
            if "additionalProperties" in asked:
                return EVERYTHING
            names = {Text(among=frozenset(mapping(place, "properties")))} if mapping(place, "properties") else set()
            patterns = (self._keywords.matching(place, each) for each in mapping(place, "patternProperties"))
            return Evaluated(frozenset({*names, *patterns}))
        if "items" in asked and not isinstance(schema["items"], list):
            return EVERYTHING
        if "items" in asked and "additionalItems" in asked:
            return EVERYTHING
        holding = frozenset({self._schemas.child(place, "contains")}) if "contains" in asked else frozenset()
        prefix, _ = self._keywords.positions(place)
        return Evaluated(first=len(prefix), holding=holding)

    def _about_rest(self, done: Evaluated, left: Place, kind: str) -> Formula:
        """That what has not been evaluated holds a schema."""
        if done.everything or is_trivial(left.schema, True):
            return All()
        if kind == "array":
            return items_after(done.first, some_of([left, *done.holding]))
        return rule((_none_of(done.names),), some_of([left]))


def _none_of(names: Iterable[Text]) -> Text:
    without = frozenset(name for each in names for name in each.among or ())
    return Text(without=without, terms=frozenset((False, term) for each in names for _, term in each.terms))


def _joined(first: list[Way], second: list[Way]) -> list[Way]:
    return [(All((a, b)), done | also) for a, done in first for b, also in second]


def _merged(ways: list[Way]) -> list[Way]:
    """With one way for all that have evaluated the same."""
    found: dict[Evaluated, list[Formula]] = {}
    for formula, done in ways:
        found.setdefault(done, []).append(formula)
    if len(found) > MAX_WAYS:
        raise InvalidRequest(_TOO_MANY)
    return [(Some(tuple(formulas)) if len(formulas) > 1 else formulas[0], done) for done, formulas in found.items()]


_TOO_MANY = f"unevaluated...: the ways in which schemas beside it may hold are too many, more than {MAX_WAYS}"
