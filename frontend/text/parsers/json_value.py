"""Where a JSON value ends in a text that comes in pieces, and where it stops being JSON. Strict, and of any depth."""

import re

_SPACE = re.compile(r"[ \t\r\n]*")
_STRING = re.compile(r'[^"\\\x00-\x1f]*')
_WORD = re.compile(r"[-+.0-9A-Za-z]*")
_SCALAR = re.compile(r"true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_HEX = frozenset("0123456789abcdefABCDEF")

VALUE, KEY, END, COLON, COMMA = "v", "k", "e", ":", ","


class JsonValue:
    """Follows one value. A number or word that the text ends with is not done: more may belong to it."""

    def __init__(self) -> None:
        self.done = False
        self.broken = False
        self._open: list[str] = []
        self._allowed = VALUE
        self._is_key = False
        self._num_hex = 0
        self._word: list[str] = []
        self._mode = self._between

    def read(self, text: str, at: int) -> int:
        """Goes on at text[at]; returns where the value is done or broken, or the end of the text."""
        while at < len(text) and not (self.done or self.broken):
            at = self._mode(text, at)
        return at

    def _between(self, text: str, at: int) -> int:
        """Outside of strings, numbers and words."""
        at = _end(_SPACE, text, at)
        if at == len(text):
            return at
        char, allowed = text[at], self._allowed
        if char == '"' and (KEY in allowed or VALUE in allowed):
            self._is_key, self._mode = KEY in allowed, self._string
        elif char in "{[" and VALUE in allowed:
            self._open.append(char)
            self._allowed = KEY + END if char == "{" else VALUE + END
        elif char in "}]" and END in allowed and self._open[-1] == ("{" if char == "}" else "["):
            self._open.pop()
            self._end_value()
        elif char == ":" and COLON in allowed:
            self._allowed = VALUE
        elif char == "," and COMMA in allowed:
            self._allowed = KEY if self._open[-1] == "{" else VALUE
        elif VALUE in allowed and _end(_WORD, text, at) > at:
            self._word, self._mode = [], self._in_word
            return at
        else:
            self.broken = True
            return at
        return at + 1

    def _string(self, text: str, at: int) -> int:
        at = _end(_STRING, text, at)
        if at == len(text):
            return at
        match text[at]:
            case '"' if self._is_key:
                self._allowed, self._mode = COLON, self._between
            case '"':
                self._end_value()
            case "\\":
                self._mode = self._escape
            case _:
                self.broken = True
                return at
        return at + 1

    def _escape(self, text: str, at: int) -> int:
        if text[at] == "u":
            self._num_hex, self._mode = 4, self._hex
        elif text[at] in '"\\/bfnrt':
            self._mode = self._string
        else:
            self.broken = True
            return at
        return at + 1

    def _hex(self, text: str, at: int) -> int:
        if text[at] not in _HEX:
            self.broken = True
            return at
        self._num_hex -= 1
        if not self._num_hex:
            self._mode = self._string
        return at + 1

    def _in_word(self, text: str, at: int) -> int:
        """Numbers, true, false and null: known when they are over."""
        end = _end(_WORD, text, at)
        self._word.append(text[at:end])
        if end < len(text):
            if _SCALAR.fullmatch("".join(self._word)):
                self._end_value()
            else:
                self.broken = True
        return end

    def _end_value(self) -> None:
        self._mode = self._between
        self._allowed = COMMA + END
        self.done = not self._open


def is_json(text: str) -> bool:
    """Whether `text` is one JSON value and nothing else."""
    value = JsonValue()
    end = value.read(text + " ", 0)
    return value.done and not text[end:].strip(" \t\r\n")


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return at if match is None else match.end()
