"""The end of everything that is under way at once, when a server may not wait for it any longer.

    cut = Cut()
    with cut:               # raises Unavailable here, if the cut is made before or meanwhile
        await something()

Knows tasks that wait. Does not know what for.
"""

import asyncio

from engine.errors import Unavailable


class Cut:
    """Wakes who waits within it, as a timeout does, and lets nobody wait within it afterwards.

    What it does not wake is a task that is busy elsewhere, like one that writes to a client: it hears of it when it
    comes back for more.
    """

    def __init__(self) -> None:
        self._is_made = False
        self._waiting: set[asyncio.Task[object]] = set()

    def make(self) -> None:
        """For good. Harmless when it is made already."""
        if not self._is_made:
            self._is_made = True
            for task in self._waiting:
                task.cancel()

    def __enter__(self) -> None:
        if self._is_made:
            raise _shutting_down()
        task = asyncio.current_task()
        assert task is not None, "who waits is a task"
        self._waiting.add(task)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        task = asyncio.current_task()
        assert task is not None, "who waits is a task"
        self._waiting.discard(task)
        # Somebody else may have cancelled the task, too: then it ends as he wanted.
        if self._is_made and not task.uncancel() and kind is asyncio.CancelledError:
            raise _shutting_down() from None


def _shutting_down() -> Unavailable:
    return Unavailable("the server is shutting down, and could not wait for the end of this answer")
