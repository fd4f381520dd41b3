import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from cli.__main__ import app
from tests.cli.test_supervisor import ROOT

HEAVY = {"torch", "transformers", "numba", "triton", "huggingface_hub", "numpy", "uvloop"}


def test_help_imports_nothing_heavy() -> None:
    script = f"""
import sys
from cli.__main__ import main
sys.argv[1:] = ["--help"]
try:
    main()
finally:
    assert not {HEAVY!r} & set(sys.modules), sorted(sys.modules)
"""
    shown = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for command in ("up", "demo", "chat", "custody", "bench", "chaos", "frontend", "prefill", "decode"):
        assert f" {command} " in shown


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--quantization", "int4"),
        ("--kv-cache-dtype", "fp4"),
        ("--device", "tpu"),
        ("--dtype", "fp8"),
        ("--transport", "nccl"),
        ("--decode", "0"),
        ("--prefill", "-1"),
        ("--http-port", "70000"),
        ("--block-tokens", "0"),
        ("--chat-template", "/nowhere.jinja"),
        ("--log-level", "loud"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(option: str, value: str) -> None:
    result = CliRunner().invoke(app, ["up", option, value])
    assert result.exit_code == 2
    assert f"Invalid value for '{option}'" in result.output


def test_a_role_takes_the_place_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda path, command, environment: became.append(command))
    CliRunner().invoke(app, ["decode", "--model", "m", "--help"])
    assert became == [[sys.executable, "-P", "-m", "decode", "--model", "m", "--help"]]
