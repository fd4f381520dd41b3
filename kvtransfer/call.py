"""The frames of one `send` or `commit` that are under way, and the proof that nothing reads their bytes any more.

libzmq reads a frame's parts after they were handed to it. A call therefore ends only when each of its frames was
answered or dropped with its socket, and the message trackers then say that libzmq let go of every part.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence

import zmq

from engine.errors import TransferFailed

RELEASE_TIMEOUT_S = 30.0
"""A frame that was answered or dropped is let go of at once; if it is not, custody is broken."""


class Call:
    """Counts frames out and answers in, and keeps the first thing that went wrong."""

    def __init__(self) -> None:
        self._error: TransferFailed | None = None
        self._num_pending = 0
        self._settled = asyncio.Event()
        self._held: list[zmq.MessageTracker] = []

    @property
    def pending(self) -> bool:
        """Whether a frame is without an answer."""
        return self._num_pending > 0

    def sent(self) -> None:
        self._num_pending += 1
        self._settled.clear()

    def answered(self, trackers: Iterable[zmq.MessageTracker], error: TransferFailed | None) -> None:
        """One frame's answer, or the end of its link."""
        self._held += (tracker for tracker in trackers if not tracker.done)
        self._error = self._error or error
        self._num_pending -= 1
        if not self._num_pending:
            self._settled.set()

    def check(self) -> None:
        if self._error:
            raise self._error

    async def settled(self) -> None:
        """Return when every frame was answered, or the link ended."""
        if self._num_pending:
            await self._settled.wait()

    async def released(self) -> None:
        """Return when libzmq reads none of the parts any more, however often the caller is cancelled meanwhile."""
        if self._num_pending or self._still_held():
            await _to_the_end(self._released())

    async def _released(self) -> None:
        await self.settled()
        if held := self._still_held():
            await asyncio.to_thread(_wait_for_release, held)

    def _still_held(self) -> list[zmq.MessageTracker]:
        return [tracker for tracker in self._held if not tracker.done]


def _wait_for_release(trackers: Sequence[zmq.MessageTracker]) -> None:
    for tracker in trackers:
        try:
            tracker.wait(RELEASE_TIMEOUT_S)
        except zmq.NotDone as error:
            raise AssertionError("libzmq still holds blocks of frames that were answered or dropped") from error


async def _to_the_end(work: Coroutine[None, None, None]) -> None:
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled:
        raise cancelled
