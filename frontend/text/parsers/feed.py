"""Reading a text that is still being written.

A parser is a generator that tells the story of an answer from its first character to its last. It reads from a `Feed`,
yields events, and yields None where it needs more text. What it reads is held until it knows what it means: `drop` says
that it was markup, `told` gives it back as the text that it is. At most `MOST_SPACE` characters of white space beside a
marker belong to it: models put line breaks there that nobody means.
"""

import re
from collections.abc import Callable, Generator
from typing import TypeAlias, TypeVar

from frontend.text.parsers.events import Content, Event

T = TypeVar("T")
Steps: TypeAlias = Generator[Event | None, None, T]

MOST_SPACE = 16
SPACE = re.compile(r"[ \t\r\n]*")


class Markers:
    """Words to find in a text, with the white space before them; of one at its end the beginning is found, too."""

    def __init__(self, *words: str, space: str = rf"[ \t\r\n]{{0,{MOST_SPACE}}}") -> None:
        self.whole = re.compile(f"{space}({'|'.join(map(re.escape, words))})")
        self.begun = re.compile(rf"{space}(?:{'|'.join(map(_beginning, words))})\Z")


def _beginning(word: str) -> str:
    """Matches nothing, the first character, the first two, ... and all but the last."""
    pattern = ""
    for char in reversed(word[:-1]):
        pattern = f"(?:{re.escape(char)}{pattern})?"
    return pattern


class Feed:
    """The text that has come and was not read, and what was read and is held."""

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.ended = False
        self._held: list[str] = []

    def add(self, text: str) -> None:
        self.text = self.text[self.at :] + text
        self.at = 0

    def read(self, end: int) -> str:
        """Holds the text up to position `end`, and returns it."""
        part = self.text[self.at : end]
        self.at = end
        if part:
            self._held.append(part)
        return part

    def drop(self) -> None:
        """What is held was markup."""
        self._held.clear()

    def told(self) -> Steps[None]:
        """What is held was text."""
        held = "".join(self._held)
        self._held.clear()
        if held:
            yield Content(held)

    def more(self) -> Steps[bool]:
        """Waits for unread text; False: there is no more."""
        while self.at == len(self.text):
            if self.ended:
                return False
            yield None
        return True

    def peek(self) -> Steps[str]:
        """The next character, unread; empty: there is none."""
        return self.text[self.at] if (yield from self.more()) else ""

    def literal(self, word: str) -> Steps[bool]:
        """Reads `word`, or nothing where something else comes."""
        while not self.text.startswith(word, self.at):
            if self.ended or not word.startswith(self.text[self.at : self.at + len(word)]):
                return False
            yield None
        self.read(self.at + len(word))
        return True

    def run(self, chars: re.Pattern[str], most: int | None = None) -> Steps[str]:
        """Reads as far as `chars` matches, a class of characters any number of times, and `most` of them at most."""
        parts: list[str] = []
        room = most
        while room != 0 and (yield from self.more()):
            end = len(self.text) if room is None else min(len(self.text), self.at + room)
            match = chars.match(self.text, self.at, end)
            if match is None or match.end() == self.at:
                break
            parts.append(self.read(match.end()))
            room = None if room is None else room - len(parts[-1])
        return "".join(parts)

    def margin(self) -> Steps[None]:
        """Forgets what is held, and the white space after it that belongs to it."""
        yield from self.run(SPACE, MOST_SPACE)
        self.drop()

    def scan(self, markers: Markers, say: Callable[[str], Event | None] = Content) -> Steps[str]:
        """Says the text before the next marker, which is then held, and returns it; empty: there was none."""
        while (found := markers.whole.search(self.text, self.at)) is None:
            sure = len(self.text) if self.ended else _start(markers.begun, self.text, self.at)
            yield from self._say(sure, say)
            if self.ended:
                return ""
            yield None
        yield from self._say(found.start(), say)
        self.read(found.end())
        return found[1]

    def rest(self) -> Steps[None]:
        """All that is still to come is text."""
        while (yield from self.more()):
            yield from self._say(len(self.text), Content)

    def _say(self, end: int, say: Callable[[str], Event | None]) -> Steps[None]:
        text = self.text[self.at : end]
        self.at = end
        if text and (event := say(text)) is not None:
            yield event


def _start(begun: re.Pattern[str], text: str, at: int) -> int:
    match = begun.search(text, at)
    return len(text) if match is None else match.start()


class StreamParser:
    """Feeds a story with text and hands on what it tells."""

    def __init__(self, story: Callable[[Feed], Steps[None]]) -> None:
        self._feed = Feed()
        self._steps = story(self._feed)

    def push(self, text: str) -> list[Event]:
        """What is certain now and was not before."""
        self._feed.add(text)
        return self._told()

    def finish(self) -> list[Event]:
        """What was held back, once no more text comes."""
        self._feed.ended = True
        return self._told()

    def _told(self) -> list[Event]:
        events = []
        for event in self._steps:
            if event is None:
                break
            events.append(event)
        return events
