"""What a receiver does with frames that no honest sender makes, sent over a plain DEALER socket."""

import socket
from collections.abc import Iterator, Sequence

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError
from kvtransfer.transport import Arrived, Commit, Ticket
from kvtransfer.wire import MAX_HEADER_BYTES, MAX_PIECES, PIECE_BYTES, checksum, digest, fence_to_proto
from kvtransfer.zeromq import ZeroMQSender
from kvtransfer.zeromq_receiver import ZeroMQReceiver
from protos import kvtransfer_pb2 as pb
from tests.kvtransfer.pools import Pool, make_ticket, refenced

NUM_BLOCKS = 3
BLOCK_BYTES = PIECE_BYTES + 100
SIZES = (PIECE_BYTES, 100)


class Rig:
    """A receiver with one open ticket, and a peer that says whatever it likes."""

    def __init__(self) -> None:
        self.source, self.pool = Pool(NUM_BLOCKS, BLOCK_BYTES, seed=1), Pool(8, BLOCK_BYTES, seed=2)
        self.arrived: list[Arrived] = []
        self.receiver = ZeroMQReceiver("tcp://127.0.0.1:0", self.pool, self.arrived.append)
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


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def segments_of(data: bytes, block: int) -> list[pb.Segment]:
    head, tail = memoryview(data)[:PIECE_BYTES], memoryview(data)[PIECE_BYTES:]
    return [
        pb.Segment(block=block, offset=0, size=len(head), checksum=checksum(head)),
        pb.Segment(block=block, offset=len(head), size=len(tail), checksum=checksum(tail)),
    ]


def blocks_frame(ticket: Ticket, segments: Sequence[pb.Segment], number: int = 0) -> pb.SenderFrame:
    return pb.SenderFrame(fence=fence_to_proto(ticket.fence), number=number, blocks=pb.Blocks(segments=segments))


def commit_frame(ticket: Ticket, source: Pool, **changes: int) -> pb.SenderFrame:
    """The right commit of all of `source`, but for `changes`."""
    sums = {
        (block, segment.offset): segment.checksum
        for block in range(NUM_BLOCKS)
        for segment in segments_of(source.block(block), block)
    }
    fields = {"num_blocks": NUM_BLOCKS, "digest": digest(sums), "first_token": 5, **changes}
    return pb.SenderFrame(fence=fence_to_proto(ticket.fence), number=77, commit=pb.Commit(**fields))  # type: ignore[arg-type]


def send_all(rig: Rig) -> None:
    for block in range(NUM_BLOCKS):
        data = rig.source.block(block)
        frame = blocks_frame(rig.ticket, segments_of(data, block), number=block)
        assert rig.ask(frame, data[:PIECE_BYTES], data[PIECE_BYTES:]).HasField("ack")


def test_frames_by_the_book_are_acknowledged_and_commit_is_answered_again(rig: Rig) -> None:
    send_all(rig)
    frame = commit_frame(rig.ticket, rig.source)

    assert [rig.ask(frame).HasField("ack") for _ in range(3)] == [True] * 3
    assert [arrived.commit.first_token for arrived in rig.arrived] == [5]
    assert rig.pool.blocks(range(NUM_BLOCKS)) == rig.source.blocks(range(NUM_BLOCKS))


@pytest.mark.parametrize("changes", [{"digest": 1}, {"num_blocks": 2}, {"num_blocks": 2**32 - 1}])
async def test_a_commit_that_disagrees_is_corrupt(rig: Rig, changes: dict[str, int]) -> None:
    send_all(rig)

    assert rig.refuses(commit_frame(rig.ticket, rig.source, **changes)) == pb.NACK_REASON_CORRUPT
    assert not rig.arrived
    assert rig.ask(commit_frame(rig.ticket, rig.source)).HasField("ack")


async def test_a_wrong_checksum_is_corrupt_and_the_piece_counts_as_missing(rig: Rig) -> None:
    send_all(rig)
    data = rig.source.block(0)
    bad = data[:-1] + bytes([data[-1] ^ 1])

    frame = blocks_frame(rig.ticket, segments_of(data, 0))
    assert rig.refuses(frame, bad[:PIECE_BYTES], bad[PIECE_BYTES:]) == pb.NACK_REASON_CORRUPT
    assert rig.refuses(commit_frame(rig.ticket, rig.source)) == pb.NACK_REASON_CORRUPT
    assert rig.ask(frame, data[:PIECE_BYTES], data[PIECE_BYTES:]).HasField("ack")
    assert rig.ask(commit_frame(rig.ticket, rig.source)).HasField("ack")


@pytest.mark.parametrize(
    "segment",
    [
        pb.Segment(block=NUM_BLOCKS, size=PIECE_BYTES),
        pb.Segment(block=2**32 - 1, size=PIECE_BYTES),
        pb.Segment(block=0, offset=BLOCK_BYTES, size=0),
        pb.Segment(block=0, offset=0, size=PIECE_BYTES - 1),
        pb.Segment(block=0, offset=0, size=2**64 - 1),
        pb.Segment(block=0, offset=1, size=100),
        pb.Segment(block=0, offset=PIECE_BYTES, size=101),
        pb.Segment(block=0, offset=2**64 - PIECE_BYTES, size=PIECE_BYTES),
        pb.Segment(block=0, offset=0, size=0),
    ],
)
async def test_a_segment_outside_its_block_is_malformed_and_writes_nothing(rig: Rig, segment: pb.Segment) -> None:
    good, before = segments_of(rig.source.block(1), 1)[:1], bytes(rig.pool.memory)
    part = rig.source.block(1)[:PIECE_BYTES]

    reason = rig.refuses(blocks_frame(rig.ticket, [*good, segment]), part, b"x" * min(segment.size, 200))

    assert reason == pb.NACK_REASON_MALFORMED
    assert bytes(rig.pool.memory) == before
    assert rig.receiver.malformed_frames == 1
    await rig.transfers_still_work()


@pytest.mark.parametrize("sizes", [(), SIZES[:1], (*SIZES, 1), (0, 100), (PIECE_BYTES, 0), (100, PIECE_BYTES)])
async def test_parts_that_do_not_fit_their_segments_are_malformed(rig: Rig, sizes: tuple[int, ...]) -> None:
    data = rig.source.block(0)
    others = rig.pool.blocks(range(1, 8))

    frame = blocks_frame(rig.ticket, segments_of(data, 0))
    assert rig.refuses(frame, *(data[:size] for size in sizes)) in (pb.NACK_REASON_MALFORMED, pb.NACK_REASON_CORRUPT)

    assert rig.pool.blocks(range(1, 8)) == others
    await rig.transfers_still_work()


async def test_numbers_of_segments_are_bounded(rig: Rig) -> None:
    segment = segments_of(rig.source.block(0), 0)[1]

    assert rig.refuses(blocks_frame(rig.ticket, [])) == pb.NACK_REASON_MALFORMED
    assert rig.refuses(blocks_frame(rig.ticket, [segment] * (MAX_PIECES + 1))) == pb.NACK_REASON_MALFORMED


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
    peer.send_multipart([commit_frame(rig.ticket, rig.source).SerializeToString(), b"x" * (PIECE_BYTES + 1)])

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


segments = st.builds(
    pb.Segment,
    block=st.integers(0, 4) | st.integers(0, 2**32 - 1),
    offset=st.sampled_from([0, PIECE_BYTES]) | st.integers(0, 2**64 - 1),
    size=st.sampled_from([*SIZES, 0]) | st.integers(0, 2**64 - 1),
    checksum=st.integers(0, 2**64 - 1),
)
fences = st.builds(
    pb.Fence, ticket_id=st.sampled_from(["t", ""]), incarnation=st.just("i"), epoch=st.just(3), attempt=st.just(1)
)
frames = st.builds(
    pb.SenderFrame,
    fence=fences,
    number=st.integers(0, 2**64 - 1),
    blocks=st.builds(pb.Blocks, segments=st.lists(segments)),
) | st.builds(pb.SenderFrame, fence=fences, commit=st.builds(pb.Commit, num_blocks=st.integers(0, 2**32 - 1)))
payloads = st.lists(st.binary(max_size=200) | st.sampled_from([b"x" * PIECE_BYTES, b"y" * 100]), max_size=5)
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
