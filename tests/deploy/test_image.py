"""What the image is made of, and its two programs, run for real: the keys that it makes, and its health check."""

import asyncio
import http.server
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from packaging.requirements import Requirement

from engine.tls import Tls, listen
from frontend.callers import KeyRing
from kvtransfer.curve import Curve
from tests.certificates import Authority
from tests.deploy.files import IMAGE, ROOT
from tests.deploy.keys import make_keys

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
HEALTH = IMAGE / "health.py"


# -- what is in it -----------------------------------------------------------------------------------------------------


def test_every_package_is_installed() -> None:
    found = PROJECT["tool"]["setuptools"]["packages"]["find"]
    tops = PROJECT["tool"]["importlinter"]["root_packages"]
    there = {".".join(path.parent.relative_to(ROOT).parts) for top in tops for path in (ROOT / top).rglob("*.py")}
    for name in there:
        assert any(fnmatch(name, pattern) for pattern in found["include"]) or name.startswith("bench."), name
        assert not any(fnmatch(name, pattern) for pattern in found["exclude"]), name


def test_the_context_has_all_that_is_installed() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(PROJECT["tool"]["importlinter"]["root_packages"]) <= let_in
    assert {"pyproject.toml", "constraints.txt", PROJECT["project"]["readme"]} <= let_in
    copied = [path for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.M) for path in line.split()]
    for path in copied:
        assert path == "." or path in let_in or str(Path(path).parent) in let_in, path
        assert (ROOT / path).exists()


def test_pins_can_be_installed_with_the_torch_that_has_cuda() -> None:
    """It wants one Triton and no other; the CPU's, which is what is here, wants none."""
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    of_torch = {"2.13.0": "3.7.1"}  # as torch's own metadata have it, of the wheel for CUDA
    assert pins["triton"] == of_torch[pins["torch"]]
    assert f"torch=={pins['torch']}" in PROJECT["project"]["dependencies"]
    for extra in ("gpu", "dev"):
        wanted = next(one for one in PROJECT["project"]["optional-dependencies"][extra] if one.startswith("triton"))
        assert Requirement(wanted).specifier.contains(pins["triton"])


def test_the_image_can_be_made_of_another_base_and_does_not_run_as_root() -> None:
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.M) == ["${BASE_IMAGE}", "${BASE_IMAGE}"]
    assert re.search(r"^ARG BASE_IMAGE=\S+$", DOCKERFILE, re.M)
    last = DOCKERFILE[DOCKERFILE.rindex("\nFROM") :]
    assert last.index("\nUSER 10001:10001") < last.index("\nCMD")
    assert "--mount" not in DOCKERFILE, "BuildKit alone knows it"


@pytest.mark.parametrize("name", ["make-keys", "health.py"])
def test_programs_can_be_run(name: str) -> None:
    assert os.access(IMAGE / name, os.X_OK)
    assert f"deploy/image/{name} /usr/local/bin/" in DOCKERFILE


# -- keys --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_keys(tmp_path_factory.mktemp("keys"))


def content(keys: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(keys.rglob("*")) if path.is_file()}


def test_keys_are_made_once(keys: Path) -> None:
    before = content(keys)
    assert before
    make_keys(keys)
    assert content(keys) == before


def test_nobody_else_can_read_them(keys: Path) -> None:
    assert not [path for path in keys.rglob("*") if path.stat().st_mode & 0o077]


def test_each_role_has_what_its_process_takes(keys: Path) -> None:
    for role in ("frontend", "prefill", "decode"):
        own = keys / role
        assert Tls.of(str(own / "cert.pem"), str(own / "key.pem"), str(own / "ca.pem")) is not None
        assert not list(own.glob("ca.key"))
    curves = {
        role: Curve.of(str(keys / role / "kv.key"), str(keys / role / "kv.peers")) for role in ("prefill", "decode")
    }
    for curve in curves.values():
        assert curve is not None
        assert all(other is not None and other.keys.public in curve.peers for other in curves.values())
    ring = KeyRing(path=keys / "frontend" / "api-keys.toml")
    caller = ring.find((keys / "client" / "first.key").read_text().strip().encode())
    assert caller is not None
    assert caller.name == "first"


def test_what_ends_soon_or_is_lost_is_made_again(tmp_path: Path) -> None:
    keys = make_keys(tmp_path / "keys")
    short = Authority(tmp_path, "another").issue("worker")  # two days
    Path(short.cert).rename(keys / "prefill" / "cert.pem")
    (keys / "decode" / "kv.key").unlink()
    before = content(keys)

    make_keys(keys)

    changed = {str(path.relative_to(keys)) for path, now in content(keys).items() if before.get(path) != now}
    renewed = {"prefill/cert.pem", "prefill/key.pem"}
    new_peer = {"decode/kv.key", "authority/decode.peer", "prefill/kv.peers", "decode/kv.peers"}
    assert changed == renewed | new_peer
    test_each_role_has_what_its_process_takes(keys)


# -- health ------------------------------------------------------------------------------------------------------------


def check(**environment: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
    return subprocess.run(
        [sys.executable, str(HEALTH)],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_a_worker_is_asked_over_tls_with_its_own_certificate(keys: Path) -> None:
    own = {name: str(keys / "decode" / f"{name.lower()}.pem") for name in ("CERT", "KEY", "CA")}
    server, health = grpc.aio.server(), HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = listen(server, "127.0.0.1:0", Tls(own["CERT"], own["KEY"], own["CA"]), field="listen")
    await server.start()
    told = {"TANDEM_LISTEN": f"0.0.0.0:{port}", **{f"TANDEM_TLS_{name}": path for name, path in own.items()}}
    try:
        for status, code in (
            (health_pb2.HealthCheckResponse.SERVING, 0),
            (health_pb2.HealthCheckResponse.NOT_SERVING, 1),
        ):
            await health.set("", status)
            checked = await asyncio.to_thread(check, **told)
            assert checked.returncode == code, checked
        assert checked.stdout == "NOT_SERVING\n"
        without = await asyncio.to_thread(check, TANDEM_LISTEN=told["TANDEM_LISTEN"])
        assert without.returncode == 1
    finally:
        await server.stop(None)
    gone = await asyncio.to_thread(check, **told)
    assert gone.returncode == 1
    assert "UNAVAILABLE" in gone.stdout


def test_a_frontend_is_asked_whether_it_is_ready() -> None:
    with answering({"/ready": 200}) as port:
        assert check(TANDEM_HTTP_PORT=str(port)).stdout == "ready\n"
    with answering({"/ready": 503}) as port:
        checked = check(TANDEM_HTTP_PORT=str(port))
        assert (checked.returncode, checked.stdout) == (1, "told 503\n")
    assert check(TANDEM_HTTP_PORT=str(port)).returncode == 1


@contextmanager
def answering(statuses: Mapping[str, int]) -> Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802 - the library's name
            status = statuses[self.path]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(f"told {status}".encode())

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
