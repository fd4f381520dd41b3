"""Programs that tests of deploy/ run: skipped, by name, where they are absent; on CI nothing is."""

import os
import shutil
import socket
import subprocess
from contextlib import ExitStack

import pytest


def program(name: str, package: str, how: str = "apt-get install") -> str:
    """The path of a program that `package` brings."""
    if found := shutil.which(name):
        return found
    if os.environ.get("CI"):
        pytest.fail(f"{name} is missing, and CI does not go without: {how} {package}")
    pytest.skip(f"{name} is missing: {how} {package}")


def run(*command: str) -> str:
    """Its output; fails the test, with the output, where it ends badly."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
    return done.stdout


def free_ports(count: int) -> list[int]:
    """Of loopback; nobody holds them afterwards."""
    with ExitStack() as stack:
        return [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)]
