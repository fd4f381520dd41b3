"""`tandem explain`: where the time of one request went, drawn, and which workers had it and why."""

import urllib.parse
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from cli.launch import refusals
from cli.page import Frontend
from cli.trust import CaOption, CertOption, KeyOption, Trust
from cli.waterfall import waterfall
from frontend.records import RequestRecord


def explain(
    request_id: Annotated[str, typer.Argument(help="As the answer, x-request-id or tandem top tells it.")],
    url: Annotated[str, typer.Option(help="Of the frontend.")] = "http://127.0.0.1:8000",
    as_json: Annotated[bool, typer.Option("--json", help="The record as it is.")] = False,
    api_key: Annotated[str | None, typer.Option(envvar="TANDEM_API_KEY", help="If the server wants one.")] = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
) -> None:
    """Draw where the time of a request went.

    The frontend keeps its latest, slowest and failed requests for a while, without what was asked or answered.
    """
    with refusals(Console(stderr=True)):
        frontend = Frontend.checked(url, api_key, Trust(ca=ca, cert=cert, key=key))
    try:
        body = frontend.read(f"/debug/requests/{urllib.parse.quote(request_id, safe='')}")
        record = msgspec.json.decode(body, type=RequestRecord)
    except (OSError, ValueError) as error:
        typer.echo(f"tandem: {url} does not explain {request_id}: {error}", err=True)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(body.decode())
    else:
        console = Console(highlight=False)
        console.print(waterfall(record, console.width), soft_wrap=False)
