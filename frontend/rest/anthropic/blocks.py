"""An answer as a row of blocks: thinking, text and uses of tools, one after the other.

The same for answers that are sent whole and for streams. Does not know JSON.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from frontend.events import CallDelta, Delta


class Kind(StrEnum):
    THINKING = "thinking"
    TEXT = "text"
    TOOL_USE = "tool_use"


@dataclass(frozen=True, slots=True)
class Opened:
    """A block begins; `call` is what the use of a tool begins with."""

    index: int
    kind: Kind
    call: CallDelta | None = None


@dataclass(frozen=True, slots=True)
class More:
    """More of the block that is open: text, or JSON of a tool's input."""

    index: int
    kind: Kind
    text: str


@dataclass(frozen=True, slots=True)
class Closed:
    """A block is over; thinking is signed."""

    index: int
    signature: str | None


Step = Opened | More | Closed


class Blocks:
    """Puts what is said into blocks. One is open at a time."""

    def __init__(self) -> None:
        self.has_tool_use = False
        self._num_opened = 0
        self._open: Kind | None = None
        self._checksum = hashlib.sha256()
        """Of the thinking."""

    def take(self, delta: Delta) -> list[Step]:
        """Within one delta, what goes on with a call comes first, and what begins calls last."""
        steps: list[Step] = []
        for call in delta.calls:
            if call.id is None and call.arguments:
                steps.append(self._more(Kind.TOOL_USE, call.arguments))
        if delta.reasoning:
            self._checksum.update(delta.reasoning.encode())
            steps += self._say(Kind.THINKING, delta.reasoning)
        if delta.text:
            steps += self._say(Kind.TEXT, delta.text)
        for call in delta.calls:
            if call.id is not None:
                steps += self._begin(call)
        return steps

    def finish(self) -> list[Step]:
        if self._open is None:
            return []
        signature = self._checksum.hexdigest() if self._open is Kind.THINKING else None
        self._open = None
        return [Closed(self._num_opened - 1, signature)]

    def _say(self, kind: Kind, text: str) -> list[Step]:
        if self._open is kind:
            return [self._more(kind, text)]
        return [*self._opened(kind), self._more(kind, text)]

    def _begin(self, call: CallDelta) -> list[Step]:
        self.has_tool_use = True
        steps = self._opened(Kind.TOOL_USE, call)
        return [*steps, self._more(Kind.TOOL_USE, call.arguments)] if call.arguments else steps

    def _opened(self, kind: Kind, call: CallDelta | None = None) -> list[Step]:
        steps = self.finish()
        self._open = kind
        self._num_opened += 1
        return [*steps, Opened(self._num_opened - 1, kind, call)]

    def _more(self, kind: Kind, text: str) -> More:
        assert self._open is kind, "a call went on after it was over"
        return More(self._num_opened - 1, kind, text)
