"""What a schema says of values of one type, as a formula, and formulas as unions of shapes.

Does not know keywords, or how values are written.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from engine.errors import InvalidRequest
from frontend.schemas.places import Place
from frontend.schemas.shapes import (
    NEVER,
    Boolean,
    Condition,
    Fields,
    Items,
    Null,
    Number,
    Shape,
    Text,
    joined,
    meet,
)

MAX_MEETS = 100_000
"""Of shapes, for one schema."""
MAX_SHAPES = 512
"""In one union."""
_MAX_LOOKS = 3
"""Levels of values in values that are looked into before a shape is thought possible."""

WHOLE: dict[str, Shape] = {
    "null": Null(),
    "boolean": Boolean(frozenset({False, True})),
    "number": Number(),
    "string": Text(),
    "array": Items(),
    "object": Fields(),
}
"""All values of a type."""
_WHOLES = frozenset(WHOLE.values())


@dataclass(frozen=True, slots=True)
class Atom:
    holds: tuple[Shape, ...]
    fails: tuple[Shape, ...] | None
    """None: that it fails cannot be said."""
    where: str = ""


@dataclass(frozen=True, slots=True)
class All:
    parts: tuple["Formula", ...] = ()


@dataclass(frozen=True, slots=True)
class Some:
    parts: tuple["Formula", ...] = ()


@dataclass(frozen=True, slots=True)
class One:
    """Exactly one of them."""

    parts: tuple["Formula", ...]


@dataclass(frozen=True, slots=True)
class Not:
    part: "Formula"


Formula = Atom | All | Some | One | Not
Read = Callable[[Place, str], Formula]
"""What the schema at a place says of values of a type."""


class Shapes:
    """The shapes of the values that hold a condition."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._num_meets = 0
        self._known: dict[tuple[Condition, str], tuple[Shape, ...]] = {}
        self._looks = 0

    def of(self, condition: Condition, kind: str) -> tuple[Shape, ...]:
        """Those of one type. Raises InvalidRequest for what cannot be said, or takes too much to say."""
        known = self._known.get((condition, kind))
        if known is None:
            literals = sorted(condition, key=lambda each: not each.positive)
            parts: list[Formula] = []
            for literal in literals:
                options = Some(tuple(self._read(place, kind) for place in literal.options))
                parts.append(options if literal.positive else Not(options))
            try:
                known = self.of_formula(All(tuple(parts)), kind)
            except _TooMany as error:
                raise InvalidRequest(_too_many(condition)) from error
            self._known[condition, kind] = known
        return known

    def of_formula(self, formula: Formula, kind: str, *, positive: bool = True) -> tuple[Shape, ...]:
        match formula:
            case Atom(holds=holds, fails=fails, where=where):
                if positive:
                    return holds
                if fails is None:
                    raise InvalidRequest(f"{where} cannot be negated")
                return fails
            case Not(part):
                return self.of_formula(part, kind, positive=not positive)
            case One(parts):
                return self._exactly_one(parts, kind, positive=positive)
            case All(parts) | Some(parts):
                if isinstance(formula, All) is positive:
                    return self._product((self.of_formula(part, kind, positive=positive) for part in parts), kind)
                return self._union(self.of_formula(part, kind, positive=positive) for part in parts)

    def _exactly_one(self, parts: tuple[Formula, ...], kind: str, *, positive: bool) -> tuple[Shape, ...]:
        shapes = [self.of_formula(part, kind) for part in parts]
        filled = [i for i, each in enumerate(shapes) if each]
        overlaps: dict[tuple[int, int], tuple[Shape, ...]] = {}
        for i in filled:
            for j in filled:
                if j < i and (both := self._product((shapes[i], shapes[j]), kind)):
                    overlaps[i, j] = both
        if not positive:
            return self._union((self.of_formula(Some(parts), kind, positive=False), *overlaps.values()))
        made = []
        for i in filled:
            others = [j for j in filled if (max(i, j), min(i, j)) in overlaps]
            apart = (self.of_formula(parts[j], kind, positive=False) for j in others)
            made.append(self._product((shapes[i], *apart), kind))
        return self._union(made)

    def _union(self, unions: Iterable[tuple[Shape, ...]]) -> tuple[Shape, ...]:
        made = tuple(joined(dict.fromkeys(shape for union in unions for shape in union)))
        whole = [shape for shape in made if shape in _WHOLES]
        if whole:
            return tuple(whole[:1])
        if len(made) > MAX_SHAPES:
            raise _TooMany
        return made

    def _product(self, unions: Iterable[tuple[Shape, ...]], kind: str) -> tuple[Shape, ...]:
        made: tuple[Shape, ...] = (WHOLE[kind],)
        for shapes in unions:
            if WHOLE[kind] in shapes:
                continue
            met = (self._meet(first, second) for first in made for second in shapes)
            made = self._union([tuple(shape for shape in met if shape is not None)])
            if not made:
                break
        return made

    def _meet(self, first: Shape, second: Shape) -> Shape | None:
        self._num_meets += 1
        if self._num_meets > MAX_MEETS:
            raise _TooMany
        met = meet(first, second)
        return None if met is None else self._possible(met)

    def _possible(self, shape: Shape) -> Shape | None:
        """Without what cannot be, where that shows soon."""
        match shape:
            case Fields(named=named):
                hopeless = {f.name for f in named if len(f.condition) > 1 and self.is_empty(f.condition)}
                if any(field.required and field.name in hopeless for field in named):
                    return None
                if hopeless:
                    kept = (replace(f, condition=NEVER) if f.name in hopeless else f for f in named)
                    return replace(shape, named=tuple(kept))
            case Items(prefix=prefix, least=least):
                if any(len(each) > 1 and self.is_empty(each) for each in prefix[:least]):
                    return None
        return shape

    def is_empty(self, condition: Condition) -> bool:
        """Whether it shows soon that nothing holds a condition."""
        if condition == NEVER or self._looks >= _MAX_LOOKS:
            return condition == NEVER
        self._looks += 1
        try:
            return not any(self.of(condition, kind) for kind in WHOLE)
        finally:
            self._looks -= 1


class _TooMany(Exception):
    pass


_MULTIPLIERS = ("anyOf", "oneOf", "not", "if", "dependencies", "dependentRequired", "dependentSchemas")


def _too_many(condition: Condition) -> str:
    places = [place for literal in condition for place in literal.options]
    found = (
        f"{place.path}/{keyword}"
        for place in places
        for keyword in (*_MULTIPLIERS, "unevaluatedItems", "unevaluatedProperties")
        if isinstance(place.schema, dict) and keyword in place.schema
    )
    where = ", ".join(found) or ", ".join(place.path for place in places) or "#"
    return f"{where}: there are more than {MAX_SHAPES} ways to match it, or it takes too long to find them"
