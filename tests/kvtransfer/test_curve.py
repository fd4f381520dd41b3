"""KV between hosts: encrypted, and for those alone whose keys are known."""

import asyncio
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from engine import watched_file
from engine.errors import ConfigError, TransferFailed
from kvtransfer.curve import Curve, KeyPair, Peers, is_key
from kvtransfer.transport import Arrived, Commit, Unreachable
from kvtransfer.zeromq import ZeroMQSender
from kvtransfer.zeromq_receiver import ZeroMQReceiver
from tests.kvtransfer.pools import Pool, make_ticket

NUM_BLOCKS, BLOCK_BYTES = 12, 1 << 20


class Host:
    """One worker's keys, and a file of those it knows."""

    def __init__(self, folder: Path, name: str) -> None:
        self.pair = KeyPair.make()
        self.key, self.peers = folder / f"{name}.key", folder / f"{name}.peers"
        self.pair.write(self.key)
        self.peers.write_text("# the workers of this cluster\n")

    def know(self, other: "Host") -> None:
        with self.peers.open("a") as file:
            file.write(f"\n{other.pair.public.decode()} its name\n")

    @property
    def curve(self) -> Curve:
        made = Curve.of(str(self.key), str(self.peers))
        assert made is not None
        return made


@pytest.fixture
def hosts(tmp_path: Path) -> tuple[Host, Host]:
    """A sender and a receiver that know each other."""
    sender, receiver = Host(tmp_path, "prefill"), Host(tmp_path, "decode")
    sender.know(receiver)
    receiver.know(sender)
    return sender, receiver


@contextmanager
def listening(pool: Pool, arrived: list[Arrived], curve: Curve | None) -> Iterator[ZeroMQReceiver]:
    receiver = ZeroMQReceiver("tcp://127.0.0.1:0", pool, arrived.append, curve)
    try:
        yield receiver
    finally:
        receiver.close()


async def transfer(sender_curve: Curve | None, receiver_curve: Curve | None) -> tuple[Pool, Pool, list[Arrived]]:
    source, target = Pool(NUM_BLOCKS, BLOCK_BYTES, seed=1), Pool(NUM_BLOCKS, BLOCK_BYTES, seed=2)
    arrived: list[Arrived] = []
    with listening(target, arrived, receiver_curve) as receiver:
        sender = ZeroMQSender(source, sender_curve, stall_limit_s=1.0)
        try:
            ticket = make_ticket(receiver.endpoint, target, NUM_BLOCKS)
            receiver.open(ticket, range(NUM_BLOCKS))
            await sender.send(ticket, 0, range(NUM_BLOCKS))
            await sender.commit(ticket, Commit(7))
        finally:
            await sender.aclose()
    return source, target, arrived


async def test_those_who_know_each_other_exchange_blocks(hosts: tuple[Host, Host]) -> None:
    sender, receiver = hosts
    source, target, arrived = await transfer(sender.curve, receiver.curve)
    assert target.blocks(range(NUM_BLOCKS)) == source.blocks(range(NUM_BLOCKS))
    assert [each.commit for each in arrived] == [Commit(7)]


async def test_nothing_of_a_block_is_readable_on_the_wire(hosts: tuple[Host, Host]) -> None:
    sender, receiver = hosts
    source, target = Pool(2, 4096, seed=1), Pool(2, 4096, seed=2)
    with listening(target, [], receiver.curve) as behind:
        address, _, key = behind.endpoint.address.partition("#")
        async with eavesdropping(int(address.rpartition(":")[2])) as (port, heard):
            endpoint = type(behind.endpoint)("zeromq", f"tcp://127.0.0.1:{port}#{key}")
            ticket = make_ticket(endpoint, target, 2)
            behind.open(ticket, range(2))
            sending = ZeroMQSender(source, sender.curve, stall_limit_s=2.0)
            await sending.send(ticket, 0, range(2))
            await sending.aclose()
    assert target.blocks(range(2)) == source.blocks(range(2))
    assert len(heard) > 8192
    assert source.block(0)[:32] not in heard


class eavesdropping:  # noqa: N801 - used as a function is
    """A proxy before a port; keeps what passes towards it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._heard = bytearray()

    async def __aenter__(self) -> tuple[int, bytearray]:
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1], self._heard

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(self._pump(reader, back, self._heard), self._pump(there, writer, bytearray()))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: bytearray) -> None:
        while data := await reader.read(1 << 16):
            heard += data
            writer.write(data)
            await writer.drain()
        writer.close()


async def test_a_sender_that_is_not_on_the_list_is_turned_away(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    stranger = Host(tmp_path, "stranger")
    stranger.know(hosts[1])
    with pytest.raises(TransferFailed, match="was refused: its receiver does not know this key"):
        await transfer(stranger.curve, hosts[1].curve)


async def test_a_receiver_that_is_not_on_the_list_is_sent_nothing(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    stranger = Host(tmp_path, "stranger")
    stranger.know(hosts[0])
    with pytest.raises(Unreachable, match="not among those of the peers"):
        await transfer(hosts[0].curve, stranger.curve)


async def test_encryption_is_for_both_or_for_neither(hosts: tuple[Host, Host]) -> None:
    sender, receiver = hosts
    with pytest.raises(Unreachable, match="encrypts, and this side does not"):
        await transfer(None, receiver.curve)
    with pytest.raises(Unreachable, match="does not encrypt, and this side does"):
        await transfer(sender.curve, None)


def test_a_peer_without_a_key_gets_no_answer(hosts: tuple[Host, Host]) -> None:
    with listening(Pool(1, 64), [], hosts[1].curve) as receiver:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        plain = context.socket(zmq.DEALER)
        plain.setsockopt(zmq.LINGER, 0)
        plain.connect(receiver.endpoint.address.partition("#")[0])
        plain.send(b"hello")
        assert not plain.poll(300)
        plain.close()
        context.term()


def test_garbage_on_the_port_does_no_harm(hosts: tuple[Host, Host]) -> None:
    with listening(Pool(1, 64), [], hosts[1].curve) as receiver:
        port = int(receiver.endpoint.address.partition("#")[0].rpartition(":")[2])
        for garbage in (b"", b"\xff" * 64, os.urandom(4096), b"GET / HTTP/1.1\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port)) as peer:
                peer.sendall(garbage)
        assert receiver.fenced_writes == 0


async def test_a_key_that_is_added_to_the_list_gets_in_without_a_restart(
    hosts: tuple[Host, Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched_file, "LOOK_S", 0.0)
    late = Host(tmp_path, "late")
    late.know(hosts[1])
    curve = hosts[1].curve
    with pytest.raises(TransferFailed):
        await transfer(late.curve, curve)
    hosts[1].know(late)
    os.utime(hosts[1].peers, ns=(1, 1))
    source, target, _ = await transfer(late.curve, curve)
    assert target.blocks([0]) == source.blocks([0])


def test_a_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    pair = KeyPair.make()
    pair.write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KeyPair.read(path) == pair
    with pytest.raises(FileExistsError):
        pair.write(path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        KeyPair.read(path)


def test_what_is_no_key_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_text("x" * 39)
    with pytest.raises(ConfigError, match="no secret key"):
        KeyPair.read(path)
    path.write_text("short")
    with pytest.raises(ConfigError, match="'short' is no public key"):
        Peers(path)
    with pytest.raises(ConfigError, match="cannot read"):
        Peers(tmp_path / "nothing")


def test_key_and_peers_go_together(tmp_path: Path) -> None:
    assert Curve.of("", "") is None
    with pytest.raises(ConfigError, match="--kv-peers is missing"):
        Curve.of(str(tmp_path), "")
    with pytest.raises(ConfigError, match="--kv-key is missing"):
        Curve.of("", str(tmp_path))


def test_what_a_key_is() -> None:
    pair = KeyPair.make()
    assert is_key(pair.public)
    assert is_key(pair.secret)
    assert not is_key(pair.public[:-1])
    assert not is_key(b"~" * 40)
