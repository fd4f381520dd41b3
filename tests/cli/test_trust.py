"""What the commands of `tandem` make of certificates."""

import ssl
from pathlib import Path

import pytest

from cli.trust import Trust, anchor
from engine.errors import ConfigError
from tests.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "ours")


def test_the_scheme_says_whether_there_is_tls(authority: Authority) -> None:
    trust = Trust(ca=Path(authority.cert))
    assert isinstance(trust.for_https("https://host"), ssl.SSLContext)
    assert Trust().for_https("http://host:1") is None
    address, credentials = trust.for_grpc("grpcs://host:1/")
    assert address == "host:1"
    assert credentials is not None
    assert Trust().for_grpc("grpc://host:1") == Trust().for_grpc("host:1") == ("host:1", None)
    with pytest.raises(ConfigError, match="neither grpc"):
        Trust().for_grpc("https://host:1")


def test_certificates_that_would_mean_nothing_are_refused(authority: Authority) -> None:
    trust = Trust(ca=Path(authority.cert))
    for url, ask in (("http://host", trust.for_https), ("host:1", trust.for_grpc), ("grpc://host:1", trust.for_grpc)):
        with pytest.raises(ConfigError, match="does not begin with"):
            ask(url)


def test_what_cannot_be_used_is_named(authority: Authority, tmp_path: Path) -> None:
    mine, other = authority.issue("mine"), authority.issue("other")
    (tmp_path / "empty").touch()
    for trust in (
        Trust(ca=tmp_path / "empty"),
        Trust(ca=Path(mine.key)),
        Trust(cert=Path(mine.cert), key=Path(other.key)),
    ):
        with pytest.raises(ConfigError, match="cannot use"):
            trust.context()
        with pytest.raises(ConfigError, match="cannot use"):
            trust.credentials()
    with pytest.raises(ConfigError, match="--key is missing"):
        Trust(cert=Path(mine.cert))


def test_the_anchor_is_the_first_file_by_which_a_client_believes(authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "theirs")
    mine = authority.issue("mine")
    cert, key = Path(mine.cert), Path(mine.key)
    candidates = (None, Path(stranger.cert), Path(authority.cert), cert)
    assert anchor(cert, key, "127.0.0.1", candidates) == Path(authority.cert)
    assert anchor(cert, key, "localhost", candidates) == Path(authority.cert)
    assert anchor(cert, key, "another.host", candidates) is None
    with pytest.raises(ConfigError, match="cannot use"):
        anchor(cert, Path(stranger.issue("x").key), "localhost", candidates)
