"""Workers of a `tandem up` that die at exact moments: the bench of it in small. See `tests/bench/test_kills.py` too."""

import subprocess
import sys

import pytest

from tests.e2e.server import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("only", ["shm", "zeromq, tcp"])
def test_nobody_notices(only: str) -> None:
    command = [sys.executable, "-m", "bench.kills", "--kills", "6", "--only", only]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    assert "6, at 6 of" in ended.stdout
