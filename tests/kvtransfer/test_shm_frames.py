"""What the two ends of shared memory do with peers that are rude, gone or elsewhere, over plain sockets."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from engine.errors import ConfigError, TransferFailed
from engine.shared_memory import SharedMemory
from kvtransfer.endpoints import Senders, choose, shm_address, shm_name
from kvtransfer.shm import MAX_SOURCES, ShmSender
from kvtransfer.shm_receiver import ShmReceiver
from kvtransfer.transport import Arrived, Commit, Endpoint, Unreachable
from kvtransfer.wire import fence_to_proto
from kvtransfer.zeromq import ZeroMQSender
from kvtransfer.zeromq_receiver import ZeroMQReceiver
from protos import kvtransfer_pb2 as pb
from tests.kvtransfer.pools import Pool, make_ticket, refenced

NUM_BLOCKS = 3
BLOCK_BYTES = 70_001
RUDE = f"rude-{os.getpid()}"


class Rig:
    """A receiver with one open ticket, and a peer that says whatever it likes."""

    def __init__(self) -> None:
        self.source, self.pool = Pool(NUM_BLOCKS, BLOCK_BYTES, seed=1), Pool(8, BLOCK_BYTES, seed=2)
        self.memory = self.source.share()
        self.arrived: list[Arrived] = []
        self.receiver = ShmReceiver(self.pool, self.arrived.append)
        self.ticket = make_ticket(self.receiver, self.pool, NUM_BLOCKS)
        self.receiver.open(self.ticket, range(NUM_BLOCKS))
        self.peer = self.connect()

    def connect(self) -> socket.socket:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        peer.settimeout(5.0)
        peer.connect(shm_name(self.receiver.endpoint.address))
        return peer

    def close(self) -> None:
        self.peer.close()
        self.receiver.close()

    def ask(self, frame: pb.SenderFrame, *descriptors: int) -> pb.ReceiverFrame:
        socket.send_fds(self.peer, [frame.SerializeToString()], descriptors)
        return pb.ReceiverFrame.FromString(self.peer.recv(1 << 16))

    def attach(self, descriptor: int, **changes: int) -> pb.ReceiverFrame:
        fields = {"size_bytes": self.memory.size_bytes, "block_bytes": BLOCK_BYTES, **changes}
        return self.ask(pb.SenderFrame(attach=pb.Attach(**fields)), descriptor)

    def copy(self, *sources: int, first: int = 0) -> pb.ReceiverFrame:
        copy = pb.Copy(first=first, source_blocks=sources)
        return self.ask(pb.SenderFrame(fence=fence_to_proto(self.ticket.fence), number=7, copy=copy))

    async def transfers_still_work(self) -> None:
        sender = ShmSender(self.source, self.memory, stall_limit_s=5.0)
        ticket = make_ticket(self.receiver, self.pool, NUM_BLOCKS, name="by the book")
        self.receiver.open(ticket, [5, 6, 7])
        await sender.send(ticket, 0, range(NUM_BLOCKS))
        await sender.commit(ticket, Commit(1))
        await sender.aclose()
        assert self.pool.blocks([5, 6, 7]) == self.source.blocks(range(NUM_BLOCKS))


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


async def test_frames_by_the_book_are_acknowledged(rig: Rig) -> None:
    assert rig.attach(rig.memory.fd).HasField("ack")
    assert rig.copy(2, 0, 1).HasField("ack")
    assert rig.pool.blocks(range(NUM_BLOCKS)) == rig.source.blocks([2, 0, 1])


@pytest.mark.parametrize(
    ("sources", "first"),
    [((NUM_BLOCKS,), 0), ((2**32 - 1,), 0), ((0,), NUM_BLOCKS), ((0, 1), 2), ((0,), 2**32 - 1), ((), 0)],
)
async def test_blocks_that_are_not_there_are_malformed_and_write_nothing(
    rig: Rig, sources: tuple[int, ...], first: int
) -> None:
    rig.attach(rig.memory.fd)
    before = bytes(rig.pool.content)

    assert rig.copy(*sources, first=first).nack.reason == pb.NACK_REASON_MALFORMED
    assert bytes(rig.pool.content) == before
    assert rig.receiver.malformed_frames == 1
    await rig.transfers_still_work()


async def test_numbers_of_blocks_are_bounded_and_memory_comes_first(rig: Rig) -> None:
    assert "no memory" in rig.copy(0).nack.message
    rig.attach(rig.memory.fd)
    assert rig.copy(*[0] * (MAX_SOURCES + 1)).nack.reason == pb.NACK_REASON_MALFORMED


async def test_memory_that_could_fault_is_refused(rig: Rig) -> None:
    unsealed = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.posix_fallocate(unsealed, 0, rig.memory.size_bytes)
    small = SharedMemory(BLOCK_BYTES)

    assert "sealed" in rig.attach(unsealed).nack.message
    assert "announced" in rig.attach(small.fd).nack.message
    assert rig.attach(rig.memory.fd, size_bytes=1).HasField("nack")
    assert rig.attach(rig.memory.fd, block_bytes=BLOCK_BYTES + 1).HasField("nack")
    assert rig.ask(pb.SenderFrame(attach=pb.Attach(size_bytes=1, block_bytes=1))).HasField("nack")
    os.close(unsealed)
    await rig.transfers_still_work()


@pytest.mark.parametrize(
    "data", [b"garbage", b"\xff" * 1000, pb.SenderFrame(number=3).SerializeToString(), b"x" * 70_000]
)
async def test_what_is_not_a_frame_is_dropped_and_counted(rig: Rig, data: bytes) -> None:
    rig.peer.send(data)
    stranger = pb.SenderFrame(fence=fence_to_proto(refenced(rig.ticket, attempt=9).fence), commit=pb.Commit())

    assert rig.ask(stranger).nack.reason == pb.NACK_REASON_STALE
    assert rig.receiver.malformed_frames == 1
    await rig.transfers_still_work()


async def test_a_sender_that_leaves_while_its_blocks_are_read_has_sent_nothing(rig: Rig) -> None:
    rig.attach(rig.memory.fd)
    rig.pool.on_view = lambda _: rig.peer.close()
    copy = pb.Copy(first=0, source_blocks=range(NUM_BLOCKS))
    rig.peer.send(pb.SenderFrame(fence=fence_to_proto(rig.ticket.fence), copy=copy).SerializeToString())
    await rig.transfers_still_work()  # on another connection, which is served after what came before

    rig.peer = rig.connect()
    answer = rig.ask(pb.SenderFrame(fence=fence_to_proto(rig.ticket.fence), commit=pb.Commit(num_blocks=NUM_BLOCKS)))
    assert answer.nack.message == "3 pieces never came"


class Listener:
    """Takes a connection and answers as it is told."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(shm_name(address))
        self._socket.listen()
        self._socket.setblocking(False)

    async def answer(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        connection, _ = await loop.sock_accept(self._socket)
        with connection:
            await loop.sock_recv(connection, 1 << 16)
            await loop.sock_sendall(connection, data)
            await asyncio.Event().wait()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    listener = Listener(shm_address(RUDE))
    yield listener
    listener.close()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\xff garbage", "no frame"),
        (pb.ReceiverFrame(nack=pb.Nack(message="too large")).SerializeToString(), "refused .*too large"),
        (pb.ReceiverFrame(ack=pb.Ack()).SerializeToString(), "took nothing"),
    ],
)
async def test_a_receiver_that_answers_nonsense_or_nothing_fails_the_transfer(
    listener: Listener, data: bytes, words: str
) -> None:
    pool = Pool(2, 1000)
    sender = ShmSender(pool, pool.share(), stall_limit_s=0.2)
    answering = asyncio.create_task(listener.answer(data))
    with pytest.raises(TransferFailed, match=words):
        await sender.send(make_ticket(Endpoint("shm", shm_address(RUDE)), pool, 2), 0, [0, 1])
    answering.cancel()
    await sender.aclose()


async def test_cancelled_twice_it_still_waits_for_the_blocks(listener: Listener) -> None:
    pool = Pool(2, 1000)
    sender = ShmSender(pool, pool.share(), stall_limit_s=0.3)
    answering = asyncio.create_task(listener.answer(pb.ReceiverFrame(ack=pb.Ack()).SerializeToString()))
    ticket = make_ticket(Endpoint("shm", shm_address(RUDE)), pool, 2)
    sending = asyncio.create_task(sender.send(ticket, 0, [0, 1]))
    for _ in range(2):
        await asyncio.sleep(0.02)
        sending.cancel()
    await asyncio.sleep(0.02)
    assert not sending.done()  # the receiver may still read them

    with pytest.raises(asyncio.CancelledError):
        await sending
    answering.cancel()
    await sender.aclose()


async def test_who_does_not_reach_shared_memory_takes_the_next_way() -> None:
    source, target = Pool(2, 1000, seed=1), Pool(2, 1000, seed=2)
    arrived: list[Arrived] = []
    receiver = ZeroMQReceiver("tcp://127.0.0.1:0", target, arrived.append)
    shm = ShmSender(source, source.share())
    senders = Senders({"shm": shm, "zeromq": ZeroMQSender(source)})
    nobody = Endpoint("shm", shm_address("nobody"))
    ticket = make_ticket(receiver, target, 2)
    both = make_ticket(nobody, target, 2).endpoints + ticket.endpoints

    receiver.open(ticket, [0, 1])
    offered = replace(ticket, endpoints=both)
    with pytest.raises(Unreachable):
        await shm.send(offered, 0, [0, 1])
    await senders.send(offered, 0, [0, 1])
    await senders.commit(offered, Commit(1))
    await senders.aclose()
    receiver.close()
    assert target.content == source.content


def test_shared_memory_of_another_host_comes_last() -> None:
    elsewhere, tcp = Endpoint("shm", "shm://another.1/tandem-kv"), Endpoint("zeromq", "tcp://127.0.0.1:1")
    here = Endpoint("shm", shm_address("tandem-kv"))

    assert choose([elsewhere, tcp], ("shm", "zeromq")) == tcp
    assert choose([here, tcp], ("shm", "zeromq")) == here


def test_memory_that_there_is_not_is_said_in_words() -> None:
    with pytest.raises(ConfigError, match="MiB of memory to share"):
        SharedMemory(1 << 62)  # more than any machine has: refused before it is asked for
