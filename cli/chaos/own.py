"""A `tandem up` of our own to be hurt: two workers of each role, little memory, KV over sockets that a proxy can take.

It is the program its users start, as a process of its own: what it takes of the machine is measured, too.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cli.environment import child_environment
from engine.errors import ConfigError
from engine.leash import leashed

READY_S = 300.0
DRAIN_S = 60.0
LAST_LINES = 20
# Small, so that prompts take several steps and transfers, blocks are evicted, and requests wait and are preempted.
OPTIONS = ("--prefill", "2", "--decode", "2", "--transport", "ipc", "--max-step-tokens", "64", "--max-sequences", "12")
DEMO_OPTIONS = ("--kv-memory-mb", "16")
REMOTE = {"TANDEM_ALWAYS_REMOTE": "true"}
"""Short prompts cross the KV links as well."""


@asynccontextmanager
async def own_server(model: str, log: Path) -> AsyncIterator[str]:
    """Run one, and give its address once a request would succeed. Drained at the end. Raises ConfigError."""
    memory = ("--model", model) if model else DEMO_OPTIONS
    command = (sys.executable, "-P", "-m", "cli", "up", "--http-port", "0", "--grpc-port", "0", *OPTIONS, *memory)
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *leashed(*command),
            env=child_environment(**REMOTE),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            process_group=0,
        )
    try:
        yield await _address(process, log)
    finally:
        await _end(process)


async def _address(process: asyncio.subprocess.Process, log: Path) -> str:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(READY_S):
            words = (await process.stdout.readline()).decode().split()
    except TimeoutError:
        words = []
    if words[:1] != ["ready"]:
        raise ConfigError(f"tandem up did not get ready; its last lines:\n{_last_lines(log)}")
    return words[1]


def _last_lines(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), DRAIN_S)
    except TimeoutError:
        process.kill()  # what it started goes with it
        await process.wait()
