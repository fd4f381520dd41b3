"""One run of `tandem chaos`: watched on the terminal, then told there and in a file."""

import asyncio
from pathlib import Path

from rich.console import Console
from rich.text import Text

from cli.chaos.report import Config, render, to_json
from cli.chaos.run import run
from engine.errors import ConfigError


def run_and_show(config: Config, api_key: str | None, terminal: Console, output: Path | None) -> bool:
    """Whether all is well. Faults go to `terminal` as they happen, the report to standard output."""

    def say(line: str) -> None:
        terminal.print(Text(line, "dim"), soft_wrap=True)

    report = asyncio.run(run(config, api_key, say, output and output.with_suffix(".log")))
    Console(highlight=False, soft_wrap=True).print(render(report))
    if output is not None:
        try:
            output.write_text(to_json(report), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--output: cannot write {output}: {error.strerror}", field="--output") from error
    return not report.wrong
