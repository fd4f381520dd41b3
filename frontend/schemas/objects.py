"""Rules that write JSON objects: named properties in their order, and then any others.

A name that the schema does not give may be anything that some rules are about and others are not: the names are parted
by that. Does not know how values are written, but by the names of their rules.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from engine.errors import InvalidRequest
from frontend.schemas.lexemes import Lexemes, quoted
from frontend.schemas.lists import IsAlive, times
from frontend.schemas.regex import json_text
from frontend.schemas.shapes import ANYTHING, NEVER, Condition, Field, Fields, Rule, Text, both

MAX_RULES = 6
"""About names in one object."""
MAX_OBJECTS = 64
"""That one shape is spread into."""


@dataclass(frozen=True, slots=True)
class Free:
    """Names, as a terminal, and what their values hold."""

    names: str
    condition: Condition


@dataclass(frozen=True, slots=True)
class Object:
    """Named properties, then others, the last of which may have to be one of a kind."""

    named: tuple[Field, ...]
    free: tuple[Free, ...]
    last: tuple[Free, ...] | None
    least: int
    most: int | None

    def conditions(self) -> Iterator[Condition]:
        yield from (field.condition for field in self.named)
        yield from (each.condition for each in (*self.free, *(self.last or ())))


def objects_of(fields: Fields, lexemes: Lexemes) -> list[Object]:
    """The objects of a shape. Raises InvalidRequest for too many rules."""
    found: list[tuple[Fields, tuple[Rule, ...]]] = [(replace(fields, some=()), ())]
    for rule in _needed(fields.some, lexemes):  # a property that is named holds it, or another does
        found = [each for before in found for each in _held(*before, rule, lexemes)]
        if len(found) > MAX_OBJECTS:
            raise InvalidRequest(
                "not, oneOf or if: additionalProperties, patternProperties and propertyNames fail in too many ways"
            )
    return [made for each, free in found if (made := _object(each, free, lexemes)) is not None]


def _needed(some: tuple[Rule, ...], lexemes: Lexemes) -> list[Rule]:
    """Without those that hold where another does."""
    terms = [_terms(rule.names, frozenset(), lexemes) for rule in some]
    kept: list[int] = []
    for at, (rule, term) in enumerate(zip(some, terms, strict=True)):
        implied = False
        for other in (*kept, *range(at + 1, len(some))):
            narrower = rule.condition <= some[other].condition and term is not None and terms[other] is not None
            implied = implied or (narrower and not lexemes.has_text([str(terms[other]), f"~{term}"]))
        if not implied:
            kept.append(at)
    return [some[at] for at in kept]


def _held(
    fields: Fields, free: tuple[Rule, ...], rule: Rule, lexemes: Lexemes
) -> Iterator[tuple[Fields, tuple[Rule, ...]]]:
    yield fields, (*free, rule)
    for at, field in enumerate(fields.named):
        condition = both(field.condition, rule.condition)
        if condition != NEVER and _is_among(field.name, rule.names, lexemes):
            named = (*fields.named[:at], Field(field.name, condition, required=True), *fields.named[at + 1 :])
            yield replace(fields, named=named), free


def _object(fields: Fields, some: tuple[Rule, ...], lexemes: Lexemes) -> Object | None:
    if len(fields.rules) > MAX_RULES:
        raise InvalidRequest(
            f"patternProperties, additionalProperties, propertyNames: more than {MAX_RULES} are about one object"
        )
    named = []
    for field in fields.named:
        condition = field.condition
        for rule in fields.rules:
            if _is_among(field.name, rule.names, lexemes):
                condition = both(condition, rule.condition)
        if field.required and condition == NEVER:
            return None
        named.append(replace(field, condition=condition))
    taken = frozenset(field.name for field in named)
    free = tuple(_parted(fields.rules, [], taken, lexemes))
    last = None
    if some:
        if len(some) > 1:
            raise InvalidRequest(
                "not, oneOf or if: several of additionalProperties, patternProperties, propertyNames would have to fail"
            )
        names = _terms(some[0].names, taken, lexemes)
        last = tuple(
            Free(each.names, condition)
            for each in (_parted(fields.rules, [names], taken, lexemes) if names else ())
            if (condition := both(each.condition, some[0].condition)) != NEVER
        )
    return Object(tuple(named), free, last, fields.least, fields.most)


def _parted(rules: Sequence[Rule], within: list[str], taken: frozenset[str], lexemes: Lexemes) -> Iterator[Free]:
    """The names that are not taken, by which rules are about them."""
    terms = [_terms(rule.names, taken, lexemes) for rule in rules]
    every = lexemes.text(Text(without=taken))
    assert every is not None
    for sides in product((True, False), repeat=len(rules)):
        condition = ANYTHING
        parts = [every, *within]
        is_possible = True
        for rule, term, holds in zip(rules, terms, sides, strict=True):
            if term is None or term == every:
                is_possible = is_possible and holds is (term is not None)
            else:
                parts.append(term if holds else f"~{term}")
            condition = both(condition, rule.condition) if holds else condition
        if is_possible and condition != NEVER and (len(parts) == 1 or lexemes.has_text(parts)):
            yield Free(lexemes.meet(parts), condition)


def _terms(names: tuple[Text, ...], taken: frozenset[str], lexemes: Lexemes) -> str | None:
    """The terminal of what is in any of these sets and not taken; None if nothing is."""
    return lexemes.join(name for text in names if (name := lexemes.text(_untaken(text, taken))) is not None)


def _untaken(text: Text, taken: frozenset[str]) -> Text:
    if text.among is not None:
        return replace(text, among=text.among - taken)
    return replace(text, without=text.without | taken)


def _is_among(name: str, names: tuple[Text, ...], lexemes: Lexemes) -> bool:
    return any(_is_in(name, text, lexemes) for text in names)


def _is_in(name: str, text: Text, lexemes: Lexemes) -> bool:
    if len(name) < text.least or (text.most is not None and len(name) > text.most) or name in text.without:
        return False
    if text.among is not None and name not in text.among:
        return False
    terms = [f"{'' if positive else '~'}{lexemes.terminal(term)}" for positive, term in sorted(text.terms)]
    return not terms or lexemes.has_text([quoted(json_text(name)), *terms])


class ObjectRules:
    """The rules of one object."""

    def __init__(self, made: Object, is_alive: IsAlive, rule_of: Callable[[Condition], str]) -> None:
        self._named = [field for field in made.named if field.required or is_alive(field.condition)]
        self._lost = any(field.required and not is_alive(field.condition) for field in made.named)
        self._free = [each for each in made.free if is_alive(each.condition)]
        self._last = None if made.last is None else [each for each in made.last if is_alive(each.condition)]
        self._least, self._most = made.least, made.most
        self._enough = max(1, made.least, made.most or 0)
        self._rule_of = rule_of
        self._can: dict[tuple[int, int], bool] = {}
        """Whether an object can be ended from a place, with so many properties written."""
        for place in range(len(self._named), -1, -1):  # from the end, so that nothing goes deep
            for count in range(min(place, self._enough) + 1):
                self._can[place, count] = self._may_end(place, count)

    def is_possible(self) -> bool:
        return not self._lost and self._can[0, 0]

    def rules(self, name: str) -> list[str]:
        """The first one is called `name`. Only of an object that is possible."""
        rules = [f'{name}: "{{" {self._call(name, 0, 0)} "}}"']
        waiting = [(0, 0)]
        written = set(waiting)
        while waiting:
            at, count = waiting.pop()
            if at == len(self._named):
                rules.append(f"{name}_{at}_{count}: {self._others(count)}")
                continue
            options = []
            for text, after in self._steps(at, count):
                options.append(f"{text} {self._call(name, *after)}")
                if after not in written:
                    written.add(after)
                    waiting.append(after)
            rules.append(f"{name}_{at}_{count}: {' | '.join(options)}")
        return rules

    def _call(self, name: str, at: int, count: int) -> str:
        return f"{name}_{at}_{count}"

    def _steps(self, at: int, count: int) -> Iterator[tuple[str, tuple[int, int]]]:
        """What may be written next, and where that leads."""
        field = self._named[at]
        if field.condition != NEVER and self._can[at + 1, self._next(count)] and not self._is_full(count):
            comma = '"," ' if count else ""
            text = f'{comma}{quoted(json_text(field.name))} ":" {self._rule_of(field.condition)}'
            yield text, (at + 1, self._next(count))
        if not field.required and self._can[at + 1, count]:
            yield "", (at + 1, count)

    def _next(self, count: int) -> int:
        return min(count + 1, self._enough)

    def _is_full(self, count: int) -> bool:
        return self._most is not None and count >= self._most

    def _may_end(self, at: int, count: int) -> bool:
        if at == len(self._named):
            low, high = self._left(count)
            return (low == 0 or bool(self._free) or (low == 1 and bool(self._last))) and (
                self._last is None or (bool(self._last) and high != 0)
            )
        field = self._named[at]
        written = not self._is_full(count) and self._can[at + 1, self._next(count)]
        return written or (not field.required and self._can[at + 1, count])

    def _left(self, count: int) -> tuple[int, int | None]:
        """How many properties may come yet."""
        return max(0, self._least - count), None if self._most is None else max(0, self._most - count)

    def _others(self, count: int) -> str:
        low, high = self._left(count)
        pair = self._pair(self._free)
        end = self._pair(self._last) if self._last else ""
        if end:
            low, high = max(0, low - 1), None if high is None else high - 1
        before = "" if not pair or high == 0 else pair
        if count:
            many = times(f'("," {before})', low, high) if before else ""
            return f'{many} "," {end}' if end else many or '""'
        if end:
            return f"""{times(f'({before} ",")', low, high)} {end}""" if before else end
        if not before:
            return '""'
        more = times(f'("," {before})', max(low - 1, 0), None if high is None else high - 1)
        return f"{before} {more}" if low else f"({before} {more})?"

    def _pair(self, free: Sequence[Free]) -> str:
        pairs = [f'{each.names} ":" {self._rule_of(each.condition)}' for each in free]
        return "" if not pairs else pairs[0] if len(pairs) == 1 else f"({' | '.join(pairs)})"
