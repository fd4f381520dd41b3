"""Who may wait for a worker, and whose turn it is: a bounded queue, fair to its callers.

Of those who wait, the lowest priority number goes first; among equals the caller who had the fewest tokens served; of
his own, who came first. A caller's count rises to the lowest of those who wait when he begins to wait, so that nobody
saves up turns by asking nothing (virtual token counters: Sheng et al., "Fairness in Serving Large Language Models",
2024). Where the queue is full, who would go last makes room for one of a lower priority number.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager

from frontend.callers import ANYBODY, Caller
from frontend.forecast import Demand

Place = tuple[int, str]
"""Priority and caller: those of one place go in the order they came."""


class Displaced(Exception):
    """Raised for one who waited, when one of a lower priority number needs its place in the queue."""


class _Waiters:
    """Those who came for the first time."""

    def __init__(self) -> None:
        self._queues: dict[Place, OrderedDict[asyncio.Future[None], Demand]] = {}
        self.num_tokens = 0
        """Of all of their prompts."""
        self._served: dict[str, int] = {}
        """Tokens, of callers who have waited or been served since somebody last had to wait."""

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def add(self, waiter: asyncio.Future[None], caller: Caller, demand: Demand, *, again: bool) -> None:
        self._served[caller.name] = self._count_of(caller)
        queue = self._queues.setdefault((caller.priority, caller.name), OrderedDict())
        queue[waiter] = demand
        self.num_tokens += demand.prompt_tokens
        if again:
            queue.move_to_end(waiter, last=False)

    def discard(self, waiter: asyncio.Future[None], place: Place) -> None:
        if waiter in self._queues.get(place, ()):
            self._take(waiter, place)

    def pop(self) -> asyncio.Future[None]:
        """Whose turn it is."""
        place = _next(self._queues, self._served)
        waiter = next(iter(self._queues[place]))
        self.note(place[1], self._take(waiter, place).prompt_tokens)
        return waiter

    def last_first(self, priority: int) -> Iterator[tuple[asyncio.Future[None], Place, Demand]]:
        """Those of a higher number than `priority`, who would go last first."""
        behind = [place for place in self._queues if place[0] > priority]
        for place in sorted(behind, key=lambda place: (place[0], self._served.get(place[1], 0)), reverse=True):
            for waiter, demand in reversed(self._queues[place].items()):
                yield waiter, place, demand

    def _take(self, waiter: asyncio.Future[None], place: Place) -> Demand:
        demand = self._queues[place].pop(waiter)
        if not self._queues[place]:
            del self._queues[place]
        self.num_tokens -= demand.prompt_tokens
        return demand

    @property
    def lowest(self) -> float:
        """Priority of who goes first; infinite where nobody waits."""
        return min((priority for priority, _ in self._queues), default=math.inf)

    def before(self, caller: Caller) -> Iterator[Demand]:
        """Those whose turn comes before that of a request of `caller` that comes now, in order."""
        own = caller.priority, caller.name
        served = {**self._served, caller.name: self._count_of(caller)}
        queues: dict[Place, Iterator[Demand]] = {place: iter(queue.values()) for place, queue in self._queues.items()}
        queues.setdefault(own, iter(()))
        while queues:
            place = _next(queues, served)
            if (demand := next(queues[place], None)) is not None:
                served[place[1]] = served.get(place[1], 0) + demand.prompt_tokens
                yield demand
            elif place == own:
                return
            else:
                del queues[place]

    def note(self, name: str, num_tokens: int) -> None:
        """Who is served at once counts, too."""
        self._served[name] = self._served.get(name, 0) + num_tokens

    def forget(self) -> None:
        """Nobody waits: everybody begins anew."""
        self._served.clear()

    def _count_of(self, caller: Caller) -> int:
        """Of a caller who begins to wait, or waits already."""
        waiting = {name for _, name in self._queues}
        served = self._served.get(caller.name, 0)
        if not waiting or caller.name in waiting:
            return served
        return max(served, min(self._served.get(name, 0) for name in waiting))


def _next(places: Iterable[Place], served: Mapping[str, int]) -> Place:
    return min(places, key=lambda place: (place[0], served.get(place[1], 0)))


class Admission:
    """Bounds the requests that wait for workers, and lets one at a time look for room."""

    def __init__(self, max_requests: int, max_tokens: int) -> None:
        self.max_requests = max_requests
        self.max_tokens = max_tokens
        self._looking: Demand | None = None
        """Of who has the turn."""
        self._looking_priority = 0
        self._returning: OrderedDict[asyncio.Future[None], Demand] = OrderedDict()
        self._new = _Waiters()

    @property
    def queued_requests(self) -> int:
        """Those that look for room or wait for their turn to."""
        return len(self._returning) + len(self._new) + (self._looking is not None)

    @property
    def queued_tokens(self) -> int:
        """Of their prompts."""
        looking = 0 if self._looking is None else self._looking.prompt_tokens
        return looking + sum(demand.prompt_tokens for demand in self._returning.values()) + self._new.num_tokens

    def full(self, demand: Demand, caller: Caller = ANYBODY) -> str:
        """Why one more may not wait, even if those made room whom its priority goes before; empty if it may."""
        if self._make_room(demand, caller) is not None:
            return ""
        if self.queued_requests >= self.max_requests:
            return f"{self.queued_requests} requests are waiting"
        return f"{self.queued_tokens} prompt tokens are waiting"

    def _make_room(self, demand: Demand, caller: Caller) -> list[tuple[asyncio.Future[None], Place]] | None:
        """Who has to go for one more; None where that is not enough."""
        behind, going = self._new.last_first(caller.priority), []
        num_requests, num_tokens = self.queued_requests, self.queued_tokens
        while num_requests >= self.max_requests or (num_tokens and num_tokens + demand.prompt_tokens > self.max_tokens):
            if (last := next(behind, None)) is None:
                return None
            waiter, place, waiting = last
            going.append((waiter, place))
            num_requests, num_tokens = num_requests - 1, num_tokens - waiting.prompt_tokens
        return going

    def before(self, caller: Caller) -> list[Demand]:
        """Those who go before a request of `caller` that comes now, in their order."""
        looking = () if self._looking is None else (self._looking,)
        return [*looking, *self._returning.values(), *self._new.before(caller)]

    def overtakes(self, caller: Caller) -> bool:
        """Whether a request of `caller` that comes now goes before the one that has the turn."""
        return self._looking is not None and caller.priority < self._looking_priority

    def overtaken(self, caller: Caller) -> bool:
        """Whether somebody waits who goes before `caller`, who has the turn and has found no room so far."""
        return self._new.lowest < caller.priority

    def give_back(self, caller: Caller, demand: Demand) -> None:
        """A turn that was given up counts as none."""
        self._new.note(caller.name, -demand.prompt_tokens)

    @asynccontextmanager
    async def turn(
        self, demand: Demand, *, first: bool = False, again: bool = False, caller: Caller = ANYBODY
    ) -> AsyncIterator[None]:
        """Wait for the turn to look for room and hold it; `first` goes before everybody who does not say so, and who
        comes `again`, having given up his turn, before the caller's others. Raises Displaced.

        Whether there is room to wait is for the caller to ask: see `full`.
        """
        await self._wait(demand, caller, first=first, again=again)
        self._looking_priority = caller.priority
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, demand: Demand, caller: Caller, *, first: bool, again: bool) -> None:
        if self._looking is None:
            self._looking = demand
            self._new.note(caller.name, demand.prompt_tokens)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if first:
            self._returning[waiter] = demand
        else:
            self._displace(demand, caller)
            self._new.add(waiter, caller, demand, again=again)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._pass_on()  # the turn came at the very moment of giving up
            self._returning.pop(waiter, None)
            self._new.discard(waiter, (caller.priority, caller.name))
            raise
        self._looking = demand

    def _displace(self, demand: Demand, caller: Caller) -> None:
        for waiter, place in self._make_room(demand, caller) or ():
            self._new.discard(waiter, place)
            if not waiter.done():  # who gave up has cancelled it
                waiter.set_exception(Displaced())

    def _pass_on(self) -> None:
        """Hand the turn to the next, or to nobody."""
        while self._returning or self._new:
            waiter = self._returning.popitem(last=False)[0] if self._returning else self._new.pop()
            if not waiter.done():  # who gave up has cancelled it
                waiter.set_result(None)
                return
        self._looking = None
        self._new.forget()
