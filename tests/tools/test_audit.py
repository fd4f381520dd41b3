"""The audit of what is pinned, against a service of our own."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tools.audit import PINS, main, pinned

NUM_PINS = len(pinned(PINS.read_text()))


@contextmanager
def service(answer: object) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
            assert all(query["package"]["ecosystem"] == "PyPI" and query["version"] for query in asked)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_pins_are_what_has_a_version() -> None:
    assert pinned("# a comment\n\nnumpy==2.4.6\ntorch==2.13.0  # by itself\nloose>=1\n") == [
        ("numpy", "2.4.6"),
        ("torch", "2.13.0"),
    ]
    assert NUM_PINS > 50


def test_a_vulnerability_fails_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    results: list[dict[str, object]] = [{} for _ in range(NUM_PINS)]
    with service({"results": results}) as url:
        assert main(url) == 0
    assert f"no known vulnerability in {NUM_PINS} packages" in capsys.readouterr().out
    results[3] = {"vulns": [{"id": "GHSA-1"}]}
    with service({"results": results}) as url:
        assert main(url) == 1
    name, version = pinned(PINS.read_text())[3]
    assert capsys.readouterr().err == f"{name} {version}: GHSA-1\n"


@pytest.mark.parametrize("answer", [{}, [], {"results": []}, {"results": 5}])
def test_no_answer_is_told_and_fails_nothing(answer: object, capsys: pytest.CaptureFixture[str]) -> None:
    with service(answer) as url:
        assert main(url) == 0
    assert "SKIPPED" in capsys.readouterr().out


def test_no_network_is_told_and_fails_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("http://127.0.0.1:1") == 0
    assert "SKIPPED, nothing was checked" in capsys.readouterr().out
