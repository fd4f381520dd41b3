"""`tandem custody`: who holds which KV blocks, on every worker that a frontend knows."""

import json
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from cli.launch import refusals
from cli.page import Frontend
from cli.trust import CaOption, CertOption, KeyOption, Trust

COUNTS = ("num_blocks", "free_blocks", "cached_blocks", "leaked_blocks")

Report = dict[str, object]
"""What one worker says of its blocks."""


def custody(
    url: Annotated[str, typer.Option(help="Of the frontend.")] = "http://127.0.0.1:8000",
    api_key: Annotated[str | None, typer.Option(envvar="TANDEM_API_KEY", help="If the server wants one.")] = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
) -> None:
    """Show who holds which KV blocks, since when and why."""
    with refusals(Console(stderr=True)):
        frontend = Frontend.checked(url, api_key, Trust(ca=ca, cert=cert, key=key))
    try:
        reports = _fetch(frontend)
    except (OSError, ValueError) as error:
        typer.echo(f"tandem: no custody report from {url}: {error}", err=True)
        raise typer.Exit(1) from error
    Console().print(render(reports))


def _fetch(frontend: Frontend) -> list[Report]:
    reports = json.loads(frontend.read("/debug/custody"))
    if not isinstance(reports, list):
        raise ValueError("the answer is not a list of workers")
    return reports


def render(reports: list[Report]) -> Group:
    """A table of workers, then one of the requests that hold blocks."""
    workers = Table("worker", box=None, pad_edge=False)
    for count in COUNTS:
        workers.add_column(count.removesuffix("_blocks").replace("num", "blocks"), justify="right")
    for report in reports:
        workers.add_row(_worker(report), *(_count(report, count) for count in COUNTS))
    unheard = [Text(f"{_worker(report)}: {report['error']}", "red") for report in reports if "error" in report]
    return Group(workers, *unheard, Text(), _holders(reports))


def _holders(reports: list[Report]) -> Table | Text:
    held = [(report, holder) for report in reports for holder in _list(report.get("holders"))]
    if not held:
        return Text("no request holds a block", "dim")
    table = Table("worker", "request", "state", box=None, pad_edge=False)
    table.add_column("blocks", justify="right")
    table.add_column("age", justify="right")
    table.add_column("lease", justify="right")
    table.add_column("reason")
    for report, holder in held:
        words = [_word(holder, name) for name in ("request_id", "state")]
        times = [_seconds(holder.get(name)) for name in ("age_s", "lease_s")]
        table.add_row(_worker(report), *words, _count(holder, "blocks"), *times, _word(holder, "reason"))
    return table


def _list(value: object) -> list[Report]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _worker(report: Report) -> str:
    return str(report.get("worker_id") or report.get("address", "?"))


def _word(report: Report, name: str) -> str:
    return str(report.get(name, "?"))


def _count(report: Report, name: str) -> Text:
    value = report.get(name, "?")
    count = len(value) if isinstance(value, list) else value  # block ids, or how many
    return Text(str(count), "bold red" if name == "leaked_blocks" and count else "")


def _seconds(value: object) -> str:
    return f"{value:.1f} s" if isinstance(value, int | float) else "?"
