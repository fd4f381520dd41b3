import random
from itertools import pairwise

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from engine.kernels.xxh3 import MIN_BYTES
from kvtransfer.pieces import FRAME_BYTES, MAX_PIECES, PIECE_BYTES, Bytes, Cut, Pieces, digest

sizes_of_blocks = st.integers(1, 5 * PIECE_BYTES) | st.integers(1, 5).map(lambda count: count * PIECE_BYTES)


def random_bytes(size: int, seed: int) -> Bytes:
    return np.frombuffer(bytearray(random.Random(seed).randbytes(size)), np.uint8)


@given(block_bytes=sizes_of_blocks)
def test_pieces_cover_each_block_once(block_bytes: int) -> None:
    cut = Cut(block_bytes)
    pieces = Pieces(cut, np.array([4, 1]))
    first, second = (slice(i * cut.per_block, (i + 1) * cut.per_block) for i in range(2))

    assert len(pieces) == 2 * cut.per_block
    for block, some in ((4, first), (1, second)):
        begins, sizes = pieces.begins[some].tolist(), pieces.sizes[some].tolist()
        assert begins == [block * block_bytes + sum(sizes[:i]) for i in range(cut.per_block)]
        assert sum(sizes) == block_bytes
        assert set(sizes[:-1]) <= {PIECE_BYTES}
        assert 0 < sizes[-1] <= PIECE_BYTES


@given(block_bytes=sizes_of_blocks, number=st.integers(0, 10_000))
def test_a_piece_is_known_by_its_number_or_its_place(block_bytes: int, number: int) -> None:
    cut = Cut(block_bytes)
    block, offset = cut.place(number)

    assert cut.number(block, offset) == number
    assert cut.number(block, offset + 1) is None
    assert cut.number(block, cut.per_block * PIECE_BYTES) is None


@given(block_bytes=sizes_of_blocks, num_blocks=st.integers(0, 40) | st.integers(0, 2000))
def test_frames_carry_all_pieces_once_and_no_more_than_they_may(block_bytes: int, num_blocks: int) -> None:
    pieces = Pieces(Cut(block_bytes), np.arange(num_blocks))
    frames = list(pieces.frames())

    assert [piece for some in frames for piece in some] == list(range(len(pieces)))
    assert all(0 < len(some) <= MAX_PIECES for some in frames)
    assert all(pieces.size_bytes(some) == pieces.sizes[some.start : some.stop].sum() <= FRAME_BYTES for some in frames)


@pytest.mark.parametrize("block_bytes", [1, 33, MIN_BYTES - 1, MIN_BYTES, 16 << 10, PIECE_BYTES + 1, 2 * PIECE_BYTES])
def test_pieces_go_through_a_frame_unchanged_and_nothing_else_does(block_bytes: int) -> None:
    cut = Cut(block_bytes)
    source, target = random_bytes(8 * block_bytes, 1), random_bytes(8 * block_bytes, 2)
    blocks, slots, frame = np.array([5, 0, 7]), np.array([1, 6, 2]), np.zeros(3 * block_bytes + 64, np.uint8)
    expected = target.reshape(8, -1).copy()
    expected[slots] = source.reshape(8, -1)[blocks]
    pieces = Pieces(cut, blocks)
    some = range(len(pieces))

    sent = pieces.gather(some, source, frame)
    assert not frame[3 * block_bytes :].any()
    came = Pieces(cut, slots).scatter(some, frame[: 3 * block_bytes], target)

    assert (target.reshape(8, -1) == expected).all()
    assert (sent == came).all()
    ends = (pieces.begins + pieces.sizes).tolist()
    data = [source[begin:end].tobytes() for begin, end in zip(pieces.begins.tolist(), ends, strict=True)]
    assert sent.tolist() == [xxhash.xxh3_64_intdigest(piece) for piece in data]


@given(block_bytes=sizes_of_blocks, blocks=st.lists(st.integers(0, 9), unique=True, min_size=1), data=st.data())
def test_runs_are_all_bytes_of_their_pieces_and_as_few_as_can_be(
    block_bytes: int, blocks: list[int], data: st.DataObject
) -> None:
    pieces = Pieces(Cut(block_bytes), np.array(blocks))
    first = data.draw(st.integers(0, len(pieces) - 1))
    some = range(first, data.draw(st.integers(first + 1, len(pieces))))
    runs = pieces.runs(some)

    assert [run.start for run in runs] == [sum(run.size_bytes for run in runs[:i]) for i in range(len(runs))]
    assert sum(run.size_bytes for run in runs) == pieces.size_bytes(some)
    assert all(run.begin + run.size_bytes != following.begin for run, following in pairwise(runs))
    for start, number in zip(pieces.starts(some).tolist(), some, strict=True):
        (run,) = (run for run in runs if run.start <= start < run.start + run.size_bytes)
        assert run.begin + start - run.start == pieces.begins[number]
        assert start + pieces.sizes[number] <= run.start + run.size_bytes


@pytest.mark.parametrize("to_memory", [False, True])
def test_pieces_are_copied_from_frame_to_frame(to_memory: bool) -> None:
    pieces = Pieces(Cut(PIECE_BYTES + 33), np.array([3, 1]))
    source, target = random_bytes(pieces.size_bytes(range(1, 4)) + 10, 1), np.zeros(2 * PIECE_BYTES, np.uint8)

    sums = pieces.copy(range(1, 4), source, target, to_memory=to_memory)

    size = PIECE_BYTES + 66
    assert (target[:size] == source[:size]).all()
    assert not target[size:].any()
    ends = [0, 33, PIECE_BYTES + 33, size]
    assert sums.tolist() == [xxhash.xxh3_64_intdigest(source[a:b].tobytes()) for a, b in pairwise(ends)]


def test_a_digest_depends_on_every_checksum_and_their_order() -> None:
    assert len({digest(np.array(sums, np.uint64), 7) for sums in ([1, 2], [2, 1], [1, 3], [1], [])}) == 5
    assert len({digest(np.array([1], np.uint64), token) for token in (0, 7, 2**31 - 1)}) == 3
    data = b"\1" + bytes(14) + b"\x80" + b"\5" + bytes(7)
    assert digest(np.array([1, 2**63], np.uint64), 5) == xxhash.xxh3_64_intdigest(data)
