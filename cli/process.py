"""One child process kept running: started, watched until it is ready, and started again when it dies.

Knows a command, its environment and a readiness check. Does not know what the process serves, nor the other processes.
"""

import asyncio
import os
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO, Protocol

from engine.errors import USAGE_STATUS
from engine.leash import leashed

LAST_LINES = 20

Tell = Callable[[str], None]
"""Takes what a process is doing, in a few words."""


class Phase(StrEnum):
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    """It died, and waits to be started again."""
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Status:
    """What one process is doing, and since when (`time.monotonic`)."""

    name: str
    phase: Phase
    since_s: float
    detail: str = ""


class Reporter(Protocol):
    """Shows processes to whoever watches."""

    def status(self, status: Status) -> None:
        """Called at every change, and now and then while a process starts."""

    def output(self, name: str, line: str) -> None:
        """Called with each line that a process writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """A process as it should run."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    """All of it; nothing is inherited."""
    until_ready: Callable[[Tell], Awaitable[None]]
    """Returns once the process is ready; cancelled when it dies first."""
    drain_stage: int = 0
    """Processes of a later stage are stopped after those of earlier ones have ended."""


@dataclass(frozen=True, slots=True)
class Restarts:
    """When a process that died is started again."""

    first_delay_s: float = 0.5
    max_delay_s: float = 10.0
    """Delays double up to this; a process that was ready for as long starts from `first_delay_s` again."""
    attempts: int = 5
    """Deaths after which a process is given up that was never ready. One that was has options that can be served: what
    is in its way now (memory, a disk) may go, and the others serve meanwhile."""


class GaveUp(Exception):
    """A process cannot be brought to run."""

    def __init__(self, name: str, how: str, last_lines: tuple[str, ...]) -> None:
        super().__init__(f"{name} {how}")
        self.last_lines = last_lines


class KeptProcess:
    """Runs the process of one ProcessSpec, again and again, until it is retired."""

    def __init__(self, spec: ProcessSpec, reporter: Reporter, restarts: Restarts) -> None:
        self.spec = spec
        self.ready = asyncio.Event()
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._reporter = reporter
        self._restarts = restarts
        self._process: asyncio.subprocess.Process | None = None
        self._retired = asyncio.Event()
        self._ready_s: float | None = None
        self._started_s = 0.0

    async def keep(self) -> int | None:
        """Run until `retire`; return the exit status, None when there was no process. Raises GaveUp."""
        num_deaths, was_ready, delay_s = 0, False, self._restarts.first_delay_s
        while True:
            status = await self._run()
            if self._retired.is_set():
                self._report(Phase.STOPPED)
                return status
            num_deaths, was_ready = num_deaths + 1, was_ready or self._ready_s is not None
            if not was_ready and (status == USAGE_STATUS or num_deaths == self._restarts.attempts):
                raise GaveUp(self.spec.name, ended(status), tuple(self.last_lines))
            if self._was_ready_for() >= self._restarts.max_delay_s:
                delay_s = self._restarts.first_delay_s
            self._report(Phase.RESTARTING, f"{ended(status)}; starts again in {delay_s:g} s")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._retired.wait(), delay_s)
                self._report(Phase.STOPPED)
                return None
            delay_s = min(2 * delay_s, self._restarts.max_delay_s)

    def retire(self) -> None:
        """From now on, do not start it again."""
        self._retired.set()

    def terminate(self) -> None:
        """Ask it to drain and end."""
        self.retire()
        self._report(Phase.STOPPING)
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.terminate()

    def kill(self) -> None:
        """End it, and whatever it started, now."""
        self.retire()
        if self._process is not None:
            _kill_group(self._process.pid)

    async def _run(self) -> int:
        """Start it and wait for its end; return its exit status, negative for a signal."""
        self._started_s, self._ready_s = time.monotonic(), None
        self._report(Phase.STARTING)
        async with _pipe() as (output, write_file):
            with write_file:
                process = self._process = await self._spawn(write_file)
            if self._retired.is_set():  # while it was being started
                self.terminate()
            try:
                return await self._watch(process, output)
            finally:
                self.ready.clear()
                self._process = None

    async def _spawn(self, output: BinaryIO) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *leashed(*self.spec.command),
            env=self.spec.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # A group of its own: Ctrl-C in the terminal reaches the supervisor alone, which then drains in order.
            process_group=0,
        )

    async def _watch(self, process: asyncio.subprocess.Process, output: asyncio.StreamReader) -> int:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pass_on(output))
                readiness = tasks.create_task(self._note_readiness())
                status = await process.wait()
                readiness.cancel()
                _kill_group(process.pid)  # what it may have left behind, which would hold its output open
                return status
        except asyncio.CancelledError:
            _kill_group(process.pid)
            await process.wait()
            raise

    async def _note_readiness(self) -> None:
        await self.spec.until_ready(lambda detail: self._report(Phase.STARTING, detail))
        self._ready_s = time.monotonic()
        self._report(Phase.READY, f"after {self._ready_s - self._started_s:.1f} s")
        self.ready.set()

    async def _pass_on(self, output: asyncio.StreamReader) -> None:
        async for line in _lines(output):
            self.last_lines.append(line)
            self._reporter.output(self.spec.name, line)

    def _report(self, phase: Phase, detail: str = "") -> None:
        since_s = self._started_s if phase is Phase.STARTING else time.monotonic()
        self._reporter.status(Status(self.spec.name, phase, since_s, detail))

    def _was_ready_for(self) -> float:
        return 0.0 if self._ready_s is None else time.monotonic() - self._ready_s


def ended(status: int) -> str:
    """How a process ended, in words."""
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


@asynccontextmanager
async def _pipe() -> AsyncIterator[tuple[asyncio.StreamReader, BinaryIO]]:
    """A pipe of our own: asyncio's `Process.wait` waits for its pipes too, which a process's own children may hold."""
    read_fd, write_fd = os.pipe()
    output = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(output), os.fdopen(read_fd, "rb", buffering=0)
    )
    try:
        yield output, os.fdopen(write_fd, "wb", buffering=0)
    finally:
        transport.close()


async def _lines(output: asyncio.StreamReader) -> AsyncIterator[str]:
    """Lines of any length (StreamReader.readline stops at 64 KiB), the last one even if it is not finished."""
    rest = b""
    while chunk := await output.read(65_536):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")
