"""Addresses that only this machine reaches, and those that need a guard."""

import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.exposure import check_guarded, is_local

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:1", "127.9.9.9:1", "localhost:0", "[::1]:5", "unix:/tmp/x", "ipc:///x", "tcp://127.0.0.1:0", "::1:5"],
)
def test_local(address: str) -> None:
    assert is_local(address)
    check_guarded(address, guarded=False, insecure=False, how="a key")


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:1", "10.0.0.1:1", "[::]:5", "example.com:80", "tcp://192.168.1.2:0", ":80", "tcp://*:0", "localhost.x:1"],
)
def test_not_local(address: str) -> None:
    assert not is_local(address)
    with pytest.raises(ConfigError, match="give a key, or say --insecure") as refused:
        check_guarded(address, guarded=False, insecure=False, how="a key")
    assert address in refused.value.message
    check_guarded(address, guarded=True, insecure=False, how="a key")
    check_guarded(address, guarded=False, insecure=True, how="a key")


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (("decode", "--listen", "0.0.0.0:0"), "--tls-ca"),
        (("decode", "--kv-listen", "tcp://10.0.0.1:0"), "--kv-peers"),
        (("prefill", "--listen", "0.0.0.0:0"), "--tls-ca"),
        (("frontend", "--decode", "127.0.0.1:1", "--host", "0.0.0.0", "--http-port", "0"), "--api-keys"),
    ],
)
def test_no_process_serves_other_machines_unguarded(arguments: tuple[str, ...], needed: str) -> None:
    command = [sys.executable, "-m", *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert needed in ended.stderr
    assert "--insecure" in ended.stderr
    assert "Traceback" not in ended.stderr
