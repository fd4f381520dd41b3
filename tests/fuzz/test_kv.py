"""Both receivers of KV with frames that are cut, changed, repeated or in another order.

Whatever comes: blocks of others stay as they are, what counts as arrived is what was sent, and the ticket can still be
filled by the book.
"""

import contextlib
import os
import socket
from collections.abc import Sequence

import pytest
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from kvtransfer.wire import fence_to_proto
from protos import kvtransfer_pb2 as pb
from tests.fuzz.budget import fuzz
from tests.fuzz.strategies import messages, mutated
from tests.kvtransfer import test_shm_frames as shm
from tests.kvtransfer import test_zeromq_frames as zeromq
from tests.kvtransfer.pools import Pool

OTHERS = range(3, 8)
"""Blocks of the pool that no ticket names."""

Frame = tuple[bytes, list[bytes]]
"""A header, and the parts behind it."""


def by_the_book(rig: zeromq.Rig) -> list[Frame]:
    """All of a ticket, and its commit."""
    frames: list[Frame] = []
    for block in range(zeromq.NUM_BLOCKS):
        data = rig.source.block(block)
        header = zeromq.blocks_frame(rig.ticket, block, zeromq.checksums_of(data), number=block)
        frames.append((header.SerializeToString(), [data]))
    return [*frames, (zeromq.commit_frame(rig.ticket, rig.source).SerializeToString(), [])]


Edit = tuple[int, bytes | None, list[bytes] | None]
"""Which frame is sent next, with another header and other parts where there are such."""

odd_parts = st.lists(st.binary(max_size=100) | st.integers(0, 1 << 19).map(bytes), max_size=3)


@st.composite
def zeromq_edits(draw: DrawFn, headers: Sequence[bytes]) -> list[Edit]:
    edits: list[Edit] = []
    for index in draw(st.lists(st.integers(0, len(headers) - 1), max_size=8)):
        header = draw(
            st.none() | mutated(st.just(headers[index])) | messages(pb.SenderFrame).map(lambda m: m.SerializeToString())
        )
        edits.append((index, header, draw(st.none() | odd_parts)))
    return edits


@pytest.mark.parametrize("on_device", [False, True])
def test_no_frames_over_zeromq_break_a_receiver(on_device: bool) -> None:
    sample = zeromq.Rig()
    headers = [header for header, _ in by_the_book(sample)]
    sample.close()

    def check(edits: list[Edit]) -> None:
        rig = zeromq.Rig(on_device=on_device)
        try:
            frames, others = by_the_book(rig), rig.pool.blocks(OTHERS)
            for index, header, parts in edits:
                rig.peer.send_multipart([header or frames[index][0], *(frames[index][1] if parts is None else parts)])
            until_read(rig)
            assert rig.pool.blocks(OTHERS) == others
            if not rig.arrived:
                with contextlib.suppress(AssertionError):
                    zeromq.send_all(rig)
                for header, parts in frames:
                    assert rig.ask(header, *parts).HasField("ack")
            assert len(rig.arrived) == 1
            assert rig.pool.blocks(range(3)) == rig.source.blocks(range(3))
            assert rig.pool.blocks(OTHERS) == others
        finally:
            rig.close()

    pools = "a GPU's pool" if on_device else "memory"
    fuzz(f"ZeroMQ frames into {pools}", zeromq_edits(headers), check, quick=40)


def until_read(rig: zeromq.Rig) -> None:
    """Answers come in the order of frames: that of a last one says that all were read."""
    last = pb.SenderFrame(fence=pb.Fence(ticket_id="last"), number=2**64 - 1, commit=pb.Commit())
    rig.peer.send(last.SerializeToString())
    while pb.ReceiverFrame.FromString(rig.peer.recv()).fence.ticket_id != "last":
        pass


# -- shared memory -----------------------------------------------------------------------------------------------------


@st.composite
def shm_messages(draw: DrawFn) -> tuple[bytes, bool]:
    """One control message, and whether the pool's descriptor comes with it."""
    fence = pb.Fence(ticket_id=draw(st.sampled_from(["t", "t", "t", "x"])), incarnation="i", attempt=1)
    numbers = st.integers(0, 4) | st.sampled_from([2**31, 2**32 - 1])
    sizes = st.sampled_from([shm.BLOCK_BYTES, shm.BLOCK_BYTES * 3, 0, 1, 2**40, 2**64 - 1])
    frame = draw(
        st.builds(pb.SenderFrame, attach=st.builds(pb.Attach, size_bytes=sizes, block_bytes=sizes))
        | st.builds(
            pb.SenderFrame,
            fence=st.just(fence),
            copy=st.builds(pb.Copy, first=numbers, source_blocks=st.lists(numbers, max_size=4)),
        )
        | st.builds(pb.SenderFrame, fence=st.just(fence), commit=st.builds(pb.Commit, num_blocks=numbers))
        | messages(pb.SenderFrame)
    )
    data = draw(mutated(st.just(frame.SerializeToString()), max_edits=draw(st.sampled_from([0, 0, 2]))))
    return data, draw(st.booleans())


def test_no_messages_beside_shared_memory_break_a_receiver() -> None:
    def check(sent: list[tuple[bytes, bool]]) -> None:
        rig = shm.Rig()
        small = os.memfd_create("small")
        try:
            others = rig.pool.blocks(OTHERS)
            peer = rig.connect()
            for data, with_memory in sent:
                with contextlib.suppress(OSError):  # an empty message ends a connection
                    socket.send_fds(peer, [data], [rig.memory.fd if with_memory else small])
            peer.close()
            fill_by_the_book(rig)
            assert len(rig.arrived) == 1
            assert rig.pool.blocks(OTHERS) == others
        finally:
            os.close(small)
            rig.close()

    fuzz("shared memory", st.lists(shm_messages(), max_size=8), check, quick=40)


def fill_by_the_book(rig: shm.Rig) -> None:
    """The ticket takes all of it, unless the frames before have completed it already."""
    assert rig.attach(rig.memory.fd).HasField("ack")
    copied = rig.copy(0, 1, 2)
    commit = pb.SenderFrame(fence=fence_to_proto(rig.ticket.fence), commit=pb.Commit(num_blocks=3))
    committed = rig.ask(commit)
    if copied.HasField("ack"):
        assert committed.HasField("ack")
        assert rig.pool.blocks(range(3)) == rig.source.blocks(range(3))
    else:
        assert copied.nack.reason == pb.NACK_REASON_STALE
        assert rig.arrived


def test_the_others_are_there() -> None:
    """What the tests above look after is outside of the ticket's blocks."""
    assert set(OTHERS).isdisjoint(range(zeromq.NUM_BLOCKS))
    assert Pool(8, 1).num_blocks == OTHERS.stop
