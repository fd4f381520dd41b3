"""A whole server, as its users start it."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
READY_S = 120.0
DRAIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Tandem:
    """A running `tandem up`."""

    process: subprocess.Popen[bytes]
    log: Path
    """What it and its workers write."""
    http: str
    """http://HOST:PORT"""
    grpc: str
    """HOST:PORT"""

    def stop(self) -> None:
        """Drain it; a server that does not end well fails the test."""
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(DRAIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            pytest.fail(f"tandem up did not drain within {DRAIN_S:g} s:\n{self.log.read_text()}")
        assert status == 0, f"tandem up exited with status {status}:\n{self.log.read_text()}"


StartTandem = Callable[..., Tandem]


@pytest.fixture(scope="session")
def tandem_up() -> Iterator[StartTandem]:
    """Starts `tandem up ARGUMENTS` on free ports, and answers once a request would succeed.

    The same arguments give the same server, which all tests of the session share; all are drained at its end.
    """
    servers: dict[tuple[str, ...], Tandem] = {}
    with tempfile.TemporaryDirectory(prefix="tandem-e2e-") as folder:

        def start(*arguments: str) -> Tandem:
            if arguments not in servers:
                servers[arguments] = _start(arguments, Path(folder) / f"{len(servers)}.log")
            return servers[arguments]

        yield start
        failures = [failure for server in servers.values() if (failure := _failure_of(server.stop))]
        assert not failures, "\n".join(failures)


def _start(arguments: tuple[str, ...], log: Path) -> Tandem:
    command = [sys.executable, "-m", "cli", "up", "--http-port", "0", "--grpc-port", "0", *arguments]
    answer = log.with_suffix(".stdout")
    # The server decides how many threads it computes with, not the settings of the tests.
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with log.open("wb") as errors, answer.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=errors
        )
    try:
        _, http, grpc = _ready_line(process, answer, log).split()
    except BaseException:
        process.kill()
        process.wait()
        raise
    return Tandem(process, log, http, grpc.removeprefix("grpc://"))


def _ready_line(process: subprocess.Popen[bytes], answer: Path, log: Path) -> str:
    deadline = time.monotonic() + READY_S
    while not (lines := answer.read_text().splitlines(keepends=True)) or not lines[0].endswith("\n"):
        if process.poll() is not None:
            pytest.fail(f"tandem up exited with status {process.returncode}:\n{log.read_text()}")
        if time.monotonic() > deadline:
            pytest.fail(f"tandem up was not ready within {READY_S:g} s:\n{log.read_text()}")
        time.sleep(0.05)
    return lines[0]


def _failure_of(stop: Callable[[], None]) -> str | None:
    try:
        stop()
    except (AssertionError, pytest.fail.Exception) as error:
        return str(error)
    return None
