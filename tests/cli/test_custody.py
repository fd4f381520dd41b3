import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from rich.console import Console
from typer.testing import CliRunner

from cli.__main__ import app
from cli.custody import Report, render
from engine.tls import Tls
from tests.certificates import Authority

DECODE: Report = {
    "worker_id": "decode-0",
    "num_blocks": 128,
    "free_blocks": 100,
    "cached_blocks": 20,
    "leaked_blocks": 0,
    "holders": [
        {
            "request_id": "r-17",
            "state": "running",
            "blocks": [3, 5, 8],
            "age_s": 1.25,
            "lease_s": 9.0,
            "reason": "sampling",
        }
    ],
}
PREFILL: Report = {
    "worker_id": "prefill-0",
    "num_blocks": 64,
    "free_blocks": 61,
    "cached_blocks": 0,
    "leaked_blocks": 3,
    "holders": [],
}


def rows(*reports: Report) -> list[list[str]]:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(render(list(reports)))
    return [line.split() for line in capture.get().splitlines() if line.strip()]


def test_workers_and_holders_are_listed() -> None:
    assert rows(DECODE, PREFILL) == [
        ["worker", "blocks", "free", "cached", "leaked"],
        ["decode-0", "128", "100", "20", "0"],
        ["prefill-0", "64", "61", "0", "3"],
        ["worker", "request", "state", "blocks", "age", "lease", "reason"],
        ["decode-0", "r-17", "running", "3", "1.2", "s", "9.0", "s", "sampling"],
    ]


def test_an_idle_server_says_so() -> None:
    assert rows(PREFILL)[-1] == ["no", "request", "holds", "a", "block"]


def test_a_report_that_lacks_a_field_is_still_shown() -> None:
    assert rows({"worker_id": "decode-0", "holders": [{"request_id": "r"}]})[1:] == [
        ["decode-0", "?", "?", "?", "?"],
        ["worker", "request", "state", "blocks", "age", "lease", "reason"],
        ["decode-0", "r", "?", "?", "?", "?", "?"],
    ]


def test_a_worker_that_does_not_answer_is_named_with_the_reason() -> None:
    lost: Report = {"address": "unix:/run/decode-1.sock", "error": "not connected"}
    assert rows(DECODE, lost)[3] == ["unix:/run/decode-1.sock:", "not", "connected"]


@contextmanager
def serving(body: bytes, status: int = 200, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/debug/custody" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_report_comes_from_the_frontend() -> None:
    with serving(json.dumps([DECODE]).encode()) as url:
        result = CliRunner().invoke(app, ["custody", "--url", url])
    assert result.exit_code == 0
    assert "r-17" in result.output


def test_a_failure_is_told() -> None:
    for body, status, told in ((b"{}", 200, "not a list"), (b"<html>", 200, "Expecting value"), (b"", 401, "401")):
        with serving(body, status) as url:
            result = CliRunner().invoke(app, ["custody", "--url", url])
        assert result.exit_code == 1
        assert told in result.output


def test_a_frontend_with_tls_is_believed_by_its_authority(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ours")
    own = authority.issue("server")
    with serving(json.dumps([DECODE]).encode(), tls=Tls(own.cert, own.key).context()) as url:
        believed = CliRunner().invoke(app, ["custody", "--url", url, "--ca", authority.cert])
        refused = CliRunner().invoke(app, ["custody", "--url", url])
    assert believed.exit_code == 0, believed.output
    assert "r-17" in believed.output
    assert refused.exit_code == 1
    assert "CERTIFICATE_VERIFY_FAILED" in refused.output
