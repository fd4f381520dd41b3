"""Sends jobs, open loop or closed loop, and keeps a record of each.

A request's tape belongs to it alone, so what had arrived when it failed or was cancelled is not lost.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from cli.load.client import Client, RequestFailed, Tape
from cli.load.measure import Record, Reply
from cli.load.prompts import Job
from engine.errors import Unavailable

Keep = Callable[[Record], None]


class Session:
    """Sends requests of one run. Times are seconds since `start`."""

    def __init__(self, client: Client, timeout_s: float) -> None:
        self.client = client
        self._timeout_s = timeout_s
        self._start_s = time.perf_counter()

    def start(self) -> None:
        self._start_s = time.perf_counter()

    def now(self) -> float:
        return time.perf_counter() - self._start_s

    async def ask(self, index: int, job: Job, due_s: float, keep: Keep, tape: Tape | None = None) -> None:
        """Send one request, and keep its record whatever its end: a failure, or being cancelled.

        Who wants to look at what has come so far gives the tape, which must be empty.
        """
        tape, sent_s, error = tape or Tape(), self.now(), None
        try:
            async with asyncio.timeout(self._timeout_s):
                await self.client.send(job, tape)
        except RequestFailed as failure:
            error = str(failure)
        except TimeoutError:
            error = f"timeout after {self._timeout_s:g} s"
        except asyncio.CancelledError:
            error = "cancelled"
            raise
        finally:
            keep(self._record(index, job, due_s, sent_s, tape, error))

    def _record(self, index: int, job: Job, due_s: float, sent_s: float, tape: Tape, error: str | None) -> Record:
        end_s = self.now()
        reply = self.client.read(tape)
        times = tuple(at - self._start_s for at in reply.chunks_s)
        refusal = self.client.explain(tape) if reply.error and not times else ""
        why = error or (f"{reply.error}: {refusal}" if refusal else reply.error)
        asked = None if isinstance(job.prompt, str) else len(job.prompt)
        read = Reply(times, reply.prompt_tokens, reply.output_tokens, why)
        return Record(index, due_s, sent_s, end_s, asked, job.output_tokens, read)


async def send_open(session: Session, jobs: Sequence[Job], concurrency: int | None, keep: Keep) -> None:
    """Each job when it is due; with `concurrency`, not before one of so many places is free."""
    places = asyncio.Semaphore(concurrency or max(1, len(jobs)))

    async def one(index: int, job: Job) -> None:
        async with places:
            await session.ask(index, job, job.due_s, keep)

    async with asyncio.TaskGroup() as tasks:
        for index, job in enumerate(jobs):
            while (wait_s := job.due_s - session.now()) > 0:  # noqa: ASYNC110 (a timer may end a millisecond early)
                await asyncio.sleep(wait_s)
            tasks.create_task(one(index, job))


async def send_closed(session: Session, jobs: Sequence[Job], concurrency: int, keep: Keep) -> None:
    """`concurrency` clients, each asking the next job when its last answer has ended."""
    waiting = iter(enumerate(jobs))

    async def ask_on() -> None:
        for index, job in waiting:
            await session.ask(index, job, session.now(), keep)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(min(concurrency, len(jobs))):
            tasks.create_task(ask_on())


async def warm_up(session: Session, jobs: Sequence[Job]) -> None:
    """One after the other. Raises Unavailable, with the reason, if the server does not answer one."""
    kept: list[Record] = []
    for index, job in enumerate(jobs):
        await session.ask(index, job, 0.0, kept.append)
        if kept[-1].error is not None:
            raise Unavailable(f"a first request failed, so nothing was measured: {kept[-1].error}")
