"""Keeps a set of processes running, and ends them in order: the first `stop` drains, the second leaves.

Knows the order in which processes are drained. Does not know how one is started or restarted (cli.process), nor what
they do.
"""

import asyncio
import signal
from collections.abc import Sequence
from enum import Enum

from cli.process import GaveUp, KeptProcess, ProcessSpec, Reporter, Restarts, ended

GRACE_S = 5.0
"""Beyond its own drain timeout, what a process may take to end."""


class Ending(Enum):
    """How the processes came to their end."""

    DRAINED = "drained"
    UNCLEAN = "unclean"
    """A process had to be killed, or failed while it drained."""
    FORCED = "forced"
    """A second `stop`."""


class Supervisor:
    """Runs every process of `specs` until it is stopped."""

    def __init__(
        self,
        specs: Sequence[ProcessSpec],
        reporter: Reporter,
        *,
        restarts: Restarts | None = None,
        drain_timeout_s: float = 60.0,
    ) -> None:
        self._processes = [KeptProcess(spec, reporter, restarts or Restarts()) for spec in specs]
        self._reporter = reporter
        self._drain_timeout_s = drain_timeout_s
        self._stopping = asyncio.Event()
        self._forced = False
        self._gave_up: GaveUp | None = None

    async def run(self) -> Ending:
        """Keep the processes running until `stop`, then drain them stage by stage. Raises GaveUp, after draining."""
        async with asyncio.TaskGroup() as tasks:
            running = {process: tasks.create_task(self._keep(process)) for process in self._processes}
            await self._stopping.wait()
            for process in self._processes:
                process.retire()
            late = [process for stage in self._stages() for process in await self._drain(stage, running)]
        if self._gave_up is not None:
            raise self._gave_up
        failed = [process for process, task in running.items() if self._failed(process, task.result())]
        if self._forced:
            return Ending.FORCED
        return Ending.UNCLEAN if late or failed else Ending.DRAINED

    async def ready(self) -> bool:
        """Wait until every process is ready: True, or False when `stop` came first."""
        everyone = asyncio.gather(*(process.ready.wait() for process in self._processes))
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((everyone, stopping), return_when=asyncio.FIRST_COMPLETED)
        everyone.cancel()
        stopping.cancel()
        await asyncio.gather(everyone, stopping, return_exceptions=True)  # takes note that they were cancelled
        return not self._stopping.is_set()

    def stop(self) -> None:
        """Drain; called again, kill."""
        if self._stopping.is_set():
            self._forced = True
            for process in self._processes:
                process.kill()
        self._stopping.set()

    async def _keep(self, process: KeptProcess) -> int | None:
        try:
            return await process.keep()
        except GaveUp as error:
            self._gave_up = self._gave_up or error
            self._stopping.set()
            return None

    def _stages(self) -> list[list[KeptProcess]]:
        order = sorted({process.spec.drain_stage for process in self._processes})
        return [[process for process in self._processes if process.spec.drain_stage == stage] for stage in order]

    async def _drain(
        self, stage: list[KeptProcess], running: dict[KeptProcess, asyncio.Task[int | None]]
    ) -> list[KeptProcess]:
        """End the processes of one stage; return those that had to be killed."""
        alive = [process for process in stage if not running[process].done()]
        if not alive:
            return []
        for process in alive:
            process.terminate()
        timeout_s = self._drain_timeout_s + GRACE_S
        _, late = await asyncio.wait([running[process] for process in alive], timeout=timeout_s)
        killed = [process for process in alive if running[process] in late]
        for process in killed:
            self._reporter.output(process.spec.name, f"did not end within {timeout_s:g} s; killed")
            process.kill()
        return killed

    def _failed(self, process: KeptProcess, status: int | None) -> bool:
        # SIGTERM's own effect: it had not got as far as handling signals.
        if status in (None, 0, -signal.SIGTERM):
            return False
        if not self._forced:
            self._reporter.output(process.spec.name, f"{ended(status)} while draining")
        return True
