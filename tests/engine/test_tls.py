"""TLS between frontends and workers: who shows no certificate that the authority signed gets nowhere."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from engine.errors import ConfigError
from engine.tls import Tls
from tests.certificates import Authority, Certificate


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"), "theirs")


def tls(certificate: Certificate, ca: str) -> Tls:
    made = Tls.of(certificate.cert, certificate.key, ca)
    assert made is not None
    return made


def trusting(authority: Authority) -> grpc.ChannelCredentials:
    """Of somebody without a certificate of his own."""
    return grpc.ssl_channel_credentials(Path(authority.cert).read_bytes())


@asynccontextmanager
async def serving(side: Tls) -> AsyncIterator[str]:
    server = grpc.aio.server()
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_secure_port("127.0.0.1:0", side.listens())
    await server.start()
    await health.set("", health_pb2.HealthCheckResponse.SERVING)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def ask(address: str, credentials: grpc.ChannelCredentials | None) -> int:
    """The status that the server tells."""
    channel = grpc.aio.secure_channel(address, credentials) if credentials else grpc.aio.insecure_channel(address)
    async with channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    return int(answer.status)


async def test_those_whose_certificates_one_authority_signed_talk(authority: Authority) -> None:
    async with serving(tls(authority.issue("worker"), authority.cert)) as address:
        frontend = tls(authority.issue("frontend"), authority.cert)
        assert await ask(address, frontend.connects()) == health_pb2.HealthCheckResponse.SERVING


async def test_who_has_no_certificate_or_anothers_is_turned_away(authority: Authority, stranger: Authority) -> None:
    async with serving(tls(authority.issue("worker"), authority.cert)) as address:
        for credentials in (
            None,
            trusting(authority),
            tls(stranger.issue("frontend"), authority.cert).connects(),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(address, credentials)
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_worker_of_another_authority_is_not_believed(authority: Authority, stranger: Authority) -> None:
    async with serving(tls(stranger.issue("worker"), authority.cert)) as address:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask(address, tls(authority.issue("frontend"), authority.cert).connects())
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_without_an_authority_a_listener_asks_nobody(authority: Authority) -> None:
    async with serving(tls(authority.issue("server"), "")) as address:
        assert await ask(address, trusting(authority)) == 1


def test_what_does_not_fit_together_is_refused_by_name(authority: Authority, tmp_path: Path) -> None:
    good, other = authority.issue("a"), authority.issue("b")
    assert Tls.of("", "", "") is None
    with pytest.raises(ConfigError, match="--tls-key is missing"):
        Tls.of(good.cert, "", "")
    with pytest.raises(ConfigError, match="--worker-cert is missing"):
        Tls.of("", "", authority.cert, prefix="worker")
    for cert, key, ca in (
        (good.cert, other.key, ""),
        (good.cert, str(tmp_path / "nothing"), ""),
        (good.cert, good.key, good.key),
    ):
        with pytest.raises(ConfigError, match="cannot use"):
            Tls.of(cert, key, ca)
