import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.kernels.copy_blocks import copy_blocks

RUN_BYTES = 16 << 10
SIZES = [1, 63, 64, 4096, RUN_BYTES - 64, RUN_BYTES, RUN_BYTES + 1, RUN_BYTES + 64, 3 * RUN_BYTES + 4096]


def check(block_bytes: int, blocks: list[int], slots: list[int], shift: int) -> None:
    """Against NumPy's copy; the pools begin `shift` bytes behind a line, and nothing around them may change."""
    rng = np.random.default_rng(block_bytes)
    source = rng.integers(0, 256, (6, block_bytes), dtype=np.uint8)
    source.flags.writeable = False
    size = 8 * block_bytes
    memory = rng.integers(0, 256, size + 256, dtype=np.uint8)
    start = -memory.ctypes.data % 64 + shift
    expected = memory.copy()
    expected[start : start + size].reshape(8, block_bytes)[slots] = source[blocks]

    target = memory[start : start + size].reshape(8, block_bytes)
    copy_blocks(source, np.array(blocks, np.int64), target, np.array(slots, np.int64))

    assert (memory == expected).all()


@pytest.mark.parametrize("shift", [0, 1, 64])
@pytest.mark.parametrize("block_bytes", SIZES)
def test_blocks_are_copied_and_nothing_else_is_written(block_bytes: int, shift: int) -> None:
    check(block_bytes, [4, 0, 5, 4], [7, 2, 0, 3], shift)


@given(
    block_bytes=st.integers(1, 3 * RUN_BYTES) | st.integers(1, 48).map(lambda pages: 1024 * pages),
    blocks=st.lists(st.integers(0, 5), max_size=4),
    slots=st.permutations(range(8)),
    shift=st.sampled_from([0, 16, 64]),
)
def test_any_blocks_of_any_size(block_bytes: int, blocks: list[int], slots: list[int], shift: int) -> None:
    check(block_bytes, blocks, slots[: len(blocks)], shift)


def test_nothing_is_compiled_when_it_is_first_called() -> None:
    assert len(copy_blocks.signatures) == 1
