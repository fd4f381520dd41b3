"""XXH3-64 against the library's, and the copy that comes with it."""

import numpy as np
import numpy.typing as npt
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from engine.kernels.xxh3 import MIN_BYTES, copy_hashed

SOURCE = np.random.default_rng(1).integers(0, 256, 400_000, dtype=np.uint8)
SOURCE.flags.writeable = False


def target_of(size: int) -> npt.NDArray[np.uint8]:
    """Begins with a line."""
    memory = np.full(size + 64, 0xAA, np.uint8)
    return memory[-memory.ctypes.data % 64 :][:size]


def copy(target: npt.NDArray[np.uint8], pieces: list[tuple[int, int, int]], *, to_memory: bool) -> list[int]:
    """Of begin, start and size each; the hashes."""
    begins, starts, sizes = np.array(pieces, np.int64).T.copy()
    hashes = np.zeros(len(pieces), np.uint64)
    copy_hashed(SOURCE, begins, target, starts, sizes, to_memory, hashes)
    return hashes.tolist()


@given(
    size=st.integers(MIN_BYTES, 5000) | st.integers(MIN_BYTES, 300_000),
    begin=st.integers(0, 200),
    start=st.integers(0, 200) | st.integers(0, 3).map(lambda line: 64 * line),
    to_memory=st.booleans(),
)
def test_a_copy_is_exact_and_hashed_as_the_library_does(size: int, begin: int, start: int, *, to_memory: bool) -> None:
    target = target_of(size + 400)
    data = SOURCE[begin : begin + size]

    assert copy(target, [(begin, start, size)], to_memory=to_memory) == [xxhash.xxh3_64_intdigest(data.tobytes())]
    assert (target[start : start + size] == data).all()
    assert (target[:start] == 0xAA).all()
    assert (target[start + size :] == 0xAA).all()


@pytest.mark.parametrize("to_memory", [False, True])
def test_every_short_size_is_hashed_as_the_library_does(to_memory: bool) -> None:  # noqa: FBT001 — a parameter
    target = target_of(4096)
    for size in range(MIN_BYTES, 4096):
        assert copy(target, [(3, 0, size)], to_memory=to_memory) == [
            xxhash.xxh3_64_intdigest(SOURCE[3 : 3 + size].tobytes())
        ]


def test_several_pieces_are_one_call_and_those_too_short_are_left_out() -> None:
    target = target_of(10_000)
    pieces = [(100, 0, 2000), (5000, 6001, 3000), (0, 3000, MIN_BYTES - 1)]

    hashes = copy(target, pieces, to_memory=True)
    expected = [xxhash.xxh3_64_intdigest(SOURCE[begin : begin + size].tobytes()) for begin, _, size in pieces[:2]]
    assert hashes == [*expected, 0]
    assert (target[3000:6001] == 0xAA).all()
    assert (target[6001:9001] == SOURCE[5000:8000]).all()


def test_nothing_is_compiled_when_it_is_first_called() -> None:
    assert len(copy_hashed.signatures) == 1
