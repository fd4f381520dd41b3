"""The doctor for real, on the machine that runs the tests."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping

import msgspec
import pytest

from cli.doctor.findings import Finding, Level
from cli.doctor.machine import cores, cpu, limits, memory, taken_ports
from frontend.status import ServerStatus
from tests.cli.pages import serving
from tests.cli.test_supervisor import ROOT
from tests.statuses import status


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "cli", "doctor", *arguments],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def levels(findings: list[Finding]) -> Mapping[str, set[Level]]:
    areas = {finding.area for finding in findings}
    return {area: {finding.level for finding in findings if finding.area == area} for area in areas}


def test_facts_of_this_machine() -> None:
    assert cpu().name
    assert 1 <= cores().usable <= cores().present
    assert memory().usable_bytes > 0
    assert limits().open_files > 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert taken_ports("127.0.0.1", [port]) == [port]
    assert taken_ports("127.0.0.1", [port]) == []


@pytest.mark.slow
def test_on_this_machine_and_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("--json", "--http-port", port, "--grpc-port", "0", "--kv-memory-mb", "16")
    findings = msgspec.json.decode(done.stdout, type=list[Finding])
    found = levels(findings)
    assert found["ports"] == {Level.FAILURE}
    assert done.returncode == 1
    assert found["model"] == found["python"] == {Level.OK}
    assert {"packages", "cpu", "cores", "gpu", "files", "shm", "memory", "links"} <= found.keys()
    assert [f.says.partition(":")[0] for f in findings if f.area == "links"] == ["shm", "ipc", "tcp"]


@pytest.mark.slow
def test_a_server_beside_it() -> None:
    made: ServerStatus = status()
    with serving({"/debug/status": msgspec.json.encode(made)}) as url:
        done = run("--url", url, "--kv-memory-mb", "16")
        assert "version 0.1.0 is ready" in done.stdout
        assert "the frontend's clock is" in done.stdout, "the page's time is far away, and is told so"
        assert "are free" not in done.stdout, "its ports are taken, by itself"
        assert done.returncode == ("✗" in done.stdout)
    gone = run("--url", url, "--json", "--kv-memory-mb", "16")
    assert gone.returncode == 1
    assert any(each["area"] == "server" and each["level"] == "failure" for each in json.loads(gone.stdout))
