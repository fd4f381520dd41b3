"""`tandem top`: a server's workers, queues and slowest requests in the terminal, anew every second.

Where the output is no terminal, or with --once or --json, one look is printed.
"""

import sys
import time
from typing import Annotated

import msgspec
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from cli.launch import refusals
from cli.page import Frontend
from cli.screen import screen
from cli.trust import CaOption, CertOption, KeyOption, Trust
from frontend.status import ServerStatus

TIMEOUT_S = 5.0


def top(
    url: Annotated[str, typer.Option(help="Of the frontend.")] = "http://127.0.0.1:8000",
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one look and end, as into a pipe.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One look, as the server tells it.")] = False,
    api_key: Annotated[str | None, typer.Option(envvar="TANDEM_API_KEY", help="If the server wants one.")] = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
) -> None:
    """Watch workers, queues, the time to the first token and the router. Ctrl-C ends it.

    The slowest requests and the router's decisions are those of this key; of all keys, if it is the server's own.
    """
    with refusals(Console(stderr=True)):
        frontend = Frontend.checked(url, api_key, Trust(ca=ca, cert=cert, key=key))
    console = Console(highlight=False)
    if once or as_json or not console.is_terminal:
        _print(frontend, console, as_json=as_json)
        return
    try:
        _watch(frontend, console, interval)
    except KeyboardInterrupt:
        return


def _look(frontend: Frontend) -> bytes:
    return frontend.read("/debug/status", TIMEOUT_S)


def _print(frontend: Frontend, console: Console, *, as_json: bool) -> None:
    try:
        body = _look(frontend)
        status = msgspec.json.decode(body, type=ServerStatus)
    except (OSError, ValueError) as error:
        typer.echo(f"tandem: no status from {frontend.url}: {error}", err=True)
        raise typer.Exit(1) from error
    if as_json:
        sys.stdout.write(body.decode() + "\n")
    else:
        console.print(Group(*screen(status, console.width, None)))


def _watch(frontend: Frontend, console: Console, interval_s: float) -> None:
    """Until Ctrl-C. A server that is away is asked again: whoever watches a restart wants to see its end."""
    lines: list[Text] = []
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            try:
                status = msgspec.json.decode(_look(frontend), type=ServerStatus)
                lines = screen(status, console.width, console.height)
            except (OSError, ValueError) as error:
                lines = [Text(f"no status from {frontend.url}: {error}", "bold red"), *lines[1:]]
            live.update(Group(*lines[: console.height]), refresh=True)
            time.sleep(interval_s)
