"""Keeps what became of requests: the latest, the slowest and those that failed, each a bounded number and size.

Records are kept encoded, as they will be read: what they take is known to the byte, and there is nothing in them for
the garbage collector to look at. Knows who may see which. Does not know how records come about.
"""

import heapq
import itertools
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from frontend.callers import Caller
from frontend.history import History
from frontend.minute import LastMinute, Minute
from frontend.records import RequestRecord, RouterDecision

PERIOD_S = 600.0
"""The slowest are those of this and of the last period: what a start took shall not hide what is slow now."""
MAX_DECISIONS = 64

_ID = re.compile(r"[0-9a-f]{24}(-\d+)?$")


@dataclass(frozen=True, slots=True)
class Kept:
    """A record. Whether it is shown depends on whose it is."""

    request_id: str
    key: str
    ttft_ms: float
    body: bytes
    """JSON."""


class LatestDecision(msgspec.Struct, frozen=True):
    """What the router decided, before anybody knows what comes of it."""

    request_id: str
    key: str
    at_s: float
    """Unix."""
    attempt: int
    decision: RouterDecision


class Shelf:
    """The latest, as many as fit."""

    def __init__(self, max_records: int, max_bytes: int) -> None:
        self._limits = max_records, max_bytes
        self._kept: deque[Kept] = deque()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Kept]:
        """Latest first."""
        return reversed(self._kept)

    def add(self, kept: Kept) -> None:
        self._kept.append(kept)
        self.size_bytes += len(kept.body)
        while len(self._kept) > self._limits[0] or self.size_bytes > self._limits[1]:
            self.size_bytes -= len(self._kept.popleft().body)


class Slowest:
    """Those of `PERIOD_S` that took longest to their first token, as many as fit."""

    def __init__(self, max_records: int, max_bytes: int) -> None:
        self._limits = max_records, max_bytes
        self._order = itertools.count()
        self._heap: list[tuple[float, int, Kept]] = []
        """The fastest of them is the first."""
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Kept]:
        """In no order."""
        return (kept for _, _, kept in self._heap)

    def wants(self, ttft_ms: float) -> bool:
        """Whether such a one would be kept."""
        return len(self._heap) < self._limits[0] or ttft_ms > self._heap[0][0]

    def add(self, kept: Kept) -> None:
        heapq.heappush(self._heap, (kept.ttft_ms, next(self._order), kept))
        self.size_bytes += len(kept.body)
        while len(self._heap) > self._limits[0] or self.size_bytes > self._limits[1]:
            self.size_bytes -= len(heapq.heappop(self._heap)[2].body)


@dataclass(slots=True)
class Recorder:
    """What became of the requests of one frontend. Called on its event loop alone."""

    max_recent: int = 512
    max_slowest: int = 64
    max_failed: int = 256
    max_bytes: int = 1 << 20
    """Of each kind; the slowest may take it twice."""
    now: Callable[[], float] = time.monotonic
    in_flight: int = 0
    """Requests that have come and not ended."""
    began_s: float = field(init=False)
    minute: Minute = field(init=False)
    history: History = field(init=False)
    _recent: Shelf = field(init=False)
    _failed: Shelf = field(init=False)
    _slowest: Slowest = field(init=False)
    _slowest_before: Slowest = field(init=False)
    """Of the period before this one."""
    _period_s: float = field(init=False)
    """When this one began."""
    _decisions: deque[LatestDecision] = field(default_factory=lambda: deque(maxlen=MAX_DECISIONS))

    def __post_init__(self) -> None:
        self.began_s = self._period_s = self.now()
        self.minute = Minute(self.now)
        self.history = History(self.now)
        self._recent = Shelf(self.max_recent, self.max_bytes)
        self._failed = Shelf(self.max_failed, self.max_bytes)
        self._slowest, self._slowest_before = self._new_slowest(), self._new_slowest()

    # -- what comes in -----------------------------------------------------------------------------------------------

    def add(self, record: RequestRecord) -> None:
        """A request has ended."""
        self.minute.add(record)
        self.history.add(record)
        ttft_ms = record.ttft_ms
        kept = Kept(record.request_id, record.key, ttft_ms or 0.0, msgspec.json.encode(record))
        self._recent.add(kept)
        if record.failed:
            self._failed.add(kept)
        if ttft_ms is not None:
            self._turn_period()
            if self._slowest.wants(ttft_ms):
                self._slowest.add(kept)

    def decided(self, decision: LatestDecision) -> None:
        self._decisions.append(decision)
        self.history.decided(decision.decision)

    def _turn_period(self) -> None:
        num_periods = (self.now() - self._period_s) // PERIOD_S
        if num_periods:
            self._slowest_before = self._slowest if num_periods == 1 else self._new_slowest()
            self._slowest = self._new_slowest()
            self._period_s += num_periods * PERIOD_S

    def _new_slowest(self) -> Slowest:
        return Slowest(self.max_slowest, self.max_bytes)

    # -- what may be seen --------------------------------------------------------------------------------------------

    def recent(self, caller: Caller, limit: int) -> list[msgspec.Raw]:
        """Latest first."""
        return _shown(iter(self._recent), caller, limit)

    def failed(self, caller: Caller, limit: int) -> list[msgspec.Raw]:
        """Latest first."""
        return _shown(iter(self._failed), caller, limit)

    def slowest(self, caller: Caller, limit: int) -> list[msgspec.Raw]:
        """Of the last `PERIOD_S` and up to twice as long, slowest first."""
        return _shown(iter(self._all_slowest()), caller, min(limit, self.max_slowest))

    def decisions(self, caller: Caller, limit: int) -> list[LatestDecision]:
        """Latest first."""
        visible = (decision for decision in reversed(self._decisions) if _may_see(caller, decision.key))
        return list(itertools.islice(visible, limit))

    def last_minute(self) -> LastMinute:
        return self.minute.summary()

    def find(self, caller: Caller, request_id: str) -> msgspec.Raw | None:
        """By the id as any dialect tells it (req-ID, chatcmpl-ID); None if it is not kept, or not for this caller."""
        wanted = _ID.search(request_id)
        if wanted is None:
            return None
        own_id = f"req-{wanted[0]}"
        shelves = itertools.chain(self._recent, self._failed, self._all_slowest())
        found = _shown((kept for kept in shelves if kept.request_id == own_id), caller, 1)
        return found[0] if found else None

    def _all_slowest(self) -> list[Kept]:
        self._turn_period()
        return sorted((*self._slowest, *self._slowest_before), key=lambda kept: -kept.ttft_ms)

    @property
    def size_bytes(self) -> int:
        """Of all records; one may count several times."""
        shelves = (self._recent, self._failed, self._slowest, self._slowest_before)
        return sum(shelf.size_bytes for shelf in shelves)


def _shown(kept: Iterator[Kept], caller: Caller, limit: int) -> list[msgspec.Raw]:
    visible = (msgspec.Raw(each.body) for each in kept if _may_see(caller, each.key))
    return list(itertools.islice(visible, limit))


def _may_see(caller: Caller, key: str) -> bool:
    return caller.is_operator or caller.name == key
