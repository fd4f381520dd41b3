"""One run of `tandem bench`: watched on the terminal, then told there and in files. Its options are checked before."""

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn

from cli.load.config import InterferenceConfig, LoadConfig
from cli.load.interference import InterferenceResult, run_interference
from cli.load.options import refusals
from cli.load.overview import overview
from cli.load.plot import page
from cli.load.report import render, to_json
from cli.load.run import Result, run_load
from engine.errors import ConfigError


def run_and_show(
    config: LoadConfig | InterferenceConfig, terminal: Console, output: Path | None, plot: Path | None
) -> Result | InterferenceResult:
    """Progress and refusals go to `terminal`, the report to standard output."""
    with refusals(terminal):
        result = _watch(config, terminal)
    Console(highlight=False).print(render(overview(result)))
    with refusals(terminal):
        if output is not None:
            _write(output, to_json(result), "--output")
        if plot is not None:
            _write(plot, page(result), "--plot")
    return result


def _watch(config: LoadConfig | InterferenceConfig, terminal: Console) -> Result | InterferenceResult:
    if isinstance(config, InterferenceConfig):
        return _watch_phases(config, terminal)
    return _watch_requests(config, terminal)


def _progress(terminal: Console, *columns: ProgressColumn) -> Progress:
    """A bar that leaves nothing behind, and is not drawn into files."""
    # Four times a second: what the bar costs is taken from the server on a small machine.
    return Progress(*columns, console=terminal, transient=True, refresh_per_second=4, disable=not terminal.is_terminal)


def _watch_requests(config: LoadConfig, terminal: Console) -> Result:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with _progress(terminal, *columns) as progress:
        task = progress.add_task("warm-up", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, description="requests", completed=done, total=total)

        return run_load(config, show)


def _watch_phases(config: InterferenceConfig, terminal: Console) -> InterferenceResult:
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with _progress(terminal, *columns) as progress:
        task = progress.add_task("connecting", total=None)
        return run_interference(
            config, lambda phase, seconds: progress.update(task, description=f"{phase} {seconds:g} s")
        )


def _write(path: Path, text: str, option: str) -> None:
    """Raises ConfigError where it cannot be written."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{option}: cannot write {path}: {error.strerror}", field=option) from error
