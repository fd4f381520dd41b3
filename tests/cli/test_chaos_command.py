"""`tandem chaos` as it is typed: what is refused before anything is hurt."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.__main__ import app


def chaos(*args: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["chaos", *args])


@pytest.fixture
def stranger() -> Iterator[str]:
    """The address of a server that is no tandem up."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def refusal(*args: str) -> str:
    result = chaos(*args)
    assert result.exit_code == 2, result.output
    return result.output


def test_a_server_elsewhere_is_refused() -> None:
    assert "only workers of this machine can be killed" in refusal("--url", "http://192.0.2.1:8000")


def test_an_address_without_a_server_is_refused() -> None:
    assert "no process of ours listens on port 1:" in refusal("--url", "http://127.0.0.1:1")


def test_a_server_that_tandem_up_did_not_start_is_refused(stranger: str) -> None:
    assert "which tandem up did not start" in refusal("--url", stranger)


def test_options_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    assert "--model is for a server of its own" in refusal("--url", "http://127.0.0.1:1", "--model", "x")
    assert "--output writes .json" in refusal("--output", str(tmp_path / "x.txt"))


@pytest.mark.parametrize(
    ("option", "value"), [("--minutes", "0"), ("--every", "0"), ("--clients", "0"), ("--seed", "-1")]
)
def test_values_out_of_range_are_refused_by_name(option: str, value: str) -> None:
    assert f"Invalid value for '{option}'" in refusal(option, value)


def test_another_system_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.chaos.victims.sys.platform", "darwin")
    assert "this is darwin" in refusal()
