"""One run of `tandem chaos`: watched on the terminal, then told there and in a file."""

import asyncio
import signal
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from cli.chaos.report import Config, Report, render, to_json
from cli.chaos.run import run
from engine.errors import ConfigError

INTERRUPTED = 130


def run_and_show(config: Config, api_key: str | None, terminal: Console, output: Path | None) -> bool:
    """Whether all is well. Faults go to `terminal` as they happen, the report to standard output."""

    def say(line: str) -> None:
        terminal.print(Text(line, "dim"), soft_wrap=True)

    async def until_told_to_stop() -> Report:
        task = asyncio.current_task()
        assert task is not None
        # Also then nobody is left stopped. Ctrl-C does the same by itself.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await run(config, api_key, say, output and output.with_suffix(".log"))

    try:
        report = asyncio.run(until_told_to_stop())
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("stopped: workers go on, and nothing is told of what was found so far")
        raise typer.Exit(INTERRUPTED) from None
    Console(highlight=False, soft_wrap=True).print(render(report))
    if output is not None:
        try:
            output.write_text(to_json(report), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--output: cannot write {output}: {error.strerror}", field="--output") from error
    return not report.wrong
