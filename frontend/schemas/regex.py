"""Patterns of JSON schemas, as ECMA 262 writes them, for the JSON text of strings: in quotes and with escapes.

A pattern becomes an expression of Lark's terminals, so that it can be negated and met with others. Each string has
exactly one text: what must be escaped is, in the shortest way, and nothing else. Does not know schemas.
"""

import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from engine.errors import InvalidRequest
from frontend.schemas.patterns import Anchor, Chars, Group, Look, Part, Ranges, Repeat, complement, is_bound, parse

_LOOK = "a pattern has a look-around that is not at its beginning"
MAX_BRANCHES = 256
"""Of one pattern, where anchors or looks stand within alternatives."""
_SHORT = {"\b": "b", "\t": "t", "\n": "n", "\f": "f", "\r": "r", '"': '"', "\\": "\\"}
_ESCAPED = frozenset([*range(0x20), 0x22, 0x5C, 0x7F])
"""Characters that JSON texts hold as escapes only; 0x7F because a grammar's library wants it so."""


def _escape_of(code: int) -> str:
    short = _SHORT.get(chr(code))
    return f"\\{short}" if short else f"\\u{code:04x}"


def json_text(text: str) -> str:
    """The one text of a string."""
    return '"' + "".join(_escape_of(ord(c)) if ord(c) in _ESCAPED else c for c in text) + '"'


def _literal(text: str) -> str:
    """`text` in a regular expression that stands between slashes."""
    return "".join(c if c.isalnum() and c.isascii() else f"\\x{{{ord(c):x}}}" for c in text)


CHAR = rf"(?:[^\x22\x5c\x00-\x1f\x7f]|{'|'.join(_literal(_escape_of(code)) for code in sorted(_ESCAPED))})"
"""Any character in a string's text."""


def _quoted(part: Part) -> str:
    match part:
        case Chars():
            return _chars(part)
        case Group(branches):
            return f"(?:{'|'.join(map(_sequence, branches))})"
        case Repeat(repeated, least, most):
            return f"{_quoted(repeated)}{{{least},{'' if most is None else most}}}"
        case Anchor():
            raise InvalidRequest("a pattern has ^ or $ where something must stand before or after it")
        case Look():
            raise InvalidRequest(_LOOK)


def _chars(chars: Chars) -> str:
    options = [_literal(_escape_of(code)) for code in sorted(_ESCAPED) if _has(chars, code)]
    if plain := _plain(chars):
        options.insert(0, plain)
    return f"(?:{'|'.join(options)})" if options else r"[^\x00-\x{10ffff}]"


def _has(chars: Chars, code: int) -> bool:
    within = any(first <= code <= last for first, last in chars.ranges)
    category = unicodedata.category(chr(code))
    within = within or any(category.startswith(name) != negated for name, negated in chars.categories)
    return within != chars.negated


def _plain(chars: Chars) -> str:
    """What of them a text has as they are."""
    if chars.categories:
        categories = "".join(f"\\{'P' if negated else 'p'}{{{name}}}" for name, negated in chars.categories)
        return rf"[[{'^' if chars.negated else ''}{categories}{_class(chars.ranges)}]&&[^\x22\x5c\x00-\x1f\x7f]]"
    ranges = complement(chars.ranges) if chars.negated else chars.ranges
    ranges = complement((*complement(ranges), *((code, code) for code in _ESCAPED)))
    return f"[{_class(ranges)}]" if ranges else ""


def _sequence(parts: tuple[Part, ...]) -> str:
    return "".join(map(_quoted, parts))


@lru_cache(256)
def terminal(pattern: str) -> str:
    """The strings in which `pattern` is found, as an expression of terminals. Raises InvalidRequest."""
    return _found(parse(pattern), anchored=False)


def whole(pattern: str) -> str:
    """As `terminal`, of strings that match as a whole."""
    return terminal(f"^(?:{pattern})$")


def lengths(least: int, most: int | None) -> str:
    """Strings of so many characters."""
    return f"/\\x22{CHAR}{{{least},{'' if most is None else most}}}\\x22/"


def _found(group: Group, *, anchored: bool) -> str:
    options = [_branch(branch, anchored=anchored) for branch in _spread(group)]
    return options[0] if len(options) == 1 else f"({' | '.join(options)})"


def _branch(branch: tuple[Part, ...], *, anchored: bool) -> str:
    parts = list(branch)
    looks: list[str] = []
    while parts and (isinstance(parts[0], Look) or parts[0] == Anchor(end=False)):
        match parts.pop(0):
            case Look(group, negated) if anchored:
                looks.append(f"{'~' if negated else ''}{_found(group, anchored=True)}")
            case Anchor():
                anchored = True
            case _:
                raise InvalidRequest(_LOOK)
    ended = False
    while parts and parts[-1] == Anchor(end=True):
        parts.pop()
        ended = True
    before, after = "" if anchored else f"{CHAR}*", "" if ended else f"{CHAR}*"
    found = f"/\\x22{before}{_sequence(tuple(parts))}{after}\\x22/"
    return f"({' & '.join((found, *looks))})" if looks else found


def _spread(group: Group) -> list[tuple[Part, ...]]:
    """The branches, with groups that begin or end with what is no character taken apart."""
    found: list[tuple[Part, ...]] = []
    waiting = list(reversed(group.branches))
    while waiting:
        branch = waiting.pop()
        for place in (0, len(branch) - 1):
            part = branch[place] if branch else None
            if isinstance(part, Group) and is_bound(part):
                waiting += [(*branch[:place], *each, *branch[place + 1 :]) for each in reversed(part.branches)]
                break
        else:
            found.append(branch)
        if len(found) + len(waiting) > MAX_BRANCHES:
            raise InvalidRequest("a pattern has too many alternatives with ^ or $ in them")
    return found


def _class(ranges: Ranges) -> str:
    return "".join(f"\\x{{{first:x}}}-\\x{{{last:x}}}" for first, last in _outside_surrogates(ranges))


def _outside_surrogates(ranges: Ranges) -> Iterator[tuple[int, int]]:
    for first, last in ranges:
        if first < 0xD800:
            yield first, min(last, 0xD7FF)
        if last > 0xDFFF:
            yield max(first, 0xE000), last
