"""Options that make no sense: each is named, no value is shown, and the status says that trying again is no use."""

import pytest

from engine.config import WorkerConfig
from engine.options import parse_options


def test_options_become_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["decode", "--lease-s", "3", "--drain-timeout-s", "0"])
    config = parse_options(WorkerConfig, "decode")
    assert (config.lease_s, config.drain_timeout_s) == (3, 0)


def test_what_makes_no_sense_is_named_without_its_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["decode", "--lease-s", "s3cret"])
    monkeypatch.setenv("TANDEM_NUM_BLOCKS", "-1")
    with pytest.raises(SystemExit) as ended:
        parse_options(WorkerConfig, "decode")
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert "decode: --lease-s: " in told
    assert "decode: --num-blocks: " in told
    assert "s3cret" not in told
