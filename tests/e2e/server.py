"""Starts `tandem up` as its users do, and ends it: a server that does not end well fails the test."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
READY_S = 300.0
"""The first start on a machine compiles; others may compute there, too."""
DRAIN_S = 90.0


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

    def processes(self) -> dict[str, psutil.Process]:
        """What it runs now, by role and worker: frontend, prefill-0, decode-0, ..."""
        named = [(_name(child), child) for child in psutil.Process(self.process.pid).children(recursive=True)]
        return {name: child for name, child in named if name}

    def stop(self) -> None:
        """Drain it, if it has not ended."""
        if self.process.poll() is None:
            children = self.processes()
            self.process.send_signal(signal.SIGTERM)
            self.wait_for_its_end(children)

    def wait_for_its_end(self, children: Mapping[str, psutil.Process], status: int = 0) -> None:
        """Afterwards none of its processes is left."""
        try:
            ended_with = self.process.wait(DRAIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"tandem up did not drain within {DRAIN_S:g} s:\n{self.log.read_text()}")
        assert ended_with == status, f"tandem up exited with status {ended_with}:\n{self.log.read_text()}"
        _, left = psutil.wait_procs(children.values(), timeout=10)
        assert not left, f"processes are left of tandem up: {left}"


def _name(process: psutil.Process) -> str:
    """frontend, or what a worker is called; empty of a process that is gone or has not become either yet."""
    try:
        command = process.cmdline()
    except psutil.Error:
        return ""
    if "--worker-id" in command:
        return str(command[command.index("--worker-id") + 1])
    return "frontend" if command[1:4] == ["-P", "-m", "frontend"] else ""


@contextmanager
def tandem(*arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[Tandem]:
    """Run `tandem up ARGUMENTS` on free ports; a request would succeed now. Drained at the end."""
    with tempfile.TemporaryDirectory(prefix="tandem-e2e-") as folder:
        server = _start(arguments, environment or {}, Path(folder) / "log")
        try:
            yield server
        except BaseException:
            sys.stderr.write(server.log.read_text())
            raise
        finally:
            server.stop()


def _start(arguments: tuple[str, ...], extra: Mapping[str, str], log: Path) -> Tandem:
    command = [sys.executable, "-m", "cli", "up", "--http-port", "0", "--grpc-port", "0", *arguments]
    answer = log.with_suffix(".stdout")
    # The server decides how it runs, not the settings of the tests or of whoever runs them.
    inherited = {n: v for n, v in os.environ.items() if n != "OMP_NUM_THREADS" and not n.startswith("TANDEM_")}
    with log.open("wb") as errors, answer.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**inherited, **extra}, stdin=subprocess.DEVNULL, stdout=output, stderr=errors
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
