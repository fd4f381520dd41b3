"""`tandem chaos` as it is typed; what it does is imported when it does it."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.chaos.victims import check_platform
from cli.load.options import check_suffix, refusals
from engine.errors import ConfigError


def chaos(
    url: Annotated[
        str, typer.Option(help="Of a tandem up on this machine, whose workers will be killed. Default: starts its own.")
    ] = "",
    minutes: Annotated[float, typer.Option(min=0.05, max=1440.0, help="How long workers are hurt.")] = 10.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed asks and hurts the same.")] = 0,
    model: Annotated[str, typer.Option(help="Of its own server: a folder. Default: the built-in demo model.")] = "",
    clients: Annotated[int, typer.Option(min=1, help="That ask all the time; there are bursts besides.")] = 8,
    asks: Annotated[int, typer.Option(min=1, help="Different requests; each is first answered in peace.")] = 96,
    every: Annotated[float, typer.Option(min=0.5, help="Seconds between two faults, on average.")] = 5.0,
    api_key: Annotated[str | None, typer.Option(envvar="TANDEM_API_KEY", help="If the server wants one.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="FILE.json: a row per request and per fault. The log of a server of its own is FILE.log."),
    ] = None,
) -> None:
    """Kill and stop workers under load, and check that nobody notices: every answer exact, nothing lost, nothing held.

    Exits with 0 if all is well, 1 if anything is wrong, 2 if nothing could be hurt.
    """
    terminal = Console(stderr=True, highlight=False)
    with refusals(terminal):
        check_suffix(output, ".json", "--output")
        if url and model:
            raise ConfigError("--model is for a server of its own; one with --url has its model", field="--model")
        check_platform()
        from cli.chaos.report import Config
        from cli.chaos.show import run_and_show  # gRPC, which no other command should wait for

        config = Config(
            url=url.rstrip("/"),
            model=model,
            minutes=minutes,
            seed=seed,
            num_asks=asks,
            num_clients=clients,
            every_s=every,
        )
        is_well = run_and_show(config, api_key, terminal, output)
    raise typer.Exit(0 if is_well else 1)
