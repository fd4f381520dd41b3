"""The frames of one `send` or `commit` that are under way."""

import asyncio

from engine.errors import TransferFailed


class Call:
    """Counts frames out and answers in, and keeps the first thing that went wrong."""

    def __init__(self) -> None:
        self._error: TransferFailed | None = None
        self._num_pending = 0
        self._settled = asyncio.Event()
        self._settled.set()

    def sent(self) -> None:
        self._num_pending += 1
        self._settled.clear()

    def answered(self, error: TransferFailed | None) -> None:
        """One frame's answer, or the end of its link."""
        self._error = self._error or error
        self._num_pending -= 1
        if not self._num_pending:
            self._settled.set()

    def check(self) -> None:
        if self._error:
            raise self._error

    async def settled(self) -> None:
        """Return when every frame was answered, or the link ended."""
        await self._settled.wait()

    async def settled_whatever_comes(self) -> None:
        """The same, however often the caller is cancelled meanwhile."""
        cancelled: asyncio.CancelledError | None = None
        while self._num_pending:
            try:
                await self._settled.wait()
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled:
            raise cancelled
