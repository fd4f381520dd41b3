"""Finds stop strings in text that arrives in pieces, and never lets out a part of one. Knows no tokens.

The text walks through a trie of the stop strings (Aho and Corasick): its node is the longest end of the text that
begins a stop string, so the node's depth is how much must be held back. Each character costs the same, however long and
alike the stop strings are.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from engine.errors import InvalidRequest


class TextDelta(NamedTuple):  # there is one for every token
    """Text to hand on, and the stop string that ended the answer."""

    text: str
    stopped: str | None = None


@dataclass(slots=True, eq=False)
class _Node:
    depth: int = 0
    following: dict[str, "_Node"] = field(default_factory=dict)
    fallback: "_Node | None" = None
    """The node of the next shorter end of the text; None at the root."""
    stop: str | None = None
    """The longest stop string that is complete here."""

    def step(self, char: str) -> "_Node":
        node = self
        while (following := node.following.get(char)) is None:
            if node.fallback is None:
                return node
            node = node.fallback
        return following


class StopStrings:
    """Ends a text at the stop string that is complete first; of those that end together, at the longest.

    So the result is the same however the text is cut into pieces, and the answer ends as early as it can. With
    `include_stop` the stop string is the end of the text, else it is left out.
    """

    def __init__(self, stops: tuple[str, ...], *, include_stop: bool = False) -> None:
        if "" in stops:
            raise InvalidRequest("a stop string is empty", field="stop")
        self._include_stop = include_stop
        self._root = self._node = _trie(stops)
        self._held = ""
        self._stopped: str | None = None

    def push(self, text: str) -> TextDelta:
        """What is certainly before any stop string; once one was found, nothing more."""
        if self._stopped is not None:
            return TextDelta("", self._stopped)
        node = self._node
        if node is self._root and node.following.keys().isdisjoint(text):
            return TextDelta(text)
        held = self._held + text
        for end, char in enumerate(text, start=len(self._held) + 1):
            node = node.step(char)
            if node.stop is not None:
                return self._stop(held[:end], node.stop)
        self._node = node
        num_certain = len(held) - node.depth
        self._held = held[num_certain:]
        return TextDelta(held[:num_certain])

    def flush(self) -> str:
        """What was held back, once no more text comes."""
        held, self._held, self._node = self._held, "", self._root
        return held

    def _stop(self, text: str, stop: str) -> TextDelta:
        self._stopped, self._held = stop, ""
        return TextDelta(text if self._include_stop else text.removesuffix(stop), stop)


def _trie(stops: tuple[str, ...]) -> _Node:
    root = _Node()
    for stop in stops:
        node = root
        for char in stop:
            node = node.following.setdefault(char, _Node(node.depth + 1))
        node.stop = stop
    _link(root)
    return root


def _link(root: _Node) -> None:
    """Set every node's fallback, shortest first."""
    waiting = deque([root])
    while waiting:
        node = waiting.popleft()
        for char, child in node.following.items():
            child.fallback = root if node.fallback is None else node.fallback.step(char)
            child.stop = child.stop or child.fallback.stop
            waiting.append(child)
