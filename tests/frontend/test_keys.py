"""Keys at both doors, and TLS: each key is told by what it stands for, in REST and in gRPC."""

import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import grpc.aio
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from engine.errors import Overloaded, PermissionDenied
from frontend.callers import KeyRing
from frontend.rest.app import build_app
from frontend.service import build_server
from protos import generate_pb2 as pb
from protos.generate_pb2_grpc import InferenceStub
from tests.certificates import Authority, Certificate
from tests.frontend.fake_inference import MODEL, FakeInference
from tests.frontend.test_callers import entry, key_file

ROOT = Path(__file__).resolve().parents[2]
QUESTION = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing("everybody", key_file(tmp_path / "keys", entry("one", "k1", 'tenant = "acme"'), entry("two", "k2")))


async def test_rest_tells_callers_apart(ring: KeyRing) -> None:
    inference = FakeInference()
    app = build_app(inference, keys=ring, max_body_bytes=1 << 20, metrics=lambda: b"")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        for key, status in (("k1", 200), ("k2", 200), ("everybody", 200), ("k3", 401)):
            headers = {"Authorization": f"Bearer {key}"}
            response = await client.post("/v1/chat/completions", json=QUESTION, headers=headers)
            assert response.status_code == status
        prompt = {"model": MODEL, "prompt": "hi"}
        await client.post("/v1/completions", json=prompt, headers={"Authorization": "Bearer k1"})
    callers = [(request.caller.name, request.caller.tenant) for request in inference.requests]
    assert callers == [("one", "acme"), ("two", "two"), ("", ""), ("one", "acme")]


async def test_grpc_tells_callers_apart(ring: KeyRing) -> None:
    inference = FakeInference()
    server, _ = build_server(inference, keys=ring, max_message_bytes=1 << 20, version="1")
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for key in ("k1", "everybody"):
                metadata = (("authorization", f"Bearer {key}"),)
                call = InferenceStub(channel).Generate(pb.GenerateRequest(text="hi"), metadata=metadata)
                assert [response async for response in call]
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await InferenceStub(channel).ListModels(
                    pb.ListModelsRequest(), metadata=(("authorization", "Bearer k3"),)
                )
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    finally:
        await server.stop(None)
    assert [request.caller.name for request in inference.requests] == ["one", ""]


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (PermissionDenied("not for this model", field="model"), 403, "permission_error", "permission_denied"),
        (Overloaded("used up", retry_after_s=6.2), 429, "rate_limit_error", "rate_limit_exceeded"),
    ],
)
async def test_what_a_key_does_not_allow_is_told_in_openais_words(
    error: Exception, status: int, kind: str, code: str
) -> None:
    app = build_app(FakeInference([error]), keys=KeyRing(), max_body_bytes=1 << 20, metrics=lambda: b"")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        response = await client.post("/v1/chat/completions", json=QUESTION)
    assert response.status_code == status
    told = response.json()["error"]
    assert (told["type"], told["code"]) == (kind, code)
    assert response.headers.get("retry-after") == ("7" if status == 429 else None)


# -- TLS ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "ours")


@contextmanager
def frontend(own: Certificate, *options: str) -> Iterator[tuple[int, int]]:
    """A frontend process without workers; yields the ports of REST and gRPC."""
    command = [sys.executable, "-m", "frontend", "--decode", "127.0.0.1:1", "--http-port", "0", "--grpc-port", "0"]
    command += ["--tls-cert", own.cert, "--tls-key", own.key, *options]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            told = next(
                found for line in process.stderr if (found := re.search(r"https://\S+:(\d+) grpc://\S+:(\d+)", line))
            )
            yield int(told[1]), int(told[2])
        finally:
            process.kill()
            process.communicate()


def test_rest_and_grpc_over_tls(authority: Authority) -> None:
    trust = ssl.create_default_context(cafile=authority.cert)
    with frontend(authority.issue("server")) as (http_port, grpc_port):
        assert httpx.get(f"https://localhost:{http_port}/health", verify=trust).json() == {"status": "ok"}
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"https://localhost:{http_port}/health")
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://localhost:{http_port}/health")
        credentials = grpc.ssl_channel_credentials(Path(authority.cert).read_bytes())
        with grpc.secure_channel(f"localhost:{grpc_port}", credentials) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            assert health.Check(health_pb2.HealthCheckRequest(), timeout=5).status


def test_clients_need_a_certificate_where_an_authority_is_given(authority: Authority) -> None:
    client = authority.issue("client")
    anonymous = ssl.create_default_context(cafile=authority.cert)
    known = ssl.create_default_context(cafile=authority.cert)
    known.load_cert_chain(client.cert, client.key)
    with frontend(authority.issue("server"), "--tls-ca", authority.cert) as (http_port, grpc_port):
        assert httpx.get(f"https://localhost:{http_port}/health", verify=known).status_code == 200
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"https://localhost:{http_port}/health", verify=anonymous)
        credentials = grpc.ssl_channel_credentials(Path(authority.cert).read_bytes())
        with grpc.secure_channel(f"localhost:{grpc_port}", credentials) as channel, pytest.raises(grpc.RpcError):
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)


def serial(port: int, authority: Authority) -> str:
    """Of the certificate that a new connection is shown."""
    context = ssl.create_default_context(cafile=authority.cert)
    context.set_alpn_protocols(["h2", "http/1.1"])  # gRPC ends a connection without h2
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        certificate = connection.getpeercert()
    assert certificate is not None
    return str(certificate["serialNumber"])


def test_a_renewed_certificate_is_shown_without_a_restart(authority: Authority, tmp_path: Path) -> None:
    old, new = authority.issue("old"), authority.issue("new")
    own = Certificate(str(tmp_path / "server.pem"), str(tmp_path / "server.key"))
    shutil.copy(old.cert, own.cert)
    shutil.copy(old.key, own.key)
    with frontend(own) as ports:
        first = {serial(port, authority) for port in ports}
        assert len(first) == 1
        shutil.copy(new.cert, own.cert)
        shutil.copy(new.key, own.key)
        for port in ports:
            while serial(port, authority) in first:  # it looks at the files once a second
                time.sleep(0.05)
        assert len({serial(port, authority) for port in ports}) == 1
