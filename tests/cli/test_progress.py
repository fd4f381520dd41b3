import io
import json
import time

from rich.console import Console

from cli.process import Phase, Status
from cli.progress import REMIND_S, Lossy, Progress


def test_without_a_terminal_changes_are_lines_and_repetition_is_not() -> None:
    written = io.StringIO()
    now = time.monotonic()
    with Progress(Console(file=written, width=40)) as progress:
        for _ in range(3):
            progress.status(Status("decode-0", Phase.STARTING, now - 3.1, "loading model"))
        progress.output("decode-0", "a line [of] any " + "length " * 20)
        progress.status(Status("decode-0", Phase.READY, now, "after 3.1 s"))
    assert written.getvalue().splitlines() == [
        "decode-0: loading model … 3.1s",
        "[decode-0] a line [of] any " + "length " * 20,
        "decode-0: ready after 3.1 s",
    ]


def test_a_process_that_takes_long_is_mentioned_again() -> None:
    written = io.StringIO()
    progress = Progress(Console(file=written))
    loading = Status("decode-0", Phase.STARTING, time.monotonic(), "loading model")
    progress.status(loading)
    progress._said["decode-0"] = (loading.phase, loading.detail, time.monotonic() - REMIND_S)
    progress.status(loading)
    assert len(written.getvalue().splitlines()) == 2


def test_on_a_terminal_the_processes_share_a_table_until_it_is_settled() -> None:
    written = io.StringIO()
    with Progress(Console(file=written, force_terminal=True, width=60)) as progress:
        progress.status(Status("decode-0", Phase.STARTING, time.monotonic(), "loading model"))
        progress.status(Status("decode-0", Phase.READY, time.monotonic(), "after 3.1 s"))
        progress.settle()
        table = written.getvalue()
        progress.status(Status("decode-0", Phase.RESTARTING, time.monotonic(), "was ended by SIGKILL"))
    assert "✓" in table
    assert "decode-0" in table
    assert "decode-0: was ended by SIGKILL" in written.getvalue().removeprefix(table)


def test_a_disk_that_is_full_ends_nobody() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

        flush = close = lambda self: None  # type: ignore[assignment]

    full = Full()
    shown = Console(file=Lossy(full), highlight=False)  # type: ignore[arg-type]
    with Progress(shown) as progress:
        for number in range(3):
            progress.output("decode-0", f"line {number}")
    Full.write = io.StringIO.write  # type: ignore[method-assign]
    progress.output("decode-0", "there is room again")
    assert full.getvalue() == "[decode-0] there is room again\n"


def test_as_json_every_line_is_an_object_that_names_its_process() -> None:
    written = io.StringIO()
    with Progress(Console(file=written, width=40, force_terminal=True), as_json=True) as progress:
        progress.status(Status("decode-0", Phase.READY, time.monotonic(), "after 3.1 s"))
        progress.output("decode-0", '{"level": "INFO", "message": "[x] ' + "long " * 20 + '"}')
        progress.output("decode-1", "a library's own words")
        progress.output("decode-1", "[1]")
    assert [json.loads(line) for line in written.getvalue().splitlines()] == [
        {"process": "decode-0", "message": "ready after 3.1 s"},
        {"process": "decode-0", "level": "INFO", "message": "[x] " + "long " * 20},
        {"process": "decode-1", "message": "a library's own words"},
        {"process": "decode-1", "message": "[1]"},
    ]
