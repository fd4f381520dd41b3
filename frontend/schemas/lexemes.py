"""The terminals and numbers of a grammar that writes JSON, and whether a terminal has any text at all.

Does not know values that hold others.
"""

import json
import re
from collections.abc import Iterable
from fractions import Fraction
from functools import cache

from llguidance import LLMatcher, LLTokenizer

from engine.errors import InvalidRequest
from engine.grammar import LIMITS
from frontend.schemas.parts import parts_of
from frontend.schemas.regex import CHAR, json_text, lengths
from frontend.schemas.shapes import Number, Text

MAX_TERMINALS = 4_000
MAX_LOOKS = 4_000
"""At whether there is a text in one thing and another."""
MAX_STEP = 10_000
"""Of numbers that are multiples: the automaton that finds them has a state for each remainder."""
_EXACT = 2**53
_NAME = re.compile(r"\bT\d+\b")


class Lexemes:
    """Made as they are asked for; the same ones once."""

    def __init__(self, white_space: str) -> None:
        """`white_space` may stand between any two of them: a regular expression."""
        self._white_space = white_space
        self._names: dict[str, str] = {}
        self._expressions: dict[str, str] = {}
        self._numbers: dict[str, str] = {}
        self._has_text: dict[str, bool] = {}
        self.string = self.terminal(f"/\\x22{CHAR}*\\x22/")

    def definitions(self) -> list[str]:
        numbers = (f"{name}: {said}" for said, name in self._numbers.items())
        return [*numbers, *(f"{name}: {expression}" for name, expression in self._expressions.items())]

    def terminal(self, expression: str) -> str:
        """The name of what an expression stands for."""
        name = self._names.get(expression)
        if name is None:
            if len(self._names) >= MAX_TERMINALS:
                raise InvalidRequest("enum, pattern, propertyNames: it has too many texts")
            name = self._names[expression] = f"T{len(self._names)}"
            self._expressions[name] = expression
        return name

    def text(self, text: Text) -> str | None:
        """The terminal of a set of strings, None if there are none in it."""
        if text == Text():
            return self.string
        terms = [f"{'' if positive else '~'}{self.terminal(term)}" for positive, term in sorted(text.terms)]
        if text.among is not None:
            kept = [
                each for each in sorted(text.among) if not terms or self.has_text([quoted(json_text(each)), *terms])
            ]
            return self.terminal(" | ".join(quoted(json_text(each)) for each in kept)) if kept else None
        parts = [each for each in terms if not each.startswith("~")]
        if text.least or text.most is not None:
            parts.append(self.terminal(lengths(text.least, text.most)))
        parts = [*(parts or [self.string]), *(each for each in terms if each.startswith("~"))]
        if text.without:
            parts.append(f"~{self.terminal(' | '.join(quoted(json_text(each)) for each in sorted(text.without)))}")
        is_filled = not text.terms and (text.most is None or not text.without)
        return self.meet(parts) if is_filled or self.has_text(parts) else None

    def meet(self, parts: list[str]) -> str:
        """The terminal of what is in all of these."""
        return parts[0] if len(parts) == 1 and not parts[0].startswith("~") else self.terminal(" & ".join(parts))

    def join(self, parts: Iterable[str]) -> str | None:
        """The terminal of what is in any of these."""
        names = list(dict.fromkeys(parts))
        return None if not names else names[0] if len(names) == 1 else self.terminal(" | ".join(names))

    def has_text(self, parts: list[str]) -> bool:
        """Whether there is anything in all of these."""
        expression = " & ".join(parts)
        if expression not in self._has_text:
            if len(self._has_text) >= MAX_LOOKS:
                raise InvalidRequest(
                    "pattern, patternProperties, propertyNames: there are too many in one another's way"
                )
            needed: dict[str, str] = {}
            waiting = [expression]
            while waiting:
                for name in _NAME.findall(waiting.pop()):
                    if name not in needed:
                        needed[name] = self._expressions[name]
                        waiting.append(needed[name])
            rules = [f"{name}: {each}" for name, each in needed.items()]
            self._has_text[expression] = _begins("\n".join(["start: START", f"START: {expression}", *rules]))
        return self._has_text[expression]

    def number(self, number: Number) -> str:
        """What writes one of these numbers. Raises InvalidRequest where no regular expression does."""
        if number.least is not None and number.least == number.most:
            return quoted(decimal(number.least))
        if number.whole is False:
            return self.terminal(parts_of(number))
        is_whole = number.whole or (number.step is not None and number.step.denominator == 1)
        schema: dict[str, object] = {"type": "integer" if is_whole else "number"}
        if number.least is not None:
            schema["exclusiveMinimum" if number.above else "minimum"] = _bound(number.least)
        if number.most is not None:
            schema["exclusiveMaximum" if number.below else "maximum"] = _bound(number.most)
        if number.step is not None:
            if int(decimal(number.step).replace(".", "")) > MAX_STEP:
                raise InvalidRequest(f"multipleOf is supported up to {MAX_STEP} of its last decimal place")
            schema["multipleOf"] = _bound(number.step)
        return self._number(schema)

    def _number(self, schema: dict[str, object]) -> str:
        said = f"%json {json.dumps({**schema, 'x-guidance': {'whitespace_pattern': self._white_space}})}"
        return self._numbers.setdefault(said, f"num{len(self._numbers)}")


def decimal(number: Fraction) -> str:
    """In full: a number that was read from JSON has an end."""
    if number.denominator == 1:
        return str(number.numerator)
    digits = 0
    while (number * 10**digits).denominator != 1:
        digits += 1
    whole = str(abs(number * 10**digits).numerator).rjust(digits + 1, "0")
    return f"{'-' if number < 0 else ''}{whole[:-digits]}.{whole[-digits:]}"


def _bound(number: Fraction) -> int | float:
    if number.denominator == 1 and (abs(number) <= _EXACT or number in (2**63 - 1, -(2**63))):
        return number.numerator
    if abs(number) > _EXACT:
        raise InvalidRequest("minimum, maximum or multipleOf is too large: more than 2 to the power of 53")
    return float(number)


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


@cache
def _bytes() -> LLTokenizer:
    return LLTokenizer("byte")


def _begins(grammar: str) -> bool:
    """Whether a grammar has an answer. Raises InvalidRequest for one that is none."""
    matcher = LLMatcher(_bytes(), grammar, log_level=0, limits=LIMITS)
    if matcher.is_error():
        raise InvalidRequest(" ".join(matcher.get_error().split())[:300])
    matcher.compute_logit_bias()
    return not matcher.is_error()
