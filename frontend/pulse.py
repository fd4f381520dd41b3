"""Who waits for workers to change is woken when one has."""

import asyncio


class Pulse:
    """Wakes everybody who waits for something about the workers to change."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def beat(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        await self._event.wait()
