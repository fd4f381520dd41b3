"""What parsers find in an answer, in the order in which it was said."""

import secrets
import string
from dataclasses import dataclass

MAX_NAME_CHARS = 256
_ID_CHARS = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class Content:
    """Text to read."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A call of a tool; its arguments follow."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments. Joined they are a JSON object, unless the answer was cut or the model went astray."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """No more of this call: it is complete, or what follows is no JSON."""

    index: int


Event = Content | Reasoning | CallBegun | CallArguments | CallEnded


class Calls:
    """Numbers the calls of one answer and gives them their ids."""

    def __init__(self, names: frozenset[str] = frozenset(), *, short_ids: bool = False) -> None:
        self.names = names
        """Of the tools that were offered."""
        self._short_ids = short_ids
        self._index = -1

    def begin(self, name: str, call_id: str = "") -> CallBegun:
        """The next call; `call_id` is the model's own, if it gave one."""
        self._index += 1
        return CallBegun(self._index, call_id or self._new_id(), name)

    def arguments(self, text: str) -> CallArguments:
        return CallArguments(self._index, text)

    def end(self) -> CallEnded:
        return CallEnded(self._index)

    def _new_id(self) -> str:
        """Mistral's templates take ids of nine letters and digits, and no others."""
        if self._short_ids:
            return "".join(secrets.choice(_ID_CHARS) for _ in range(9))
        return f"call_{secrets.token_hex(12)}"


def is_name(name: str) -> bool:
    """Whether a tool may be called so. Half a surrogate pair is not printable."""
    return 0 < len(name) <= MAX_NAME_CHARS and name.isprintable()
