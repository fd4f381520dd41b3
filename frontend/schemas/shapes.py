"""What a schema allows of one type of value, in a form that can be met with another: shapes.

A set of values is a union of shapes. What is within arrays and objects is said by conditions, which name schemas and
are looked into later: so schemas may refer to themselves. Does not know keywords.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, floor, lcm

from frontend.schemas.places import ANNOTATIONS, Place


@dataclass(frozen=True, slots=True)
class Literal:
    """Some of these schemas hold, or none does."""

    positive: bool
    options: frozenset[Place]


Condition = frozenset[Literal]
"""All of these hold."""
ANYTHING: Condition = frozenset()
NEVER: Condition = frozenset({Literal(True, frozenset())})


def some_of(places: Iterable[Place], *, positive: bool = True) -> Condition:
    options = frozenset(place for place in places if not is_trivial(place.schema, False))
    if any(is_trivial(place.schema, True) for place in options):
        return ANYTHING if positive else NEVER
    if not options:
        return NEVER if positive else ANYTHING
    return frozenset({Literal(positive, options)})


def is_trivial(schema: object, value: bool) -> bool:
    """Whether a schema lets everything through (True) or nothing (False), as far as can be told at once."""
    return schema is value or (value and isinstance(schema, dict) and ANNOTATIONS.issuperset(schema))


def both(first: Condition, second: Condition) -> Condition:
    made = first | second
    if made >= NEVER or any(Literal(not each.positive, each.options) in made for each in made):
        return NEVER
    return made


@dataclass(frozen=True, slots=True)
class Null:
    pass


@dataclass(frozen=True, slots=True)
class Boolean:
    values: frozenset[bool]


@dataclass(frozen=True, slots=True)
class Number:
    least: Fraction | None = None
    most: Fraction | None = None
    above: bool = False
    """Whether `least` itself is excluded."""
    below: bool = False
    whole: bool | None = None
    """False: what is no whole number."""
    step: Fraction | None = None
    """It is a multiple of this."""


@dataclass(frozen=True, slots=True)
class Text:
    least: int = 0
    most: int | None = None
    among: frozenset[str] | None = None
    without: frozenset[str] = frozenset()
    terms: frozenset[tuple[bool, str]] = frozenset()
    """Expressions of terminals that it matches, or does not."""


@dataclass(frozen=True, slots=True)
class Count:
    """How many of the items from `start` on hold a condition."""

    condition: Condition
    start: int
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Items:
    prefix: tuple[Condition, ...] = ()
    rest: Condition = ANYTHING
    least: int = 0
    most: int | None = None
    counts: tuple[Count, ...] = ()
    unique: str = ""
    """The place of the keyword by which all of them differ."""


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    condition: Condition
    required: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """About the values of all names that are in some of these sets, or of one at least."""

    names: tuple[Text, ...]
    condition: Condition


@dataclass(frozen=True, slots=True)
class Fields:
    named: tuple[Field, ...] = ()
    rules: tuple[Rule, ...] = ()
    some: tuple[Rule, ...] = ()
    least: int = 0
    most: int | None = None


Shape = Null | Boolean | Number | Text | Items | Fields


def meet(first: Shape, second: Shape) -> Shape | None:
    """What is in both; None if that is nothing."""
    if first == second:
        return first
    match first, second:
        case Boolean(), Boolean():
            values = first.values & second.values
            return Boolean(values) if values else None
        case Number(), Number():
            return _numbers(first, second)
        case Text(), Text():
            return _texts(first, second)
        case Items(), Items():
            return _items(first, second)
        case Fields(), Fields():
            return _fields(first, second)
    return None


def joined(shapes: Iterable[Shape]) -> list[Shape]:
    """With one shape for all strings that are only named."""
    found: list[Shape] = []
    named: set[str] = set()
    for shape in shapes:
        if isinstance(shape, Text) and shape.among is not None and not shape.terms:
            named |= shape.among
        else:
            found.append(shape)
    return [*found, Text(among=frozenset(named))] if named else found


def _numbers(a: Number, b: Number) -> Number | None:
    least, above = max(((n.least, n.above) for n in (a, b) if n.least is not None), default=(None, False))
    mosts = ((n.most, not n.below) for n in (a, b) if n.most is not None)
    most, reached = min(mosts, default=(None, True))
    if a.whole is not None and b.whole is not None and a.whole != b.whole:
        return None
    whole = b.whole if a.whole is None else a.whole
    step = _common(a.step, b.step)
    return tidy(Number(least, most, above, not reached, whole, step))


def _common(a: Fraction | None, b: Fraction | None) -> Fraction | None:
    if a is None or b is None:
        return a or b
    unit = lcm(a.denominator, b.denominator)
    return Fraction(lcm(int(a * unit), int(b * unit)), unit)


def tidy(number: Number) -> Number | None:
    """With bounds that can be reached, if there is one step or another; None if there is nothing in it."""
    step = _common(number.step, Fraction(1)) if number.whole else number.step
    least, most = number.least, number.most
    if step is not None:
        if number.whole is False and step.denominator == 1:
            return None
        if least is not None:
            times = ceil(least / step)
            least = step * (times + (number.above and least == step * times))
        if most is not None:
            times = floor(most / step)
            most = step * (times - (number.below and most == step * times))
        number = replace(number, least=least, most=most, above=False, below=False, step=None if step == 1 else step)
    if least is not None and most is not None:
        if least > most or (least == most and (number.above or number.below)):
            return None
        if least == most and number.whole is False and least.denominator == 1:
            return None
    return number


def _texts(a: Text, b: Text) -> Text | None:
    least = max(a.least, b.least)
    most = _smaller(a.most, b.most)
    without = a.without | b.without
    terms = a.terms | b.terms
    among = a.among if b.among is None else b.among if a.among is None else a.among & b.among
    if among is not None:
        among = frozenset(t for t in among - without if least <= len(t) and (most is None or len(t) <= most))
        least, most, without = 0, None, frozenset()
    hopeless = among is not None and not among
    if hopeless or (most is not None and least > most) or any((not sign, term) in terms for sign, term in terms):
        return None
    return Text(least, most, among, without, terms)


def _items(a: Items, b: Items) -> Items | None:
    length = max(len(a.prefix), len(b.prefix))
    padded = ((*each.prefix, *(each.rest,) * (length - len(each.prefix))) for each in (a, b))
    prefix = tuple(both(*pair) for pair in zip(*padded, strict=True))
    counts: dict[tuple[Condition, int], Count] = {}
    for count in (*a.counts, *b.counts):
        known = counts.get((count.condition, count.start), count)
        most = _smaller(known.most, count.most)
        counts[count.condition, count.start] = replace(count, least=max(known.least, count.least), most=most)
    if any(count.most is not None and count.least > count.most for count in counts.values()):
        return None
    least, most = max(a.least, b.least), _smaller(a.most, b.most)
    made = Items(prefix, both(a.rest, b.rest), least, most, tuple(counts.values()), a.unique or b.unique)
    return _shortened(made)


def _shortened(items: Items) -> Items | None:
    """With `most` where items cannot be."""
    most = items.most
    for position, condition in enumerate((*items.prefix, items.rest)):
        if condition == NEVER:
            most = _smaller(most, position)
            break
    if most is not None:
        items = replace(items, prefix=items.prefix[:most], most=most)
        if items.least > most:
            return None
    return items


def _fields(a: Fields, b: Fields) -> Fields | None:
    named = {field.name: field for field in a.named}
    for field in b.named:
        known = named.get(field.name, field)
        required = known.required or field.required
        named[field.name] = Field(field.name, both(known.condition, field.condition), required)
    if any(field.required and field.condition == NEVER for field in named.values()):
        return None
    rules: dict[tuple[Text, ...], Rule] = {}
    for rule in (*a.rules, *b.rules):
        known_rule = rules.get(rule.names, rule)
        rules[rule.names] = Rule(rule.names, both(known_rule.condition, rule.condition))
    some = tuple(dict.fromkeys((*a.some, *b.some)))
    least, most = max(a.least, b.least), _smaller(a.most, b.most)
    num_required = sum(field.required for field in named.values())
    if most is not None and max(least, num_required) > most:
        return None
    return Fields(tuple(named.values()), tuple(rules.values()), some, least, most)


def _smaller(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)
