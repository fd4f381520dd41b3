"""Credit for bytes under way to one peer, handed out in the order of asking so that no ticket starves another."""

import asyncio
from collections import deque


class Credit:
    """At most `limit` bytes are taken and not given back."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._free = limit
        self._closed = False
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, cost: int) -> None:
        """Wait for one's turn; a `cost` beyond the limit would wait for ever."""
        assert cost <= self._limit, "more than all the credit there is"
        await asyncio.sleep(0)  # others on the loop go between; not a wait
        if self._closed or (not self._waiting and cost <= self._free):
            self._free -= cost
            return
        granted = asyncio.get_running_loop().create_future()
        self._waiting.append((cost, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if not granted.cancelled():  # granted in the same turn of the loop
                self.give(cost)
            raise

    def give(self, cost: int) -> None:
        self._free += cost
        while self._waiting:
            wanted, granted = self._waiting[0]
            if not granted.done():
                if wanted > self._free:
                    return
                self._free -= wanted
                granted.set_result(None)
            self._waiting.popleft()

    def close(self) -> None:
        """Let everybody through, now and later, whatever is free: there is nothing to wait for any more."""
        self._closed = True
        for _, granted in self._waiting:
            if not granted.done():
                granted.set_result(None)
        self._waiting.clear()
