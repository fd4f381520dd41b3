"""The frontend's process, as far as it gets without workers: what it refuses to start with."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def frontend(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "frontend", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("option", "other"), [("--http-port", "--grpc-port"), ("--grpc-port", "--http-port")])
def test_a_port_that_is_taken_is_named(option: str, other: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = frontend("--decode", "127.0.0.1:1", option, str(port), other, "0")

    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_mounts_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        own = ("--http-port", "0", "--grpc-port", "0")
        ended = frontend("--decode", "127.0.0.1:1", *own, "--mount", "tgi=:0", "--mount", f"ollama=:{port}")

    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("mount", "why"),
    [
        ("ollama=/api", "this server has /api/"),
        ("gemini=:0", "there is no dialect 'gemini'"),
        ("tgi=/a,ollama=/a", "/a is tgi's already"),
    ],
)
def test_a_mount_that_cannot_be_is_told_with_why(mount: str, why: str) -> None:
    ended = frontend("--decode", "127.0.0.1:1", "--http-port", "0", "--grpc-port", "0", "--mount", mount)

    assert ended.returncode == 2
    assert why in ended.stderr
    assert "Traceback" not in ended.stderr


def test_nothing_of_a_frontend_that_lets_anybody_in_listens_beyond_this_machine() -> None:
    ended = frontend("--decode", "127.0.0.1:1", "--host", "0.0.0.0", "--mount", "ollama=:0")

    assert ended.returncode == 2
    assert "can be reached from other machines" in ended.stderr


def test_a_trace_ui_that_is_no_address_is_named() -> None:
    ended = frontend("--decode", "127.0.0.1:1", "--http-port", "0", "--trace-ui", "javascript:alert(1)")

    assert ended.returncode == 2
    assert "javascript:alert(1) is not http://" in ended.stderr


def test_without_a_decode_worker_it_does_not_start() -> None:
    ended = frontend("--http-port", "0", "--grpc-port", "0")

    assert ended.returncode == 2
    assert "--decode" in ended.stderr
