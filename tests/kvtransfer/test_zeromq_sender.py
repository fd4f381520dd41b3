"""What a sender does with receivers that are slow, stuck, rude or gone; receivers here are plain ROUTER sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import zmq
import zmq.asyncio

from engine.errors import TransferFailed
from kvtransfer.frame_buffers import FrameBuffer, FrameBuffers
from kvtransfer.pieces import FRAME_BYTES
from kvtransfer.transport import Commit, Endpoint, Ticket
from kvtransfer.zeromq import ZeroMQSender
from protos import kvtransfer_pb2 as pb
from tests.kvtransfer.pools import Pool, make_ticket

NUM_BLOCKS = 64
BLOCK_BYTES = 1 << 20
Reply = Callable[[pb.SenderFrame], pb.ReceiverFrame | bytes | None]


class Peer:
    """Listens, reads only when asked to, and answers as it is told."""

    def __init__(self) -> None:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.rcvhwm = 1
        self.endpoint = Endpoint("zeromq", f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}")
        self.payload = bytearray()
        self.num_frames = 0

    async def serve(self, reply: Reply) -> None:
        while True:
            peer, header, *parts = await self._socket.recv_multipart()
            self.num_frames += 1
            self.payload += b"".join(parts)
            if (answer := reply(pb.SenderFrame.FromString(header))) is not None:
                await self._socket.send_multipart(
                    [peer, answer if isinstance(answer, bytes) else answer.SerializeToString()]
                )

    def close(self) -> None:
        self._context.destroy(linger=0)


def ack(frame: pb.SenderFrame) -> pb.ReceiverFrame:
    return pb.ReceiverFrame(fence=frame.fence, number=frame.number, ack=pb.Ack())


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture
def pool() -> Pool:
    return Pool(NUM_BLOCKS, BLOCK_BYTES)


@pytest.fixture
async def sender(pool: Pool) -> AsyncIterator[ZeroMQSender]:
    sender = ZeroMQSender(pool, stall_limit_s=0.3, max_links=2)
    yield sender
    await sender.aclose()


@pytest.fixture
def ticket(peer: Peer, pool: Pool) -> Ticket:
    return make_ticket(peer.endpoint, pool, NUM_BLOCKS)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_peer_that_takes_nothing_stalls(sender: ZeroMQSender, ticket: Ticket) -> None:
    with pytest.raises(TransferFailed, match="took nothing"):
        await sender.send(ticket, 0, range(NUM_BLOCKS))


async def test_bytes_under_way_are_bounded(sender: ZeroMQSender, peer: Peer, pool: Pool, ticket: Ticket) -> None:
    serving = asyncio.create_task(peer.serve(lambda _: None))

    with pytest.raises(TransferFailed, match="took nothing"):
        await sender.send(ticket, 0, range(NUM_BLOCKS))
    serving.cancel()

    assert len(peer.payload) == 16 << 20


async def test_what_a_cancelled_send_left_behind_is_never_the_altered_bytes(
    sender: ZeroMQSender, peer: Peer, pool: Pool, ticket: Ticket
) -> None:
    pool.overwrite(range(NUM_BLOCKS), 0x11)
    sending = asyncio.create_task(sender.send(ticket, 0, range(NUM_BLOCKS)))
    await turns(100)  # all credit is used, most of it still in this process
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    pool.overwrite(range(NUM_BLOCKS), 0xEE)

    other = asyncio.create_task(sender.send(ticket, 0, range(4)))
    serving = asyncio.create_task(peer.serve(ack))
    await other
    serving.cancel()

    assert peer.payload.count(0xEE) == 4 * BLOCK_BYTES
    assert set(peer.payload) <= {0x11, 0xEE}


async def test_a_cancelled_send_ends_at_once_and_asks_for_no_block_again(
    sender: ZeroMQSender, pool: Pool, ticket: Ticket
) -> None:
    sending = asyncio.create_task(sender.send(ticket, 0, range(NUM_BLOCKS)))
    await turns(50)  # nobody answers, all credit is used
    views: list[int] = []
    pool.on_view = views.append
    sending.cancel()
    await turns(2)

    assert sending.done()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await turns(50)
    assert not views


async def test_what_waits_for_its_turn_was_not_read_yet(sender: ZeroMQSender, pool: Pool, ticket: Ticket) -> None:
    views: list[int] = []
    pool.on_view = views.append
    sending = [asyncio.create_task(sender.send(ticket, 0, range(NUM_BLOCKS))) for _ in range(20)]
    await turns(200)
    assert len(views) == (16 << 20) // FRAME_BYTES

    for task in sending:
        task.cancel()
    await asyncio.wait(sending)


async def test_buffers_are_used_again_and_bounded(
    sender: ZeroMQSender, peer: Peer, ticket: Ticket, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[FrameBuffer] = []

    def make(owner: FrameBuffers, size_bytes: int) -> FrameBuffer:
        made.append(FrameBuffer(owner, size_bytes))
        return made[-1]

    monkeypatch.setattr("kvtransfer.frame_buffers.FrameBuffer", make)
    serving = asyncio.create_task(peer.serve(ack))
    for _ in range(4):
        await sender.send(ticket, 0, range(NUM_BLOCKS))
    serving.cancel()

    assert 0 < len(made) <= (16 << 20) // FRAME_BYTES


def test_small_payloads_take_no_more_memory_than_they_are() -> None:
    buffers = FrameBuffers(max_free=1)
    small, large, larger = (buffers.take(size) for size in (1000, FRAME_BYTES // 2, FRAME_BYTES))
    for buffer in (small, large, larger):
        buffer.release()

    assert (len(small.bytes), len(large.bytes)) == (1000, FRAME_BYTES)
    assert buffers.take(FRAME_BYTES) is large
    assert buffers.take(FRAME_BYTES) is not larger
    assert buffers.take(1000) is not small


def test_a_buffers_part_is_made_once_for_each_size() -> None:
    buffer = FrameBuffers(max_free=1).take(FRAME_BYTES)

    assert buffer.part(5) is buffer.part(5)
    assert [len(buffer.part(size)) for size in range(1, 40)] == list(range(1, 40))


async def test_buffers_of_frames_without_an_answer_are_not_used_again(
    sender: ZeroMQSender, pool: Pool, peer: Peer, ticket: Ticket
) -> None:
    pool.overwrite(range(NUM_BLOCKS), 0x11)
    with pytest.raises(TransferFailed, match="took nothing"):
        await sender.send(ticket, 0, range(NUM_BLOCKS))
    pool.overwrite(range(NUM_BLOCKS), 0xEE)
    serving = asyncio.create_task(peer.serve(ack))  # it may still find what its socket holds of the first link
    await sender.send(ticket, 0, range(4))
    serving.cancel()

    assert peer.payload.count(0xEE) == 4 * BLOCK_BYTES
    assert set(peer.payload) <= {0x11, 0xEE}


@pytest.mark.parametrize("answer", [b"", b"\xff\xff garbage", b"\x0a"])
async def test_answers_that_are_none_fail_the_transfer(
    sender: ZeroMQSender, peer: Peer, ticket: Ticket, answer: bytes
) -> None:
    serving = asyncio.create_task(peer.serve(lambda _: answer))
    with pytest.raises(TransferFailed):
        await sender.send(ticket, 0, [0])
    serving.cancel()


@pytest.mark.parametrize(("reason", "word"), [(pb.NACK_REASON_CORRUPT, "CORRUPT"), (99, "UNKNOWN")])
async def test_a_refusal_says_why(
    sender: ZeroMQSender, peer: Peer, ticket: Ticket, reason: pb.NackReason, word: str
) -> None:
    nack = pb.Nack(reason=reason, message="bits fell off")
    serving = asyncio.create_task(
        peer.serve(lambda frame: pb.ReceiverFrame(fence=frame.fence, number=frame.number, nack=nack))
    )
    with pytest.raises(TransferFailed, match=f"{word}: bits fell off"):
        await sender.send(ticket, 0, range(4))
    serving.cancel()


async def test_an_answer_lost_among_others_is_noticed(sender: ZeroMQSender, peer: Peer, ticket: Ticket) -> None:
    serving = asyncio.create_task(peer.serve(lambda frame: None if frame.number == 3 else ack(frame)))
    with pytest.raises(TransferFailed, match="took nothing"):
        await sender.send(ticket, 0, range(NUM_BLOCKS))
    serving.cancel()


async def test_after_a_stall_the_same_peer_is_tried_anew(sender: ZeroMQSender, peer: Peer, ticket: Ticket) -> None:
    with pytest.raises(TransferFailed):
        await sender.send(ticket, 0, range(NUM_BLOCKS))
    serving = asyncio.create_task(peer.serve(ack))
    await sender.send(ticket, 0, range(4))
    await sender.commit(ticket, Commit(1))
    serving.cancel()


async def test_speed_is_measured(sender: ZeroMQSender, peer: Peer, ticket: Ticket) -> None:
    assert sender.bytes_per_s == 0.0
    serving = asyncio.create_task(peer.serve(ack))
    await sender.send(ticket, 0, range(8))
    serving.cancel()

    assert sender.bytes_per_s > 0
    assert sender.peer_bytes_per_s == {peer.endpoint.address: pytest.approx(sender.bytes_per_s)}


async def test_links_are_bounded_and_idle_ones_make_room(sender: ZeroMQSender, pool: Pool) -> None:
    peers = [Peer() for _ in range(4)]
    async with asyncio.TaskGroup() as tasks:
        serving = [tasks.create_task(peer.serve(ack)) for peer in peers]
        for i in (0, 1, 0, 2, 3, 0):
            await sender.send(make_ticket(peers[i].endpoint, pool, 1), 0, [0])
            assert len(sender.peer_bytes_per_s) <= 2
        for task in serving:
            task.cancel()
    for peer in peers:
        peer.close()


async def test_an_address_that_is_none_fails_the_transfer(sender: ZeroMQSender, pool: Pool) -> None:
    with pytest.raises(TransferFailed, match="cannot connect"):
        await sender.send(make_ticket(Endpoint("zeromq", "nonsense"), pool, 1), 0, [0])


async def test_closing_fails_what_is_under_way(sender: ZeroMQSender, ticket: Ticket) -> None:
    sending = asyncio.create_task(sender.send(ticket, 0, range(NUM_BLOCKS)))
    await turns(20)
    await sender.aclose()

    with pytest.raises(TransferFailed, match="closed"):
        await sending
    with pytest.raises(TransferFailed, match="closed"):
        await sender.send(ticket, 0, [0])
