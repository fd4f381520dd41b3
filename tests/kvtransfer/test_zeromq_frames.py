"""What a receiver does with frames that no honest sender makes, sent over a plain DEALER socket."""

import socket
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import xxhash
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError
from kvtransfer.open_tickets import OpenTickets, Refused
from kvtransfer.pieces import FRAME_BYTES, MAX_PIECES, PIECE_BYTES, Checksums, Pieces, digest
from kvtransfer.transport import Arrived, Commit, Endpoint, Ticket
from kvtransfer.wire import MAX_HEADER_BYTES, fence_to_proto
from kvtransfer.zeromq import ZeroMQSender
from kvtransfer.zeromq_receiver import ZeroMQReceiver
from protos import kvtransfer_pb2 as pb
from tests.kvtransfer.pools import OnDevice, Pool, make_ticket, refenced

NUM_BLOCKS = 3
BLOCK_BYTES = PIECE_BYTES + 100


class Rig:
    """A receiver with one open ticket, and a peer that says whatever it likes."""

    def __init__(self, *, on_device: bool = False) -> None:
        self.source, self.pool = Pool(NUM_BLOCKS, BLOCK_BYTES, seed=1), Pool(8, BLOCK_BYTES, seed=2)
        self.arrived: list[Arrived] = []
        store = OnDevice(self.pool) if on_device else self.pool
        self.receiver = ZeroMQReceiver("tcp://127.0.0.1:0", store, self.arrived.append)
        self.ticket = make_ticket(self.receiver, self.pool, NUM_BLOCKS)
        self.receiver.open(self.ticket, range(NUM_BLOCKS))
        self._context = zmq.Context()
        self.peer = self.connect()

    def connect(self) -> "zmq.Socket[bytes]":
        peer = self._context.socket(zmq.DEALER)
        peer.linger = 0
        peer.rcvtimeo = 5000
        peer.connect(self.receiver.endpoint.address)
        return peer

    def close(self) -> None:
        self._context.destroy(linger=0)
        self.receiver.close()

    def ask(self, frame: pb.SenderFrame | bytes, *parts: bytes) -> pb.ReceiverFrame:
        header = frame if isinstance(frame, bytes) else frame.SerializeToString()
        self.peer.send_multipart([header, *parts])
        return pb.ReceiverFrame.FromString(self.peer.recv())

    def refuses(self, frame: pb.SenderFrame, *parts: bytes) -> pb.NackReason:
        answer = self.ask(frame, *parts)
        assert answer.HasField("nack")
        assert (answer.fence, answer.number) == (frame.fence, frame.number)
        return answer.nack.reason

    def tell(self, *parts: bytes) -> None:
        """Send what gets no answer, then something that does: when that is answered, the first was seen."""
        self.peer.send_multipart(parts)
        stranger = pb.SenderFrame(fence=fence_to_proto(refenced(self.ticket, attempt=99).fence), commit=pb.Commit())
        assert self.refuses(stranger) == pb.NACK_REASON_STALE

    async def transfers_still_work(self) -> None:
        """A transfer by the book into other slots; what the ticket before wrote is not looked at."""
        sender = ZeroMQSender(self.source, stall_limit_s=5.0)
        ticket = make_ticket(self.receiver, self.pool, NUM_BLOCKS, name="by the book")
        self.receiver.open(ticket, [5, 6, 7])
        await sender.send(ticket, 0, range(NUM_BLOCKS))
        await sender.commit(ticket, Commit(1))
        await sender.aclose()
        assert self.pool.blocks([5, 6, 7]) == self.source.blocks(range(NUM_BLOCKS))
        assert self.arrived[-1].ticket_id == "by the book"


@pytest.fixture(params=[False, True], ids=["host", "device"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    rig = Rig(on_device=request.param)
    yield rig
    rig.close()


def checksums_of(data: bytes) -> list[int]:
    return [xxhash.xxh3_64_intdigest(piece) for piece in (data[:PIECE_BYTES], data[PIECE_BYTES:])]


def blocks_frame(
    ticket: Ticket, block: int, checksums: Sequence[int], *, offset: int = 0, number: int = 0
) -> pb.SenderFrame:
    blocks = pb.Blocks(block=block, offset=offset, checksums=checksums)
    return pb.SenderFrame(fence=fence_to_proto(ticket.fence), number=number, blocks=blocks)


def commit_frame(ticket: Ticket, source: Pool, **changes: int) -> pb.SenderFrame:
    """The right commit of all of `source`, but for `changes`."""
    sums = [checksum for block in range(NUM_BLOCKS) for checksum in checksums_of(source.block(block))]
    fields = {"num_blocks": NUM_BLOCKS, "digest": digest(np.array(sums, np.uint64), 5), "first_token": 5, **changes}
    return pb.SenderFrame(fence=fence_to_proto(ticket.fence), number=77, commit=pb.Commit(**fields))  # type: ignore[arg-type]


def send_all(rig: Rig) -> None:
    for block in range(NUM_BLOCKS):
        data = rig.source.block(block)
        assert rig.ask(blocks_frame(rig.ticket, block, checksums_of(data), number=block), data).HasField("ack")


def test_frames_by_the_book_are_acknowledged_and_commit_is_answered_again(rig: Rig) -> None:
    send_all(rig)
    frame = commit_frame(rig.ticket, rig.source)

    assert [rig.ask(frame).HasField("ack") for _ in range(3)] == [True] * 3
    assert [arrived.commit.first_token for arrived in rig.arrived] == [5]
    assert rig.pool.blocks(range(NUM_BLOCKS)) == rig.source.blocks(range(NUM_BLOCKS))


@pytest.mark.parametrize("changes", [{"digest": 1}, {"first_token": 6}, {"num_blocks": 2}, {"num_blocks": 2**32 - 1}])
async def test_a_commit_that_disagrees_is_corrupt(rig: Rig, changes: dict[str, int]) -> None:
    send_all(rig)

    assert rig.refuses(commit_frame(rig.ticket, rig.source, **changes)) == pb.NACK_REASON_CORRUPT
    assert not rig.arrived
    assert rig.ask(commit_frame(rig.ticket, rig.source)).HasField("ack")


async def test_a_wrong_checksum_is_corrupt_and_the_piece_counts_as_missing(rig: Rig) -> None:
    send_all(rig)
    data = rig.source.block(0)
    bad = data[:-1] + bytes([data[-1] ^ 1])

    frame = blocks_frame(rig.ticket, 0, checksums_of(data))
    assert rig.refuses(frame, bad) == pb.NACK_REASON_CORRUPT
    assert rig.refuses(commit_frame(rig.ticket, rig.source)) == pb.NACK_REASON_CORRUPT
    assert rig.ask(frame, data).HasField("ack")
    assert rig.ask(commit_frame(rig.ticket, rig.source)).HasField("ack")


async def test_only_the_piece_that_is_wrong_counts_as_missing(rig: Rig) -> None:
    data = rig.source.block(1) + rig.source.block(2)
    send_all(rig)
    first, *others = checksums_of(rig.source.block(1)) + checksums_of(rig.source.block(2))

    assert rig.refuses(blocks_frame(rig.ticket, 1, [first ^ 1, *others]), data) == pb.NACK_REASON_CORRUPT
    answer = rig.ask(commit_frame(rig.ticket, rig.source))
    assert answer.nack.message == "1 pieces never came"
    again = blocks_frame(rig.ticket, 1, [first])
    assert rig.ask(again, data[:PIECE_BYTES]).HasField("ack")
    assert rig.ask(commit_frame(rig.ticket, rig.source)).HasField("ack")


async def test_a_frame_may_begin_and_end_within_blocks(rig: Rig) -> None:
    data = [rig.source.block(block) for block in range(NUM_BLOCKS)]
    sums = [checksums_of(block) for block in data]

    assert rig.ask(blocks_frame(rig.ticket, 0, sums[0][:1]), data[0][:PIECE_BYTES]).HasField("ack")
    middle = blocks_frame(rig.ticket, 0, [sums[0][1], *sums[1], sums[2][0]], offset=PIECE_BYTES)
    assert rig.ask(middle, data[0][PIECE_BYTES:] + data[1] + data[2][:PIECE_BYTES]).HasField("ack")
    last = blocks_frame(rig.ticket, 2, sums[2][1:], offset=PIECE_BYTES)
    assert rig.ask(last, data[2][PIECE_BYTES:]).HasField("ack")
    assert rig.ask(commit_frame(rig.ticket, rig.source)).HasField("ack")
    assert rig.pool.blocks(range(NUM_BLOCKS)) == data


@pytest.mark.parametrize(
    ("block", "offset", "num_pieces"),
    [
        (NUM_BLOCKS, 0, 1),
        (2**32 - 1, 0, 1),
        (0, BLOCK_BYTES, 1),
        (0, 1, 1),
        (0, PIECE_BYTES - 1, 1),
        (0, 2 * PIECE_BYTES, 1),
        (0, 2**64 - PIECE_BYTES, 1),
        (0, 2**64 - 1, 1),
        (2, PIECE_BYTES, 2),
        (2, 0, 3),
        (0, 0, 2 * NUM_BLOCKS + 1),
    ],
)
async def test_pieces_that_are_not_the_tickets_are_malformed_and_write_nothing(
    rig: Rig, block: int, offset: int, num_pieces: int
) -> None:
    before = bytes(rig.pool.content)
    frame = blocks_frame(rig.ticket, block, [1] * num_pieces, offset=offset)

    assert rig.refuses(frame, b"x" * PIECE_BYTES) == pb.NACK_REASON_MALFORMED
    assert bytes(rig.pool.content) == before
    assert rig.receiver.malformed_frames == 1
    await rig.transfers_still_work()


async def test_the_first_block_of_a_ticket_is_where_its_pieces_begin(rig: Rig) -> None:
    ticket = make_ticket(rig.receiver, rig.pool, 5, name="later", first_block=3)
    rig.receiver.open(ticket, [6, 4])
    data = rig.source.block(0)

    assert rig.refuses(blocks_frame(ticket, 2, checksums_of(data)), data) == pb.NACK_REASON_MALFORMED
    assert rig.ask(blocks_frame(ticket, 4, checksums_of(data)), data).HasField("ack")
    assert rig.pool.block(4) == data


@pytest.mark.parametrize(
    "sizes",
    [(), (0,), (PIECE_BYTES,), (BLOCK_BYTES - 1,), (BLOCK_BYTES + 1,), (BLOCK_BYTES, 0), (PIECE_BYTES, 100)],
)
async def test_bytes_that_do_not_fit_their_pieces_are_malformed(rig: Rig, sizes: tuple[int, ...]) -> None:
    data = rig.source.block(0)
    before = bytes(rig.pool.content)

    frame = blocks_frame(rig.ticket, 0, checksums_of(data))
    assert rig.refuses(frame, *((data + b"x")[:size] for size in sizes)) == pb.NACK_REASON_MALFORMED

    assert bytes(rig.pool.content) == before
    await rig.transfers_still_work()


def test_a_payload_larger_than_a_frame_is_malformed_however_it_came() -> None:
    tickets = OpenTickets(FRAME_BYTES)
    ticket = make_ticket(Endpoint("zeromq", "nowhere"), Pool(2, FRAME_BYTES), 2)
    tickets.open(ticket, [0, 1])
    num_pieces, scattered = FRAME_BYTES // PIECE_BYTES + 1, []

    def scatter(_: Pieces, some: range) -> Checksums:
        scattered.append(some)
        return np.zeros(len(some), np.uint64)

    with pytest.raises(Refused) as refused:
        tickets.fill_pieces(ticket.fence, 0, 0, np.zeros(num_pieces, np.uint64), num_pieces * PIECE_BYTES, scatter)
    tickets.fill_pieces(ticket.fence, 0, 0, np.zeros(num_pieces - 1, np.uint64), FRAME_BYTES, scatter)

    assert refused.value.nack == pb.NACK_REASON_MALFORMED
    assert scattered == [range(num_pieces - 1)]


async def test_numbers_of_pieces_are_bounded(rig: Rig) -> None:
    assert rig.refuses(blocks_frame(rig.ticket, 0, [])) == pb.NACK_REASON_MALFORMED
    assert rig.refuses(blocks_frame(rig.ticket, 0, []), b"") == pb.NACK_REASON_MALFORMED
    frame = blocks_frame(rig.ticket, 0, [1] * (MAX_PIECES + 1))
    assert rig.ask(frame, b"x").nack.message == f"{MAX_PIECES + 1} pieces in one frame"


async def test_revoke_in_the_middle_of_a_frame_waits_for_it_and_nothing_lands_later(rig: Rig) -> None:
    data = rig.source.block(0)
    revoking = threading.Thread(target=rig.receiver.revoke, args=(rig.ticket.fence.ticket_id,))

    def revoke(_: int) -> None:
        rig.pool.on_view = lambda _: None
        revoking.start()
        revoking.join(0.05)
        assert revoking.is_alive()  # the receiver's thread is about to write

    rig.pool.on_view = revoke
    assert rig.ask(blocks_frame(rig.ticket, 0, checksums_of(data)), data).HasField("ack")
    revoking.join()
    before = bytes(rig.pool.content)
    assert rig.refuses(blocks_frame(rig.ticket, 1, checksums_of(data)), data) == pb.NACK_REASON_STALE
    assert bytes(rig.pool.content) == before


async def test_a_commit_has_no_payload(rig: Rig) -> None:
    send_all(rig)

    assert rig.refuses(commit_frame(rig.ticket, rig.source), b"more") == pb.NACK_REASON_MALFORMED
    assert not rig.arrived


async def test_a_frame_that_says_nothing_is_malformed(rig: Rig) -> None:
    frame = pb.SenderFrame(fence=fence_to_proto(rig.ticket.fence), number=4)

    assert rig.refuses(frame, b"payload") == pb.NACK_REASON_MALFORMED


@pytest.mark.parametrize(
    "parts",
    [
        (b"",),
        (b"", b"", b""),
        (b"garbage",),
        (b"\xff" * 1000, b"payload"),
        (pb.SenderFrame(number=3, commit=pb.Commit()).SerializeToString(),),
        (b"x" * (MAX_HEADER_BYTES + 1),),
        (b"x",) * 1000,
    ],
)
async def test_what_is_not_a_frame_is_dropped_and_counted(rig: Rig, parts: tuple[bytes, ...]) -> None:
    rig.tell(*parts)

    assert rig.receiver.malformed_frames == 1
    await rig.transfers_still_work()


async def test_a_part_too_large_ends_only_its_own_connection(rig: Rig) -> None:
    peer = rig.connect()
    peer.send_multipart([commit_frame(rig.ticket, rig.source).SerializeToString(), b"x" * (FRAME_BYTES + 1)])

    await rig.transfers_still_work()
    assert not peer.poll(100)
    peer.close()


async def test_what_is_not_zeromq_is_ignored(rig: Rig) -> None:
    host, port = rig.receiver.endpoint.address.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port))) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
        await rig.transfers_still_work()


async def test_a_deliver_that_raises_does_not_end_the_receiver(caplog: pytest.LogCaptureFixture) -> None:
    pool = Pool(1, 10)

    def deliver(arrived: Arrived) -> None:
        if arrived.ticket_id == "bad":
            raise RuntimeError("no loop")

    receiver = ZeroMQReceiver("tcp://127.0.0.1:0", pool, deliver)
    sender = ZeroMQSender(pool, stall_limit_s=0.2)
    bad, good = (make_ticket(receiver, pool, 1, name=name, first_block=1) for name in ("bad", "good"))
    receiver.open(bad, [])
    receiver.open(good, [])
    with pytest.raises(Exception, match="took nothing"):
        await sender.commit(bad, Commit(1))
    await sender.commit(good, Commit(1))
    await sender.aclose()
    receiver.close()
    assert "no loop" in caplog.text


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:0", "tcp://*:0", "nonsense", "ipc:///no/such/directory/kv"])
def test_an_address_nobody_could_use_is_a_configuration_error(address: str) -> None:
    with pytest.raises(ConfigError):
        ZeroMQReceiver(address, Pool(1, 1), lambda _: None)


blocks = st.builds(
    pb.Blocks,
    block=st.integers(0, 4) | st.integers(0, 2**32 - 1),
    offset=st.sampled_from([0, PIECE_BYTES]) | st.integers(0, 2**64 - 1),
    checksums=st.lists(st.integers(0, 2**64 - 1), max_size=7),
)
fences = st.builds(pb.Fence, ticket_id=st.sampled_from(["t", ""]), incarnation=st.just("i"), attempt=st.just(1))
frames = st.builds(
    pb.SenderFrame,
    fence=fences,
    number=st.integers(0, 2**64 - 1),
    blocks=blocks,
) | st.builds(pb.SenderFrame, fence=fences, commit=st.builds(pb.Commit, num_blocks=st.integers(0, 2**32 - 1)))
payloads = st.lists(
    st.binary(max_size=200)
    | st.sampled_from([b"x" * PIECE_BYTES, b"y" * 100, b"z" * BLOCK_BYTES, b"w" * 2 * BLOCK_BYTES]),
    max_size=5,
)
messages = st.lists(
    st.tuples(st.binary(max_size=300) | frames.map(lambda f: f.SerializeToString()), payloads), max_size=8
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=messages)
def test_no_message_ends_the_receiver_or_leaves_the_ticket(rig: Rig, messages: list[tuple[bytes, list[bytes]]]) -> None:
    foreign = rig.pool.blocks(range(NUM_BLOCKS, 8))
    peer = rig.connect()
    for header, parts in messages:
        peer.send_multipart([header, *parts])
    stranger = pb.SenderFrame(fence=pb.Fence(ticket_id="last"), commit=pb.Commit())
    peer.send(stranger.SerializeToString())
    while pb.ReceiverFrame.FromString(peer.recv()).fence.ticket_id != "last":
        pass
    peer.close()

    assert rig.pool.blocks(range(NUM_BLOCKS, 8)) == foreign
    assert not rig.arrived
