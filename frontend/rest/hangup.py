"""Working for a client for as long as it is there: the one thing ASGI leaves to the application."""

import asyncio
from collections.abc import Coroutine, Iterable

from starlette.types import Receive


async def run_unless_hung_up(receive: Receive, works: Iterable[Coroutine[None, None, None]]) -> bool:
    """Run `works` side by side to their end; False when the client went away first, which cancels them.

    The first that fails cancels the others, and its exception is raised as it is.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(work) for work in works]
            watching = tasks.create_task(_cancel_on_hang_up(receive, running))
            await asyncio.wait(running)
            watching.cancel()
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None  # the others failed because they were cancelled
    return not any(task.cancelled() for task in running)


async def _cancel_on_hang_up(receive: Receive, running: list[asyncio.Task[None]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    for task in running:
        task.cancel()
