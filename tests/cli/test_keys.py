"""`tandem keys`: what it makes is what servers read."""

from pathlib import Path

from typer.testing import CliRunner

from cli.__main__ import app
from frontend.callers import KeyRing, read_keys
from kvtransfer.curve import KeyPair, is_key

RUN = CliRunner()


def test_an_api_key_is_shown_once_and_kept_as_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    plain = RUN.invoke(app, ["keys", "api", "one", "--file", str(file)])
    limited = RUN.invoke(
        app,
        ["keys", "api", 'two "of\n', "--file", str(file), "--tenant", "acme", "--model", "a", "--model", "b"]
        + ["--priority", "-1", "--requests-per-minute", "60", "--tokens-per-minute", "1000.5"],
    )

    assert (plain.exit_code, limited.exit_code) == (0, 0)
    assert file.stat().st_mode & 0o077 == 0
    ring = KeyRing("", file)
    one, two = (ring.find(made.stdout.strip().encode()) for made in (plain, limited))
    assert one is not None
    assert (one.name, one.tenant, one.models) == ("one", "one", None)
    assert two is not None
    assert (two.name, two.tenant, two.models, two.priority) == ('two "of\n', "acme", frozenset("ab"), -1)
    assert (two.requests_per_minute, two.tokens_per_minute) == (60.0, 1000.5)
    assert plain.stdout.strip() not in file.read_text()


def test_a_name_is_taken_once(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    assert RUN.invoke(app, ["keys", "api", "one", "--file", str(file)]).exit_code == 0
    again = RUN.invoke(app, ["keys", "api", "one", "--file", str(file)])
    assert again.exit_code == 1
    assert "'one'" in again.stderr
    assert len(read_keys(file)) == 1


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("dear diary")
    refused = RUN.invoke(app, ["keys", "api", "one", "--file", str(file)])
    assert refused.exit_code == 1
    assert "no file of API keys" in refused.stderr
    assert file.read_text() == "dear diary"


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    refused = RUN.invoke(app, ["keys", "api", "one", "--file", str(tmp_path / "nowhere" / "keys.toml")])
    assert refused.exit_code == 1
    assert "cannot write" in refused.stderr
    assert not refused.stdout


def test_a_worker_key(tmp_path: Path) -> None:
    file = tmp_path / "kv.key"
    made = RUN.invoke(app, ["keys", "kv", str(file)])
    assert made.exit_code == 0
    public = made.stdout.strip().encode()
    assert is_key(public)
    assert KeyPair.read(file).public == public
    again = RUN.invoke(app, ["keys", "kv", str(file)])
    assert again.exit_code == 1
    assert "File exists" in again.stderr
