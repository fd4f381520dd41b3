import socket
import tempfile
from pathlib import Path

import pytest

from cli.machine import MAX_SOCKET_PATH, runtime_folder, take_ports
from engine.errors import ConfigError


def test_a_port_in_use_is_refused_with_its_number_and_option() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} of 127\.0\.0\.1.*in use.*--http-port"):
            take_ports("127.0.0.1", {"--http-port": port})


def test_a_host_that_is_not_of_this_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"of 192\.0\.2\.1"):
        take_ports("192.0.2.1", {"--http-port": 0})


def test_free_ports_differ_and_can_be_used_at_once() -> None:
    ports = take_ports("127.0.0.1", {"--http-port": 0, "--grpc-port": 0})
    assert len(set(ports.values())) == 2
    for port in ports.values():
        socket.create_server(("127.0.0.1", port)).close()


def test_the_runtime_folder_is_private_and_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with runtime_folder(["decode-0.sock"]) as folder:
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "decode-0.sock").touch()
    assert not folder.exists()


def test_a_long_path_gives_way_to_a_short_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with runtime_folder(["decode-0.sock"]) as folder, socket.socket(socket.AF_UNIX) as listener:
        path = folder / "decode-0.sock"
        assert len(str(path)) <= MAX_SOCKET_PATH
        listener.bind(str(path))
    assert not list(deep.iterdir())


def test_a_runtime_folder_that_is_gone_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "gone"))
    with runtime_folder([]) as folder:
        assert folder.is_dir()
