"""TLS between frontends and workers: who shows no certificate that the authority signed gets nowhere, and certificates
are replaced while connections come and go."""

import asyncio
import logging
import shutil
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from engine import watched_file
from engine.errors import ConfigError
from engine.tls import Tls, listen
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
async def serving(side: Tls | None) -> AsyncIterator[str]:
    server = grpc.aio.server()
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = listen(server, "127.0.0.1:0", side, field="listen")
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


@pytest.mark.parametrize("secure", [False, True])
async def test_an_address_that_is_taken_is_named_with_its_option(authority: Authority, secure: bool) -> None:
    side = tls(authority.issue("server"), "") if secure else None
    async with serving(side) as address:
        assert await ask(address, trusting(authority) if secure else None) == health_pb2.HealthCheckResponse.SERVING
        other = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        with pytest.raises(ConfigError, match=f"cannot listen on {address}: the address is in use") as refused:
            listen(other, address, side, field="grpc_port")
        assert refused.value.field == "grpc_port"


async def test_a_socket_without_a_folder_cannot_be_listened_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot listen on unix:"):
        listen(grpc.aio.server(), f"unix:{tmp_path}/nowhere/w.sock", None, field="listen")


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


# -- certificates that change ------------------------------------------------------------------------------------------


class Files:
    """A server's certificate and key where it reads them, copied there from others."""

    def __init__(self, folder: Path, first: Certificate) -> None:
        self.cert, self.key = folder / "server.pem", folder / "server.key"
        self.put(first)

    def put(self, certificate: Certificate) -> None:
        """As renewing programs do it: each file at once, one after the other."""
        for made, place in ((certificate.cert, self.cert), (certificate.key, self.key)):
            shutil.copy(made, place.with_suffix(".new"))
            place.with_suffix(".new").replace(place)

    def tls(self, ca: str = "") -> Tls:
        made = Tls.of(str(self.cert), str(self.key), ca)
        assert made is not None
        return made


@pytest.fixture
def files(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setattr(watched_file, "LOOK_S", 0.0)
    return Files(tmp_path, authority.issue("first"))


@asynccontextmanager
async def rest(side: Tls) -> AsyncIterator[str]:
    """What serves REST, as far as TLS is concerned: asyncio's streams over `side`'s context."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=side.context()) as server:
        yield "{}:{}".format(*server.sockets[0].getsockname())


async def shown(address: str, context: ssl.SSLContext) -> str:
    """The name in the certificate that a server shows to a new connection."""
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    certificate = writer.get_extra_info("peercert")
    writer.transport.abort()
    return str(dict(pair for entry in certificate["subject"] for pair in entry)["commonName"])


def client(authority: Authority) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.cert)
    context.set_alpn_protocols(["h2"])  # gRPC ends a connection without it
    return context


@pytest.mark.parametrize("listener", [rest, serving])
async def test_a_new_certificate_is_shown_without_a_restart(
    authority: Authority, files: Files, listener: Callable[[Tls], AbstractAsyncContextManager[str]]
) -> None:
    async with listener(files.tls()) as address:
        assert await shown(address, client(authority)) == "first"
        files.put(authority.issue("second"))
        assert await shown(address, client(authority)) == "second"
        assert await shown(address, client(authority)) == "second"


@pytest.mark.parametrize("listener", [rest, serving])
@pytest.mark.parametrize("broken", [b"", b"-----BEGIN CERTIFICATE-----\nMIIB", None])
async def test_files_that_are_broken_or_do_not_fit_change_nothing(
    authority: Authority,
    files: Files,
    caplog: pytest.LogCaptureFixture,
    listener: Callable[[Tls], AbstractAsyncContextManager[str]],
    broken: bytes | None,
) -> None:
    second = authority.issue("second")
    with caplog.at_level(logging.WARNING):
        async with listener(files.tls()) as address:
            if broken is None:
                shutil.copy(second.cert, files.cert)  # without its key
            else:
                files.cert.write_bytes(broken)
            assert await shown(address, client(authority)) == "first"
            assert "what was read before holds" in caplog.text
            files.put(second)
            assert await shown(address, client(authority)) == "second"


async def test_an_open_connection_outlives_the_certificate(authority: Authority, files: Files) -> None:
    async with serving(files.tls()) as address, grpc.aio.secure_channel(address, trusting(authority)) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert (await health.Check(health_pb2.HealthCheckRequest(), timeout=5)).status
        files.put(authority.issue("second"))
        assert (await health.Check(health_pb2.HealthCheckRequest(), timeout=5)).status


async def test_whose_certificates_are_taken_changes_too(
    authority: Authority, stranger: Authority, files: Files, tmp_path: Path
) -> None:
    known, unknown = authority.issue("known"), stranger.issue("unknown")
    taken = tmp_path / "ca.pem"
    shutil.copy(authority.cert, taken)
    async with serving(files.tls(str(taken))) as address:
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(address, tls(unknown, authority.cert).connects())
        shutil.copy(stranger.cert, taken)
        assert await ask(address, tls(unknown, authority.cert).connects())
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(address, tls(known, authority.cert).connects())


async def test_who_connects_shows_its_new_certificate_the_next_time(
    authority: Authority, stranger: Authority, files: Files
) -> None:
    files.put(stranger.issue("old"))
    side = files.tls(authority.cert)
    async with serving(tls(authority.issue("worker"), authority.cert)) as address:
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(address, side.connects())
        files.put(authority.issue("new"))
        assert await ask(address, side.connects())
