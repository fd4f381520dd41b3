"""Every kernel compiles for the GPUs it is for, keeps to registers, and fits into their shared memory."""

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import pytest

if importlib.util.find_spec("triton") is not None:
    from engine.kernels.gpu.compiled import SHARED_BYTES
    from tests.gpu.cross_compile import cases

    CASES = {case.name: case for case in cases()}
else:
    CASES = {}

pytestmark = pytest.mark.usefixtures("needs_triton")


@pytest.fixture(scope="module")
def found(needs_triton: None) -> dict[str, dict[str, Any]]:
    """By name, what each takes or the error it met: compiled in one process, which is not in the interpreter."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-m", "tests.gpu.cross_compile", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line.pop("name"): line for line in lines}


def test_kernels_are_found() -> None:
    assert CASES


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_compiles_without_spills(name: str, found: dict[str, dict[str, Any]]) -> None:
    taken = found[name]

    assert "error" not in taken
    assert taken["spill_bytes"] == 0
    assert taken["shared_bytes"] <= SHARED_BYTES[CASES[name].capability]


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_that_is_launched_early_waits_before_it_touches_memory(
    name: str, found: dict[str, dict[str, Any]]
) -> None:
    is_early = CASES[name].compiled.constants.get("EARLY", False)
    assert found[name]["awaits"] is (True if is_early else None)


def test_some_kernels_are_launched_early() -> None:
    assert sum(bool(case.compiled.constants.get("EARLY")) for case in CASES.values()) >= 9


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_is_not_compiled_anew_while_requests_wait(name: str, found: dict[str, dict[str, Any]]) -> None:
    """What it is specialized for stays as it is while a model is served."""
    assert not {"count", "num_rows", "table_stride"} & set(found[name]["specialized"])
