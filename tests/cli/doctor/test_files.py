"""Files that a deployment is given: real keys, certificates and folders, some of them spoiled."""

import json
import shutil
import time
from pathlib import Path

import pytest

from cli.doctor.files import SOON_S, check_api_keys, check_private, check_tls, look_at_model
from cli.doctor.findings import Level
from engine.hub import DEMO_MODEL
from tests.certificates import Authority

OK, WARNING, FAILURE = Level.OK, Level.WARNING, Level.FAILURE


@pytest.mark.parametrize(
    ("mode", "level"),
    [(0o600, OK), (0o400, OK), (0o640, WARNING), (0o660, FAILURE), (0o604, FAILURE), (0o644, FAILURE)],
)
def test_who_may_read_a_key(tmp_path: Path, mode: int, level: Level) -> None:
    (key := tmp_path / "own.key").write_text("secret")
    key.chmod(mode)
    found = check_private(key, "a key")
    assert found.level is level
    assert (level is OK) or f"chmod 600 {key}" == found.change


def test_a_key_that_is_not_there(tmp_path: Path) -> None:
    assert check_private(tmp_path / "none", "a key").level is FAILURE


def test_certificates(tmp_path: Path) -> None:
    """Those of tests last two days."""
    authority = Authority(tmp_path, "ca")
    made = authority.issue("server")
    cert, key = Path(made.cert), Path(made.key)
    key.chmod(0o600)
    now_s, two_days_s = time.time(), 2 * 86400.0
    for at_s, level, word in (
        (now_s + two_days_s - SOON_S - 3600, OK, "fit together, until"),
        (now_s, WARNING, "ends on"),
        (now_s + two_days_s + 3600, FAILURE, "ended on"),
    ):
        _, found = check_tls(cert, key, Path(authority.cert), at_s)
        assert (found.level, word in found.says) == (level, True)
    other = Path(authority.issue("other").cert)
    assert [found.level for found in check_tls(other, key, None, now_s)] == [OK, FAILURE]


def test_files_of_api_keys(tmp_path: Path) -> None:
    (file := tmp_path / "keys.toml").write_text(f'[[key]]\nname = "a"\nsha256 = "{"0" * 64}"\n')
    file.chmod(0o644)
    assert [found.level for found in check_api_keys(file)] == [OK]
    file.chmod(0o664)
    assert [found.level for found in check_api_keys(file)] == [FAILURE]
    file.write_text("[[key]]\nnome = 1\n")
    assert [found.level for found in check_api_keys(file)] == [FAILURE]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO_MODEL, tmp_path / "model"))


def test_a_model_that_can_be_served(folder: Path) -> None:
    facts = look_at_model(folder)
    assert [found.level for found in facts.findings] == [OK, OK]
    assert facts.num_parameters > 0
    config = json.loads((folder / "config.json").read_text())
    heads, layers = config["num_key_value_heads"], config["num_hidden_layers"]
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    assert facts.kv_bytes_per_token == 2 * layers * heads * head_dim * 4


def test_a_download_that_was_not_finished(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    (found,) = look_at_model(folder).findings
    assert (found.level, "cut short" in found.says, "fetch it again" in found.change) == (FAILURE, True, True)


def test_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (found,) = look_at_model(folder).findings
    assert (found.level, "tokenizer" in found.change) == (FAILURE, True)


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert [found.level for found in look_at_model(folder).findings] == [FAILURE]


def test_weights_of_another_model(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": config["num_hidden_layers"] + 1}))
    (found,) = look_at_model(folder).findings
    assert (found.level, "lacks tensor" in found.says) == (FAILURE, True)
