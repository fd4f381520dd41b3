"""`tandem demo`: starts a server with the built-in model, asks it one question, shows the answer and its ledger."""

import asyncio

import typer
from rich.console import Console

from cli.chat import Conversation
from cli.client import Choices, Client, Server
from cli.deployment import Deployment
from cli.launch import launch, refusals
from cli.machine import take_ports
from cli.supervisor import Supervisor
from cli.up import QUESTION


def demo() -> None:
    """Start the built-in model, ask one question, show the answer and where its time went, and stop."""
    console = Console(stderr=True, highlight=False)
    answered = False
    with refusals(console):
        ports = take_ports("127.0.0.1", {"--http-port": 0, "--grpc-port": 0})
        deployment = Deployment(
            http_port=ports["--http-port"],
            grpc_port=ports["--grpc-port"],
            shared={"log_level": "warning"},
            drain_timeout_s=10.0,
        )

        async def ask(supervisor: Supervisor) -> None:
            nonlocal answered
            answered = await asyncio.to_thread(_ask, deployment)
            supervisor.stop()

        status = launch(deployment, console, ask)
    raise typer.Exit(status or (0 if answered else 1))


def _ask(deployment: Deployment) -> bool:
    print(f"\n> {QUESTION}")
    with Client(Server(deployment.grpc_address)) as client:
        console = Console(highlight=False)
        return Conversation(client, Choices(temperature=0.0), [], console, timing=True).ask(QUESTION)
