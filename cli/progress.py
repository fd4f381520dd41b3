"""Shows processes as they start and what they write: a live table on a terminal, plain lines elsewhere, or all of it as
JSON, an object per line."""

import json
import time
from contextlib import suppress
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from cli.process import Phase, Status

REMIND_S = 10.0
"""Without a terminal, how often a process that is still starting is mentioned again."""


class Lossy:
    """A text stream that drops what cannot be written, on a disk that is full or to a reader that is gone: who shows
    lines of others must not end with that."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


class Progress:
    """A Reporter. Until `settle`, starting processes share a live table (if `console` is a terminal)."""

    def __init__(self, console: Console, *, as_json: bool = False) -> None:
        """`as_json` is for processes whose own lines are JSON."""
        self._console = console
        self._as_json = as_json
        self._statuses: dict[str, Status] = {}
        self._spinner = Spinner("dots")
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=8)
        self._is_live = console.is_terminal and not as_json
        self._said: dict[str, tuple[Phase, str, float]] = {}

    def __enter__(self) -> "Progress":
        if self._is_live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.settle()

    def settle(self) -> None:
        """Leave the table as it stands; from now on, changes are lines."""
        if self._is_live:
            self._is_live = False
            self._live.stop()

    def status(self, status: Status) -> None:
        self._statuses[status.name] = status
        if not self._is_live and self._is_news(status):
            words = _words(status)
            if self._as_json:
                self._say(_object(status.name, words))
            else:
                self._say(f"{status.name}: {words}", "dim")

    def output(self, name: str, line: str) -> None:
        self._say(_object(name, line) if self._as_json else f"[{name}] {line}")

    def _is_news(self, status: Status) -> bool:
        now = time.monotonic()
        phase, detail, said_s = self._said.get(status.name, (None, "", 0.0))
        if (phase, detail) == (status.phase, status.detail) and now - said_s < REMIND_S:
            return False
        self._said[status.name] = (status.phase, status.detail, now)
        return True

    def _say(self, line: str, style: str = "") -> None:
        # soft_wrap: a log line is one line, however narrow the terminal is.
        self._console.print(Text(line, style), soft_wrap=True)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 1))
        for status in self._statuses.values():
            table.add_row(self._mark(status.phase), status.name, Text(_words(status), "dim"))
        return table

    def _mark(self, phase: Phase) -> Text | Spinner:
        match phase:
            case Phase.READY:
                return Text("✓", "green")
            case Phase.STARTING:
                return self._spinner
            case _:
                return Text("·", "yellow")


def _object(name: str, line: str) -> str:
    """A line of a process, which may be an object already."""
    try:
        told = json.loads(line)
    except ValueError:
        told = None
    return json.dumps({"process": name, **(told if isinstance(told, dict) else {"message": line})})


def _words(status: Status) -> str:
    if status.phase is Phase.STARTING:
        return f"{status.detail or 'starting'} … {time.monotonic() - status.since_s:.1f}s"
    if status.phase is Phase.RESTARTING:
        return status.detail
    return f"{status.phase} {status.detail}".rstrip()
