"""Who may wait for a worker, and whose turn it is: a bounded queue, first come first served."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from engine.errors import Overloaded


class Admission:
    """Bounds the requests that wait for workers, and lets one at a time look for room."""

    def __init__(self, max_requests: int, max_tokens: int) -> None:
        self.max_requests = max_requests
        self.max_tokens = max_tokens
        self.queued_tokens = 0
        self._returning: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self._new: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self._busy = False

    @property
    def queued_requests(self) -> int:
        """Those that look for room or wait for their turn to."""
        return len(self._returning) + len(self._new) + self._busy

    @asynccontextmanager
    async def turn(self, num_tokens: int, *, first: bool = False, retry_after_s: float = 1.0) -> AsyncIterator[None]:
        """Wait for the turn to look for room and hold it; `first` goes before everybody who does not say so.

        Raises Overloaded at once when the queue is full; who comes back with `first` was let in before.
        """
        if not first and self.queued_requests >= self.max_requests:
            raise Overloaded(f"{self.queued_requests} requests are waiting", retry_after_s=retry_after_s)
        if not first and self.queued_tokens and self.queued_tokens + num_tokens > self.max_tokens:
            raise Overloaded(f"{self.queued_tokens} prompt tokens are waiting", retry_after_s=retry_after_s)
        self.queued_tokens += num_tokens
        try:
            await self._wait(first)
            try:
                yield
            finally:
                self._pass_on()
        finally:
            self.queued_tokens -= num_tokens

    async def _wait(self, first: bool) -> None:
        if not self._busy:
            self._busy = True
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._returning if first else self._new
        waiters[waiter] = None
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._pass_on()  # the turn came at the very moment of giving up
            waiters.pop(waiter, None)
            raise

    def _pass_on(self) -> None:
        """Hand the turn to the next, or to nobody."""
        while waiters := self._returning or self._new:
            waiter, _ = waiters.popitem(last=False)
            if not waiter.done():  # who gave up has cancelled it
                waiter.set_result(None)
                return
        self._busy = False
