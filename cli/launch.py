"""Runs a deployment from first process to last: its folder, its signals, its progress, its end."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from cli.deployment import Deployment
from cli.machine import runtime_folder
from cli.process import GaveUp
from cli.progress import Progress
from cli.supervisor import Ending, Supervisor
from engine.errors import ConfigError

EXIT_STATUS = {Ending.DRAINED: 0, Ending.UNCLEAN: 1, Ending.FORCED: 130}

WhenReady = Callable[[Supervisor], Awaitable[None]]


@contextmanager
def refusals(console: Console) -> Iterator[None]:
    """Turn what cannot be served into a message and exit status 1."""
    try:
        yield
    except ConfigError as error:
        console.print(f"tandem: {error.message}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except GaveUp as error:
        console.print(f"tandem: {error}; its last lines:", style="red", markup=False, soft_wrap=True)
        for line in error.last_lines:
            console.print(f"    {line}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error


def launch(deployment: Deployment, console: Console, when_ready: WhenReady) -> int:
    """Start `deployment`, call `when_ready` once a request would succeed, wait for its end; return the exit status.

    Raises GaveUp when a process cannot be brought to run, ConfigError when there is no place for sockets.
    """
    as_json = deployment.shared.get("log_format") == "json"
    with runtime_folder(deployment.socket_names()) as folder, Progress(console, as_json=as_json) as progress:
        supervisor = Supervisor(deployment.processes(folder), progress, drain_timeout_s=deployment.drain_timeout_s)
        return EXIT_STATUS[asyncio.run(_supervise(supervisor, progress, when_ready))]


async def _supervise(supervisor: Supervisor, progress: Progress, when_ready: WhenReady) -> Ending:
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, supervisor.stop)
    running = asyncio.create_task(supervisor.run())
    try:
        if await supervisor.ready():
            progress.settle()
            await when_ready(supervisor)
    except BaseException:
        supervisor.stop()
        raise
    finally:
        ending = await running
    return ending
