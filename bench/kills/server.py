"""A `tandem up` whose workers have traps: started, looked at from outside, and ended."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.kills.arms import FOLDER, Arms
from cli.chaos.talk import Talk
from cli.chaos.victims import Worker, find_server, workers

READY_S = 300.0
LOOK_S = 0.02
SITE = Path(__file__).with_name("site")


@dataclass(frozen=True, slots=True)
class Server:
    http: str
    grpc_address: str
    arms: Arms
    up_pid: int
    log: Path


@contextmanager
def served(folder: Path, arguments: tuple[str, ...], environment: Mapping[str, str]) -> Iterator[Server]:
    """Run one, with its files in `folder`; a request would succeed now. Drained at the end."""
    python_path = os.pathsep.join(filter(None, (str(SITE), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "cli", "up", "--http-port", "0", "--grpc-port", "0", *arguments]
    inherited = {**os.environ, "PYTHONPATH": python_path, FOLDER: str(folder)}
    log = folder / "log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, env={**inherited, **environment}, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        assert process.stdout is not None
        ready = next((line for line in process.stdout if line.startswith("ready ")), "")
        if not ready:
            sys.exit(f"tandem up did not become ready:\n{log.read_text(errors='replace')}")
        _, http, address = ready.split()
        yield Server(http, address.removeprefix("grpc://"), Arms(folder), find_server(http).up_pid, log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


async def until(holds: Callable[[], bool], timeout_s: float) -> None:
    """Look again and again: what is waited for is done by other processes. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)


@dataclass(slots=True)
class Fleet:
    """Which workers are there, since when the frontend can use them, and which deaths nobody asked for."""

    server: Server
    talk: Talk
    names: frozenset[str]
    ready_since_s: dict[str, float] = field(default_factory=dict)
    """By name, of those that are ready; `time.monotonic`."""
    unasked: list[str] = field(default_factory=list)
    _pids: dict[str, int] = field(default_factory=dict)
    _expected: set[str] = field(default_factory=set)

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(0.2)

    async def look(self) -> None:
        now = {name: worker.pid for name, worker in self.found().items()}
        for name, pid in now.items():
            if self._pids.get(name, pid) != pid:
                if name not in self._expected:
                    self.unasked.append(name)
                self._expected.discard(name)
                self.ready_since_s.pop(name, None)
            self._pids[name] = pid
        for name in self.ready_since_s.keys() - now.keys():
            del self.ready_since_s[name]
        usable = await self.talk.ready_workers()
        for name in usable & now.keys() - self._expected:
            self.ready_since_s.setdefault(name, time.monotonic())

    def found(self) -> dict[str, Worker]:
        return workers(self.server.up_pid)

    def expect_death(self, name: str) -> None:
        """Of the process that this worker is now."""
        self._expected.add(name)
        self.ready_since_s.pop(name, None)

    def spare(self, name: str) -> None:
        """It lives on."""
        self._expected.discard(name)

    async def all_ready(self) -> None:
        """Raises TimeoutError."""
        await until(lambda: self.ready_since_s.keys() == self.names, READY_S)
