"""Rules that write JSON lists: what is asked of the items by their place, how many hold what, and that all differ.

Does not know how items are written, but by the names of their rules.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

from engine.errors import InvalidRequest
from frontend.schemas.keywords import opposite
from frontend.schemas.shapes import NEVER, Condition, Count, Items, both

MAX_STATES = 600
"""Of what counts items."""
MAX_COUNTS = 5
"""Conditions of which items are counted, in one list."""
MAX_DISTINCT = 60
"""Values that items which all differ may have."""
_MAX_LISTED = 512

_FEW = "is supported of items that have few values only, such as those of an enum"

IsAlive = Callable[[Condition], bool]
"""Whether a value can hold a condition."""
Values = Callable[[Condition], list[str] | None]
"""The texts of all values that hold it, if they are few."""


def conditions_of(items: Items) -> Iterator[Condition]:
    """What items are asked, of which rules are needed."""
    if not items.counts:
        yield from (*items.prefix, items.rest)
        return
    if len(items.counts) > MAX_COUNTS:
        raise InvalidRequest(f"contains: more than {MAX_COUNTS} of them are about one list")
    for position in range(_num_places(items) + 1):
        yield from (condition for _, condition in _kinds(items, position))


def _num_places(items: Items) -> int:
    """From there on, places do not matter to what is asked of an item."""
    return max(len(items.prefix), *(count.start for count in items.counts), 0)


def _kinds(items: Items, position: int) -> Iterator[tuple[tuple[bool, ...], Condition]]:
    """The kinds of items at a place: which counts they add to, and what they hold."""
    base = items.prefix[position] if position < len(items.prefix) else items.rest
    for sides in product(*((True, False) if position >= count.start else (False,) for count in items.counts)):
        condition = base
        for adds, count in zip(sides, items.counts, strict=True):
            if adds:
                condition = both(condition, count.condition)
            elif position >= count.start and count.most is not None:  # if not, one that holds it may go uncounted
                condition = both(condition, opposite(count.condition))
        if condition != NEVER:
            yield sides, condition


def shortened(items: Items, is_alive: IsAlive) -> tuple[int, int | None] | None:
    """How many items there may be, None if there can be no such list. Not for those that are counted."""
    most = items.most
    for position, condition in enumerate((*items.prefix, items.rest)):
        if not is_alive(condition):
            most = position if most is None else min(most, position)
            break
    return None if most is not None and items.least > most else (items.least, most)


def plain(items: Items, least: int, most: int | None, rule_of: Callable[[Condition], str]) -> str:
    """Items in their places, in brackets."""
    text = ""
    length = len(items.prefix) if most is None else min(len(items.prefix), most)
    if most is None or most > length:
        rest = rule_of(items.rest)
        low, high = max(least - length, 0), None if most is None else most - length
        if length:
            text = times(f'("," {rest})', low, high)
        else:
            more = times(f'("," {rest})', max(low - 1, 0), None if high is None else high - 1)
            text = f"{rest} {more}"
            text = text if low else f"({text})?"
    for position in range(length - 1, -1, -1):
        comma = '"," ' if position else ""
        text = f"{comma}{rule_of(items.prefix[position])} {text}"
        text = text if position < least else f"({text})?"
    return f'"[" {text} "]"'


def times(text: str, least: int, most: int | None) -> str:
    """So many of them, one after the other."""
    if most == 0:
        return ""
    return f"{text}*" if (least, most) == (0, None) else f"{text}{{{least},{'' if most is None else most}}}"


@dataclass(frozen=True, slots=True)
class _State:
    """So many items were written, of which so many hold what is counted; as far as that matters."""

    position: int
    counted: tuple[int, ...]


def counted(items: Items, is_alive: IsAlive, name: str, rule_of: Callable[[Condition], str]) -> list[str] | None:
    """The rules of a list in which items are counted; the first one is called `name`. None if there is no such list."""
    start = _State(0, (0,) * len(items.counts))
    last = max(_num_places(items), items.least, items.most or 0)
    arrivals: dict[_State, list[tuple[_State | None, Condition]]] = {}
    waiting: list[_State | None] = [None]
    while waiting:
        state = waiting.pop()
        at = state or start
        if items.most is not None and at.position >= items.most:
            continue
        for sides, condition in _kinds(items, min(at.position, _num_places(items))):
            if not is_alive(condition):
                continue
            counts = tuple(_added(*each) for each in zip(at.counted, sides, items.counts, strict=True))
            if any(n is None for n in counts):
                continue
            after = _State(min(at.position + 1, last), tuple(n or 0 for n in counts))
            if after not in arrivals:
                waiting.append(after)
            arrivals.setdefault(after, []).append((state, condition))
            if len(arrivals) > MAX_STATES:
                raise InvalidRequest("contains, or what else counts items, has too large bounds")
    ends = [state for state in arrivals if _is_end(items, state)]
    if not ends and not _is_end(items, start):
        return None
    names = {state: f"{name}_{number}" for number, state in enumerate(arrivals)}
    options = [*(['"[" "]"'] if _is_end(items, start) else []), *(f'"[" {names[state]} "]"' for state in ends)]
    rules = [f"{name}: {' | '.join(options)}"]
    for state, ways in arrivals.items():
        texts = (rule_of(c) if before is None else f'{names[before]} "," {rule_of(c)}' for before, c in ways)
        rules.append(f"{names[state]}: {' | '.join(dict.fromkeys(texts))}")
    return rules


def _added(number: int, adds: bool, count: Count) -> int | None:
    """One more, as far as that matters; None if that is too many."""
    if not adds:
        return number
    if count.most is not None:
        return number + 1 if number < count.most else None
    return min(number + 1, count.least)


def _is_end(items: Items, state: _State) -> bool:
    enough = all(n >= count.least for n, count in zip(state.counted, items.counts, strict=True))
    return enough and state.position >= items.least


def distinct(items: Items, values: Values, name: str) -> list[str] | None:
    """The rules of a list whose items all differ. Raises InvalidRequest where they may have too many values."""
    if items.counts:
        raise InvalidRequest(f"{items.unique} beside contains is not supported")
    if items.prefix:
        return _listed(items, values, name)
    texts = values(items.rest)
    if texts is None:
        raise InvalidRequest(f"{items.unique} {_FEW}")
    most = len(texts) if items.most is None else min(items.most, len(texts))
    if items.least > most:
        return None
    more = [f'"" %if bit_count_ge(_, {items.least})']
    for bit, text in enumerate(texts):
        more.append(f'"," {text} {name}_m::set_bit({bit}) %if and(bit_clear({bit}), bit_count_lt(_, {most}))')
    options = ['"[" "]"'] if items.least == 0 else []
    if most:
        options += (f'"[" {text} {name}_m::{1 << bit:#x} "]"' for bit, text in enumerate(texts))
    return [f"{name}: {' | '.join(options)}", f"{name}_m::_ : {' | '.join(more)}"]


def _listed(items: Items, values: Values, name: str) -> list[str] | None:
    """One after the other."""
    found: list[tuple[str, ...]] = [()]
    options: list[str] = []
    position = 0
    while found and (items.most is None or position <= items.most):
        if position >= items.least:
            options += ('"[" ' + ' "," '.join(each) + ' "]"' for each in found)
        if position == items.most:
            break
        texts = values(items.prefix[position] if position < len(items.prefix) else items.rest)
        if texts is None or len(options) + len(found) * len(texts) > _MAX_LISTED:
            raise InvalidRequest(f"{items.unique} {_FEW}")
        found = [(*each, text) for each in found for text in texts if text not in each]
        position += 1
    return [f"{name}: {' | '.join(options)}"] if options else None
