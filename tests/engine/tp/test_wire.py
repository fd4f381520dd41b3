"""What rank 0 tells the others arrives as it was said."""

import os
import socket
import threading
from dataclasses import fields

import numpy as np
import pytest

from engine.batch import Batch, Chunk
from engine.tp.channel import Channel
from engine.tp.wire import Setup, pack_batch, unpack_batch
from tests.reference import sequence_of

SETUP = Setup(
    rank=1,
    size=2,
    service="decode/1",
    log_level="info",
    log_format="text",
    num_threads=3,
    folder="/models/Überraschung",
    dtype="auto",
    quantize=True,
    max_context=160,
    num_blocks=7,
    block_tokens=16,
    kv_dtype="int8",
)


def chunk(num_tokens: int, start: int, length: int) -> Chunk:
    sequence = sequence_of(str(length), range(length))
    sequence.blocks.extend(range(1, length + 2))
    return Chunk(sequence, start, start + num_tokens)


@pytest.mark.parametrize(
    "chunks",
    [[chunk(1, 8, 9)], [chunk(5, 0, 9)], [chunk(9, 0, 9)], [chunk(1, 8, 9), chunk(1, 3, 4), chunk(7, 2, 9)]],
    ids=["decode", "no-samples", "prompt", "mixed"],
)
def test_a_batch_is_the_same_on_the_other_side(chunks: list[Chunk]) -> None:
    batch = Batch.build(chunks, 4)
    other = unpack_batch(bytearray(pack_batch(batch)))

    assert other.sampled == other.pooled == other.scored == ()
    assert other.continues is None
    assert other.num_decode == batch.num_decode
    of_rank_0 = {"sampled", "pooled", "scored", "scored_ids"}
    for name in {field.name for field in fields(Batch)} - of_rank_0 - {"continues", "num_decode"}:
        here, there = getattr(batch, name), getattr(other, name)
        assert there.dtype == here.dtype
        np.testing.assert_array_equal(there, here)
        assert there.flags.writeable, "kernels are compiled for arrays that are"
        assert there.flags.c_contiguous
        assert there.flags.aligned


def test_tokens_that_only_rank_0_has_are_told_of() -> None:
    ahead, known = chunk(1, 9, 9), chunk(1, 3, 4)
    batch = Batch.build([known, ahead], 4, before=(known.sequence, ahead.sequence))
    other = unpack_batch(bytearray(pack_batch(batch)))

    assert other.continues is not None
    assert other.continues.tolist() == [-1, 1]
    np.testing.assert_array_equal(other.block_tables, batch.block_tables)


def test_a_setup_is_the_same_on_the_other_side() -> None:
    assert Setup.from_bytes(SETUP.to_bytes()) == SETUP


def test_messages_of_any_size_come_in_order_and_then_the_end() -> None:
    here, there = (Channel(end) for end in socket.socketpair())
    messages = [b"", b"a", bytes(range(256)) * 8192, b"z"]  # more than a socket's buffer holds

    def send() -> None:
        for message in messages:
            here.send(message)
        here.close()

    thread = threading.Thread(target=send)
    thread.start()
    assert [there.receive() for _ in messages] == messages
    assert there.receive() is None
    thread.join()
    there.close()


def test_descriptors_come_with_their_message() -> None:
    here, there = (Channel(end) for end in socket.socketpair())
    read, write = os.pipe()
    here.send(b"take it", (write,))
    os.close(write)
    received = there.receive_with(1)
    assert received is not None
    data, (descriptor,) = received
    os.write(descriptor, b"through")
    os.close(descriptor)
    assert (data, os.read(read, 100)) == (b"take it", b"through")
    os.close(read)
    here.close()
    assert there.receive_with(1) is None
    there.close()


def test_a_side_that_takes_nothing_is_not_waited_for() -> None:
    here, there = (Channel(end) for end in socket.socketpair())
    here.limit(0.01)
    with pytest.raises(TimeoutError):
        here.send(bytes(1 << 24))
    here.close()
    there.close()
