"""A call that is spelled as a JSON object, `{"name": …, "arguments": {…}}`, as most families do.

Fields come in any order, and `parameters` is the same as `arguments`. Arguments are handed on as they come once the
name is known; where they cease to be JSON the call ends, and what follows is text.
"""

import json
from collections.abc import Callable

from frontend.text.parsers.events import Calls, Event, is_name
from frontend.text.parsers.feed import SPACE, Feed, Steps
from frontend.text.parsers.json_value import JsonValue

ARGUMENTS = frozenset({"arguments", "parameters"})


def read_call(feed: Feed, calls: Calls, *, only_known: bool = False) -> Steps[bool]:
    """Reads one object. False: it is no call, or did not end as one; what was read in vain is held.

    With `only_known` it must have arguments and name a tool that was offered: there is nothing else to tell it from an
    answer in JSON.
    """
    reader = _Reader(feed, calls, only_known)
    is_call = yield from reader.read()
    if reader.begun:
        yield calls.end()
    if is_call:
        feed.drop()
    return is_call


def read_list(feed: Feed, calls: Calls, *, only_known: bool = False) -> Steps[bool]:
    """Reads `[{…}, {…}]`; False as in `read_call`, of whatever is no call any more."""
    if not (yield from feed.literal("[")):
        return False
    while True:
        yield from feed.run(SPACE)
        if not (yield from read_call(feed, calls, only_known=only_known)):
            return False
        yield from feed.run(SPACE)
        if not (yield from feed.literal(",")):
            break
    if (yield from feed.literal("]")):
        feed.drop()
        return True
    return False


def read_row(feed: Feed, calls: Calls, *, only_known: bool = False) -> Steps[bool]:
    """Reads `{…}; {…}` as far as it goes, semicolons or not; False: the last of them was no call."""
    while (yield from read_call(feed, calls, only_known=only_known)):
        yield from feed.margin()
        if (yield from feed.literal(";")):
            yield from feed.margin()
        if (yield from feed.peek()) != "{":
            return True
    return False


def read_arguments(feed: Feed, say: Callable[[str], Event]) -> Steps[bool]:
    """Reads a JSON value and says it as it comes; False: it is none, or has no end."""
    value = JsonValue()
    while not (value.done or value.broken) and (yield from feed.more()):
        part = feed.read(value.read(feed.text, feed.at))
        feed.drop()
        if part:
            yield say(part)
    return value.done


def read_string(feed: Feed) -> Steps[str | None]:
    """Reads a JSON string; None: it is none."""
    if (yield from feed.peek()) != '"':
        return None
    text = yield from _read_value(feed)
    return None if text is None else str(json.loads(text))


def _read_value(feed: Feed) -> Steps[str | None]:
    """Reads a JSON value, which stays held; None: it is none."""
    value = JsonValue()
    parts = []
    while not (value.done or value.broken) and (yield from feed.more()):
        parts.append(feed.read(value.read(feed.text, feed.at)))
    return "".join(parts) if value.done else None


class _Reader:
    """One object, field by field."""

    def __init__(self, feed: Feed, calls: Calls, only_known: bool) -> None:
        self._feed = feed
        self._calls = calls
        self._only_known = only_known
        self._name: str | None = None
        self._early: str | None = None
        """Arguments that came before the name."""
        self.begun = False

    def read(self) -> Steps[bool]:
        feed = self._feed
        if not (yield from feed.literal("{")):
            return False
        while True:
            yield from feed.run(SPACE)
            key = yield from read_string(feed)
            yield from feed.run(SPACE)
            if key is None or not (yield from feed.literal(":")):
                return False
            yield from feed.run(SPACE)
            if not (yield from self._field(key)):
                return False
            yield from feed.run(SPACE)
            if not (yield from feed.literal(",")):
                break
        if (yield from feed.peek()) != "}":
            return False
        if not self.begun and (self._only_known or not (yield from self._begin("{}"))):
            return False
        return (yield from feed.literal("}"))

    def _field(self, key: str) -> Steps[bool]:
        if key == "name":
            return (yield from self._read_name())
        if key in ARGUMENTS:
            return (yield from self._read_arguments())
        return (yield from _read_value(self._feed)) is not None

    def _read_name(self) -> Steps[bool]:
        name = yield from read_string(self._feed)
        if self._name is not None or name is None or not is_name(name):
            return False
        if self._only_known and name not in self._calls.names:
            return False
        self._name = name
        return self._early is None or (yield from self._begin(self._early))

    def _read_arguments(self) -> Steps[bool]:
        if self.begun or self._early is not None or (yield from self._feed.peek()) != "{":
            return False
        if self._name is None:
            self._early = yield from _read_value(self._feed)
            return self._early is not None
        yield from self._begin("")
        return (yield from read_arguments(self._feed, self._calls.arguments))

    def _begin(self, arguments: str) -> Steps[bool]:
        """With arguments that are known already."""
        if self._name is None:
            return False
        self.begun = True
        self._feed.drop()
        yield self._calls.begin(self._name)
        if arguments:
            yield self._calls.arguments(arguments)
        return True
