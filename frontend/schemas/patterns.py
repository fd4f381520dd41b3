"""Patterns of JSON schemas, as ECMA 262 writes them, taken apart. Does not know what becomes of them."""

import re
from dataclasses import dataclass

from engine.errors import InvalidRequest

Ranges = tuple[tuple[int, int], ...]
LAST = 0x10FFFF


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of a set: of these ranges and of Unicode's general categories, or of none of them."""

    ranges: Ranges = ()
    categories: tuple[tuple[str, bool], ...] = ()
    """And whether what is not of one is meant."""
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Any of some sequences."""

    branches: tuple[tuple["Part", ...], ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    part: Chars | Group
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Anchor:
    end: bool


@dataclass(frozen=True, slots=True)
class Look:
    """What must follow, or must not."""

    group: Group
    negated: bool


Part = Chars | Group | Repeat | Anchor | Look


def parse(pattern: str) -> Group:
    """Raises InvalidRequest for what is no pattern, or has what no automaton follows."""
    return _Parser(pattern).parse()


def is_bound(group: Group) -> bool:
    """Whether there is something in it that is no character."""
    return any(
        isinstance(part, Anchor | Look) or (isinstance(part, Group) and is_bound(part))
        for branch in group.branches
        for part in branch
    )


def merged(ranges: Ranges) -> Ranges:
    made: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if made and first <= made[-1][1] + 1:
            made[-1] = (made[-1][0], max(last, made[-1][1]))
        else:
            made.append((first, last))
    return tuple(made)


def complement(ranges: Ranges) -> Ranges:
    made, begin = [], 0
    for first, last in merged(ranges):
        if begin < first:
            made.append((begin, first - 1))
        begin = last + 1
    return tuple([*made, (begin, LAST)] if begin <= LAST else made)


_DIGITS: Ranges = ((0x30, 0x39),)
_WORDS: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACES: Ranges = (
    *((0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029)),
    *((0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
)
_LINE_ENDS: Ranges = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
_CLASSES = {"d": _DIGITS, "w": _WORDS, "s": _SPACES}
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}
_CATEGORIES = {
    **{"letter": "L", "lowercase_letter": "Ll", "uppercase_letter": "Lu", "titlecase_letter": "Lt"},
    **{"modifier_letter": "Lm", "other_letter": "Lo", "mark": "M", "nonspacing_mark": "Mn", "spacing_mark": "Mc"},
    **{"enclosing_mark": "Me", "number": "N", "decimal_number": "Nd", "letter_number": "Nl", "other_number": "No"},
    **{"punctuation": "P", "dash_punctuation": "Pd", "open_punctuation": "Ps", "close_punctuation": "Pe"},
    **{"initial_punctuation": "Pi", "final_punctuation": "Pf", "connector_punctuation": "Pc", "digit": "Nd"},
    **{"other_punctuation": "Po", "symbol": "S", "math_symbol": "Sm", "currency_symbol": "Sc", "punct": "P"},
    **{"modifier_symbol": "Sk", "other_symbol": "So", "separator": "Z", "space_separator": "Zs", "control": "Cc"},
    **{"line_separator": "Zl", "paragraph_separator": "Zp", "format": "Cf", "private_use": "Co", "cntrl": "Cc"},
}
_SHORT_CATEGORIES = frozenset(_CATEGORIES.values())
_QUANTIFIER = re.compile(r"\{(\d{1,9})(,(\d{0,9}))?\}")


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def parse(self) -> Group:
        group = self._group()
        if self._at < len(self._text):
            raise self._invalid("a bracket is closed that was not opened")
        return group

    def _group(self, depth: int = 0) -> Group:
        if depth > 100:
            raise self._invalid("it is nested too deeply")
        branches: list[tuple[Part, ...]] = []
        parts: list[Part] = []
        while self._at < len(self._text) and not self._sees(")"):
            if self._take("|"):
                branches.append(tuple(parts))
                parts = []
            else:
                parts.append(self._quantified(self._part(depth)))
        return Group((*branches, tuple(parts)))

    def _part(self, depth: int) -> Part:
        match char := self._next():
            case "^" | "$":
                return Anchor(end=char == "$")
            case ".":
                return Chars(_LINE_ENDS, negated=True)
            case "[":
                return self._class()
            case "(":
                return self._bracket(depth)
            case "\\":
                return self._escape()
            case "*" | "+" | "?":
                raise self._invalid("there is nothing to repeat")
            case _:
                return _one(ord(char))

    def _bracket(self, depth: int) -> Part:
        look: bool | None = None
        if self._take("?"):
            if self._take("="):
                look = False
            elif self._take("!"):
                look = True
            elif self._take("<"):
                if self._sees("=") or self._sees("!"):
                    raise self._invalid("it has a look-around that looks back")
                name, _, rest = self._text[self._at :].partition(">")
                self._at = len(self._text) - len(rest)
                if not name.isidentifier():
                    raise self._invalid("a group has no name")
            elif not self._take(":"):
                raise self._invalid("a group is of an unknown kind")
        group = self._group(depth + 1)
        if not self._take(")"):
            raise self._invalid("a bracket is not closed")
        return group if look is None else Look(group, look)

    def _quantified(self, part: Part) -> Part:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                least, most = bounds
                break
        else:
            counted = _QUANTIFIER.match(self._text, self._at)
            if counted is None:
                return part
            self._at = counted.end()
            least = int(counted[1])
            most = least if counted[2] is None else int(counted[3]) if counted[3] else None
        self._take("?")  # lazy or not, it is the same language
        if isinstance(part, Repeat | Anchor | Look) or (most is not None and least > most):
            raise self._invalid("something cannot be repeated so")
        if isinstance(part, Group) and is_bound(part):
            raise self._invalid("it repeats ^, $ or a look-around")
        return Repeat(part, least, most)

    def _escape(self) -> Part:
        if self._sees("b") or self._sees("B"):
            raise self._invalid("it has a boundary of words (\\b)")
        if self._at < len(self._text) and self._text[self._at] in "123456789k":
            raise self._invalid("it refers back to a group")
        return self._escaped()

    def _escaped(self) -> Chars:
        char = self._next()
        if (ranges := _CLASSES.get(char.lower())) is not None and char.isascii():
            return Chars(ranges, negated=char.isupper())
        if char in "pP":
            return self._property(negated=char == "P")
        if char in _CONTROLS:
            return _one(_CONTROLS[char])
        if char == "c":
            return _one(ord(self._next()) % 32)
        if char == "x":
            return _one(self._hex(2))
        if char == "u":
            return _one(self._unicode())
        if char.isalnum():
            raise self._invalid(f"\\{char} means nothing")
        return _one(ord(char))

    def _unicode(self) -> int:
        if self._take("{"):
            digits, _, _ = self._text[self._at :].partition("}")
            code = self._hex(len(digits))
            if not self._take("}") or code > LAST:
                raise self._invalid("\\u{ is not closed")
            return code
        code = self._hex(4)
        if 0xD800 <= code < 0xDC00 and self._text.startswith("\\u", self._at):
            self._at += 2
            return 0x10000 + ((code - 0xD800) << 10) + (self._hex(4) - 0xDC00)
        return code

    def _hex(self, count: int) -> int:
        digits = self._text[self._at : self._at + count]
        self._at += count
        if not digits or len(digits) < count or not re.fullmatch("[0-9a-fA-F]{1,6}", digits):
            raise self._invalid("an escape has no hexadecimal digits")
        return int(digits, 16)

    def _property(self, *, negated: bool) -> Chars:
        if not self._take("{"):
            raise self._invalid("\\p has no property")
        name, _, rest = self._text[self._at :].partition("}")
        self._at = len(self._text) - len(rest)
        value = name.removeprefix("General_Category=").removeprefix("gc=")
        category = value if value in _SHORT_CATEGORIES else _CATEGORIES.get(value.lower())
        if category is None:
            raise self._invalid(f"\\p{{{name}}} is not supported; general categories are")
        return Chars(categories=((category, negated),))

    def _class(self) -> Chars:
        negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        categories: list[tuple[str, bool]] = []
        while not self._take("]"):
            first = self._member()
            if first.categories:
                categories += first.categories
                continue
            if first.negated or len(first.ranges) > 1 or not self._sees("-") or self._text[self._at + 1 :][:1] == "]":
                ranges += complement(first.ranges) if first.negated else first.ranges
                continue
            self._at += 1
            last = self._member()
            (begin, until), (end, beyond) = first.ranges[0], (last.ranges or ((0, -1),))[0]
            if begin != until or end != beyond or end < begin or last.negated:
                raise self._invalid("a range of characters has no end")
            ranges.append((begin, end))
        return Chars(tuple(ranges), tuple(categories), negated)

    def _member(self) -> Chars:
        if self._at >= len(self._text):
            raise self._invalid("a set of characters is not closed")
        if not self._take("\\"):
            return _one(ord(self._next()))
        return _one(8) if self._take("b") else _one(ord("-")) if self._take("-") else self._escaped()

    def _sees(self, char: str) -> bool:
        return self._text.startswith(char, self._at)

    def _take(self, char: str) -> bool:
        if not self._sees(char):
            return False
        self._at += 1
        return True

    def _next(self) -> str:
        if self._at >= len(self._text):
            raise self._invalid("it ends too early")
        self._at += 1
        return self._text[self._at - 1]

    def _invalid(self, why: str) -> InvalidRequest:
        return InvalidRequest(f"{self._text[:200]!r} cannot be followed: {why}")


def _one(code: int) -> Chars:
    return Chars(((code, code),))
