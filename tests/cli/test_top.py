"""The live view: what it shows in how much room, and what it does when the server is away."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from cli.__main__ import app
from cli.screen import screen
from frontend.minute import LastMinute, Minute
from frontend.status import ServerStatus
from tests.cli.pages import serving
from tests.statuses import NOW_S, record, status, worker

ROOT = Path(__file__).resolve().parents[2]


def shown(made: ServerStatus, width: int = 80, height: int | None = 24) -> list[str]:
    return [line.plain.rstrip() for line in screen(made, width, height)]


SCREEN = """\
tandem 0.1.0 · demo · ready · up 1 h 2 min · 14 under way · 3/1024 queued
last 60 s · 2.1 answers/s · 134 tokens/s · prompts 1,700 tokens/s, 31% cached
without an answer: overloaded 3, cancelled 1
worker              batch      waiting  pool           speed
decode-1          decode: a step has not ended for 12 s
decode-0            12/64            0  ██▌·····  32%  15.2 ms/step, 789 tok/s
prefill-0            2/64  5, 6400 tok  ██▌·····  32%  5,400 tok/s, KV 1.9 GB/s
prefill-1            0/64            0  ██▌·····  32%  5,400 tok/s, KV 1.9 GB/s
time to first token 180 ms · p50 150 ms · p95 420 ms · max 1.90 s
 admit             0.1 ms   0% ▏         prefill_queue    22.0 ms  12% █▏
 tokenize          1.4 ms   1% ▏         prefill_compute   148 ms  82% ███████▍
 route             0.1 ms   0% ▏         transfer_wait     0.0 ms   0%
 grant             6.5 ms   4% ▍         egress            1.9 ms   1% ▏
slowest to a first token; tandem explain ID
req-000000000000000000000000      1.90 s   8% prefill_compute   812 tok    12 s
req-000000000000000000000001      1.80 s   8% prefill_compute   812 tok    12 s
req-000000000000000000000002      1.70 s   9% prefill_compute   812 tok    12 s
req-000000000000000000000003      1.60 s   9% prefill_compute   812 tok    12 s
req-000000000000000000000004      1.50 s  10% prefill_compute   812 tok    12 s
req-000000000000000000000005      1.40 s  11% prefill_compute   812 tok    12 s
the router's latest: who computed the prompt → who the answer
  0 s  prefill-1 → decode-0        local 212 ms +48.0 ms  remote 168 ms
  1 s  local → decode-1            no prefill worker can take it
  2 s  prefill-1 → decode-0        local 212 ms +48.0 ms  remote 168 ms
"""


def test_everything_fits_a_small_terminal() -> None:
    assert shown(status()) == SCREEN.splitlines()


@pytest.mark.parametrize("height", [24, 30, 50, 200])
@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("num_workers", [0, 1, 5, 40])
def test_it_keeps_to_the_room_and_shows_all_kinds(width: int, height: int, num_workers: int) -> None:
    names = [f"{role}-{number}" for number in range(num_workers) for role in ("decode", "prefill")]
    lines = shown(status(workers=[worker(name) for name in names]), width, height)
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    for kind in ("worker ", "time to first token", "slowest to", "the router's latest", "prefill-1 → decode-0"):
        assert kind in text
    seen = sum(re.match(r"(decode|prefill)-\d+ ", line) is not None for line in lines)
    hidden = re.search(r"(\d+) more workers", text)
    assert seen + (int(hidden[1]) if hidden else 0) == len(names)


def test_a_pipe_gets_all_there_is() -> None:
    lines = shown(status(workers=[worker(f"decode-{n}") for n in range(40)]), height=None)
    assert sum(line.startswith("decode-") for line in lines) == 40
    assert sum(line.startswith("req-") for line in lines) == 6


def test_those_in_need_come_first() -> None:
    workers = [worker(f"decode-{n}") for n in range(20)] + [worker("prefill-9", ready=False, state="not connected")]
    lines = shown(status(workers=workers))
    assert lines[4].split() == ["prefill-9", "prefill:", "not", "connected"]


def test_a_worker_that_is_away_is_told_by_the_end_of_its_address() -> None:
    away = worker("decode-0", worker_id="", address="unix:/tmp/a-long-folder/decode-0.sock", ready=False)
    assert shown(status(workers=[away]))[4].startswith("…r/decode-0.sock  decode: not ready")


def test_a_leak_is_shown() -> None:
    assert any("3 leaked" in line for line in shown(status(workers=[worker("decode-0", leaked_blocks=3)])))


def test_a_server_that_has_done_nothing() -> None:
    idle = status(
        ready=False, reason="no decode worker is ready", workers=[], slowest=[], decisions=[], last_minute=nothing()
    )
    lines = shown(idle)
    assert "not ready: no decode worker is ready" in lines[0]
    assert lines.count("none yet") == 2
    assert "no first token in the last minute" in lines


def nothing() -> LastMinute:
    return Minute().summary()


def test_names_of_any_length_leave_columns_where_they_are() -> None:
    long = worker("decode-" + "x" * 60, queued=1000, queued_tokens=5_000_000)
    slow = record(ttft_ms=3_600_000.0, prompt_tokens=10_000_000, arrived_s=NOW_S - 90_000)
    for line in shown(status(workers=[long], slowest=[slow])):
        assert len(line) <= 80


# -- the command -------------------------------------------------------------------------------------------------------


def test_one_look_into_a_pipe() -> None:
    with serving({"/debug/status": msgspec.json.encode(status())}, key="secret") as url:
        plain = CliRunner().invoke(app, ["top", "--url", url, "--api-key", "secret"])
        once = CliRunner().invoke(app, ["top", "--url", url, "--api-key", "secret", "--once"])
        wrong = CliRunner().invoke(app, ["top", "--url", url])
    assert plain.exit_code == 0, plain.output
    assert plain.output == once.output
    assert "\x1b" not in plain.output
    assert "decode-0" in plain.output
    assert wrong.exit_code == 1
    assert "401 the API key is wrong" in wrong.output


def test_json_is_the_servers_own() -> None:
    with serving({"/debug/status": msgspec.json.encode(status())}) as url:
        result = CliRunner().invoke(app, ["top", "--url", url, "--json"])
    assert msgspec.json.decode(result.output, type=ServerStatus) == status()


def test_what_newer_servers_tell_besides_is_no_harm() -> None:
    told = {**msgspec.to_builtins(status()), "more": 1}
    with serving({"/debug/status": msgspec.json.encode(told)}) as url:
        assert CliRunner().invoke(app, ["top", "--url", url]).exit_code == 0


@pytest.mark.parametrize("url", ["localhost:8000", "http://127.0.0.1:1"])
def test_a_server_that_cannot_be_reached_is_said_to_be(url: str) -> None:
    result = CliRunner().invoke(app, ["top", "--url", url, "--once"])
    assert result.exit_code == 1
    assert f"no status from {url}" in result.output


def test_live_until_ctrl_c_even_if_the_server_goes() -> None:
    pages = {"/debug/status": msgspec.json.encode(status())}
    with serving(pages) as url, live("--url", url, "--interval", "0.1") as terminal:
        assert "decode-0" in terminal.until("the router's latest")
        pages.clear()
        assert "404 no such record" in terminal.until("404 no such record")
        pages["/debug/status"] = msgspec.json.encode(status(models=["back again"]))
        terminal.until("back again")
        terminal.process.send_signal(signal.SIGINT)
        terminal.rest()
        assert terminal.process.wait(20) == 0


class Terminal:
    """What a process writes to a terminal of 80 by 24."""

    def __init__(self, process: "subprocess.Popen[bytes]", descriptor: int) -> None:
        self.process = process
        self._descriptor = descriptor

    def until(self, wanted: str) -> str:
        """What is written until `wanted` is."""
        text, ends_at = "", time.monotonic() + 60
        while wanted not in text:
            assert time.monotonic() < ends_at, f"{wanted!r} is not in {text!r}"
            if select.select([self._descriptor], [], [], 1.0)[0]:
                text += os.read(self._descriptor, 1 << 16).decode(errors="replace")
        return text

    def rest(self) -> None:
        """Take in what is still written, so that nobody waits for us."""
        ends_at = time.monotonic() + 60
        try:
            while time.monotonic() < ends_at:
                if select.select([self._descriptor], [], [], 1.0)[0] and not os.read(self._descriptor, 1 << 16):
                    return
        except OSError:  # so a terminal says that the other side has gone
            return
        raise AssertionError("it does not end")


@contextmanager
def live(*arguments: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "cli", "top", *arguments]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24", "PYTHONPATH": str(ROOT)}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # who tests in the background has it ignored
    try:
        process = subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    finally:
        signal.signal(signal.SIGINT, before)
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
