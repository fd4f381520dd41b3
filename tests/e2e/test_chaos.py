"""`tandem chaos` as its users run it, on a server of its own and on one that is there."""

import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.e2e.clients import PATIENCE_S, STORIES, model_folder
from tests.e2e.server import ROOT, Tandem, tandem

pytestmark = pytest.mark.slow


def chaos(output: Path, *arguments: str) -> dict[str, object]:
    """Run it, and give what it wrote; it must find that all is well."""
    command = [sys.executable, "-m", "cli", "chaos", "--output", str(output), "--every", "2", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all is well" in done.stdout
    report = json.loads(output.read_text())
    assert isinstance(report, dict)
    return report


def test_a_server_that_is_there(tmp_path: Path) -> None:
    with tandem("--model", model_folder(STORIES), "--prefill", "2", "--decode", "2") as server:
        before = server.processes()
        report = chaos(
            tmp_path / "report.json", "--url", server.http, "--minutes", "0.3", "--asks", "32", "--seed", "1"
        )
        after = server.processes()
    faults = report["faults"]
    assert isinstance(faults, list)
    killed = {fault["victim"] for fault in faults if fault["action"] == "kill" and fault["state"] == "done"}
    assert killed, "the seed's schedule kills nobody"
    assert {name for name in before if before[name].pid != after[name].pid} == killed


def test_a_server_of_its_own_and_its_links(tmp_path: Path) -> None:
    arguments = ("--model", model_folder(STORIES), "--minutes", "0.3", "--asks", "32", "--seed", "2")
    report = chaos(tmp_path / "report.json", *arguments)
    faults = report["faults"]
    assert isinstance(faults, list)
    assert {fault["action"] for fault in faults if fault["state"] == "done"} & {"cut", "delay", "corrupt"}


def test_ending_it_leaves_nobody_stopped() -> None:
    with tandem("--model", model_folder(STORIES), "--prefill", "2", "--decode", "2") as server:
        command = [sys.executable, "-m", "cli", "chaos", "--url", server.http, "--minutes", "10", "--every", "0.5"]
        running = subprocess.Popen([*command, "--asks", "8"], cwd=ROOT, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + PATIENCE_S
            while psutil.STATUS_STOPPED not in (statuses := states(server)):
                assert running.poll() is None
                assert time.monotonic() < deadline, f"nobody was stopped: {statuses}"
                time.sleep(0.02)
        finally:
            running.terminate()
            status = running.wait(PATIENCE_S)
        assert status == 130
        assert psutil.STATUS_STOPPED not in states(server)


def states(server: Tandem) -> set[str]:
    found = set()
    for process in server.processes().values():
        with suppress(psutil.NoSuchProcess):  # killed meanwhile
            found.add(process.status())
    return found
