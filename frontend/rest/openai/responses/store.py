"""Responses that are kept, so that others can go on with them: in memory, bounded by number, bytes and age.

Each caller has a shelf of its own, and sees no other. Where there is no room, the oldest of whoever has the most bytes
goes first. What is kept here is lost with the process, and other frontends do not know of it. Does not know HTTP.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.errors import InvalidRequest, UnknownRequest
from frontend.callers import Caller
from frontend.rest.openai.responses.answer_types import ResponseDocument
from frontend.rest.openai.responses.items import Item

MAX_RESPONSES = 4_096
MAX_BYTES = 64 << 20
MAX_AGE_S = 24 * 3600.0


class UnknownPrevious(InvalidRequest):
    """A response was to go on with one that is not kept."""

    reason = "PREVIOUS_RESPONSE_NOT_FOUND"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A response, what it was the answer to, and all that was said up to its end."""

    document: ResponseDocument
    input: tuple[Item, ...]
    context: tuple[Item, ...]
    context_bytes: int
    abandon: Callable[[], None] | None = None
    """Ends the work at a response that is still being made, when nobody can ask for it any more."""


@dataclass(slots=True)
class _Shelf:
    kept: OrderedDict[str, tuple[Kept, float]] = field(default_factory=OrderedDict)
    """By id, with the end of its time; oldest first."""
    items: dict[str, tuple[str, Item]] = field(default_factory=dict)
    """By id, with the newest response that has it."""
    num_bytes: int = 0


class Store:
    def __init__(
        self,
        *,
        max_responses: int = MAX_RESPONSES,
        max_bytes: int = MAX_BYTES,
        max_age_s: float = MAX_AGE_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._now = now
        self._shelves: dict[str, _Shelf] = {}

    def of(self, caller: Caller) -> "CallersStore":
        return CallersStore(self, caller.name)

    def keep(self, caller: str, kept: Kept) -> None:
        """Instead of what was kept of the same response, as new."""
        self._drop_old()
        if self.find(caller, kept.document.id) is not None:
            self._remove(caller, kept.document.id)
        shelf = self._shelves.setdefault(caller, _Shelf())
        shelf.kept[kept.document.id] = kept, self._now() + self._max_age_s
        shelf.num_bytes += kept.context_bytes
        for item in (*kept.input, *kept.document.output):
            if item.id is not None:
                shelf.items[item.id] = kept.document.id, item
        while self.num_responses > self._max_responses or self.num_bytes > self._max_bytes:
            fullest = max(self._shelves, key=lambda name: self._shelves[name].num_bytes)
            self.drop(fullest, next(iter(self._shelves[fullest].kept)))

    def find(self, caller: str, response_id: str) -> Kept | None:
        self._drop_old()
        shelf = self._shelves.get(caller)
        return shelf.kept[response_id][0] if shelf is not None and response_id in shelf.kept else None

    def find_item(self, caller: str, item_id: str) -> Item | None:
        self._drop_old()
        shelf = self._shelves.get(caller)
        return shelf.items[item_id][1] if shelf is not None and item_id in shelf.items else None

    def drop(self, caller: str, response_id: str) -> None:
        kept = self._remove(caller, response_id)
        if kept.abandon is not None:
            kept.abandon()

    def _remove(self, caller: str, response_id: str) -> Kept:
        shelf = self._shelves[caller]
        kept, _ = shelf.kept.pop(response_id)
        shelf.num_bytes -= kept.context_bytes
        for item in (*kept.input, *kept.document.output):
            if item.id in shelf.items and shelf.items[item.id][0] == response_id:
                del shelf.items[item.id]
        if not shelf.kept:
            del self._shelves[caller]
        return kept

    @property
    def num_responses(self) -> int:
        return sum(len(shelf.kept) for shelf in self._shelves.values())

    @property
    def num_bytes(self) -> int:
        return sum(shelf.num_bytes for shelf in self._shelves.values())

    def _drop_old(self) -> None:
        now = self._now()
        for caller, shelf in list(self._shelves.items()):
            while shelf.kept:
                response_id, (_, end) = next(iter(shelf.kept.items()))
                if end > now:
                    break
                self.drop(caller, response_id)


@dataclass(frozen=True, slots=True)
class CallersStore:
    """What one caller sees of it."""

    _store: Store
    _caller: str

    def keep(self, kept: Kept) -> None:
        """There is no promise that it can be found later."""
        self._store.keep(self._caller, kept)

    def get(self, response_id: str) -> Kept:
        """Raises UnknownRequest."""
        kept = self._store.find(self._caller, response_id)
        if kept is None:
            raise UnknownRequest(f"no response with the id {response_id[:80]!r} is kept")
        return kept

    def previous(self, response_id: str) -> Kept:
        """Raises UnknownPrevious."""
        kept = self._store.find(self._caller, response_id)
        if kept is None:
            message = f"no response with the id {response_id[:80]!r} is kept, to go on with"
            raise UnknownPrevious(message, field="previous_response_id")
        if kept.document.status == "in_progress":
            message = f"the response {response_id[:80]!r} is still being made"
            raise InvalidRequest(message, field="previous_response_id")
        return kept

    def item(self, item_id: str) -> Item:
        """Raises InvalidRequest."""
        item = self._store.find_item(self._caller, item_id)
        if item is None:
            raise InvalidRequest(f"no item with the id {item_id[:80]!r} is kept", field="input")
        return item

    def drop(self, response_id: str) -> None:
        """Raises UnknownRequest."""
        self.get(response_id)
        self._store.drop(self._caller, response_id)
