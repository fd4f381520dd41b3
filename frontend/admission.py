"""Who may wait for a worker, and whose turn it is: a bounded queue, fair to its callers.

Of those who wait, the lowest priority number goes first; among equals the caller who had the fewest tokens served; of
his own, who came first. A caller's count rises to the lowest of those who wait when he begins to wait, so that nobody
saves up turns by asking nothing (virtual token counters: Sheng et al., "Fairness in Serving Large Language Models",
2024).
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from engine.errors import Overloaded
from frontend.callers import ANYBODY, Caller


class _Waiters:
    """Those who came for the first time."""

    def __init__(self) -> None:
        self._queues: dict[tuple[int, str], OrderedDict[asyncio.Future[None], int]] = {}
        self._served: dict[str, int] = {}
        """Tokens, of callers who have waited or been served since somebody last had to wait."""

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def add(self, waiter: asyncio.Future[None], caller: Caller, num_tokens: int) -> None:
        waiting = {name for _, name in self._queues}
        if waiting and caller.name not in waiting:
            least = min(self._served.get(name, 0) for name in waiting)
            self._served[caller.name] = max(self._served.get(caller.name, 0), least)
        self._queues.setdefault((caller.priority, caller.name), OrderedDict())[waiter] = num_tokens

    def discard(self, waiter: asyncio.Future[None], caller: Caller) -> None:
        place = caller.priority, caller.name
        if (queue := self._queues.get(place)) is not None:
            queue.pop(waiter, None)
            if not queue:
                del self._queues[place]

    def pop(self) -> asyncio.Future[None]:
        """Whose turn it is."""
        place = min(self._queues, key=lambda place: (place[0], self._served.get(place[1], 0)))
        waiter, num_tokens = self._queues[place].popitem(last=False)
        if not self._queues[place]:
            del self._queues[place]
        self.note(place[1], num_tokens)
        return waiter

    def note(self, name: str, num_tokens: int) -> None:
        """Who is served at once counts, too."""
        self._served[name] = self._served.get(name, 0) + num_tokens

    def forget(self) -> None:
        """Nobody waits: everybody begins anew."""
        self._served.clear()


class Admission:
    """Bounds the requests that wait for workers, and lets one at a time look for room."""

    def __init__(self, max_requests: int, max_tokens: int) -> None:
        self.max_requests = max_requests
        self.max_tokens = max_tokens
        self.queued_tokens = 0
        self._returning: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self._new = _Waiters()
        self._busy = False

    @property
    def queued_requests(self) -> int:
        """Those that look for room or wait for their turn to."""
        return len(self._returning) + len(self._new) + self._busy

    @asynccontextmanager
    async def turn(
        self, num_tokens: int, *, first: bool = False, retry_after_s: float = 1.0, caller: Caller = ANYBODY
    ) -> AsyncIterator[None]:
        """Wait for the turn to look for room and hold it; `first` goes before everybody who does not say so.

        Raises Overloaded at once when the queue is full; who comes back with `first` was let in before.
        """
        if not first and self.queued_requests >= self.max_requests:
            raise Overloaded(f"{self.queued_requests} requests are waiting", retry_after_s=retry_after_s)
        if not first and self.queued_tokens and self.queued_tokens + num_tokens > self.max_tokens:
            raise Overloaded(f"{self.queued_tokens} prompt tokens are waiting", retry_after_s=retry_after_s)
        self.queued_tokens += num_tokens
        try:
            await self._wait(first, caller, num_tokens)
            try:
                yield
            finally:
                self._pass_on()
        finally:
            self.queued_tokens -= num_tokens

    async def _wait(self, first: bool, caller: Caller, num_tokens: int) -> None:  # noqa: FBT001
        if not self._busy:
            self._busy = True
            self._new.note(caller.name, num_tokens)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if first:
            self._returning[waiter] = None
        else:
            self._new.add(waiter, caller, num_tokens)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._pass_on()  # the turn came at the very moment of giving up
            self._returning.pop(waiter, None)
            self._new.discard(waiter, caller)
            raise

    def _pass_on(self) -> None:
        """Hand the turn to the next, or to nobody."""
        while self._returning or self._new:
            waiter = self._returning.popitem(last=False)[0] if self._returning else self._new.pop()
            if not waiter.done():  # who gave up has cancelled it
                waiter.set_result(None)
                return
        self._busy = False
        self._new.forget()
