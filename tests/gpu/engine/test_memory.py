"""The number of KV blocks, from bytes."""

import pytest

from engine.errors import ConfigError
from engine.gpu.memory import MIB, Measured, blocks_that_fit, reserve_bytes

MEASURED = Measured(total=1000 * MIB, free=600 * MIB, taken=300 * MIB, activations=60 * MIB)


def test_blocks_take_what_steps_and_the_reserve_leave() -> None:
    fit = blocks_that_fit(MEASURED, 4 * MIB, 16, reserve_bytes=41 * MIB, min_tokens=2)

    assert fit == 124  # 499 MiB


def test_what_cannot_hold_one_context_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(ConfigError) as refusal:
        blocks_that_fit(MEASURED, 4 * MIB, 16, reserve_bytes=41 * MIB, min_tokens=124 * 16 + 1)

    assert refusal.value.field == "max_context"
    words = ("124 KV blocks of 16 tokens", "1985 tokens", "1000 MiB", "600 MiB", "60 MiB", "41 MiB", "4194304 bytes")
    for word in words:
        assert word in refusal.value.message


def test_room_that_is_overdrawn_is_none() -> None:
    with pytest.raises(ConfigError, match="^0 KV blocks"):
        blocks_that_fit(MEASURED, MIB, 16, reserve_bytes=700 * MIB, min_tokens=2)


def test_a_share_is_of_the_whole_gpu_with_all_that_the_worker_takes() -> None:
    fit = blocks_that_fit(MEASURED, 4 * MIB, 16, reserve_bytes=41 * MIB, min_tokens=2, share=0.5)

    assert fit == 24  # 99 MiB


def test_a_share_promises_nothing_that_others_have_taken() -> None:
    full = Measured(total=1000 * MIB, free=150 * MIB, taken=300 * MIB, activations=60 * MIB)

    assert blocks_that_fit(full, 4 * MIB, 16, reserve_bytes=41 * MIB, min_tokens=2, share=0.5) == 12  # 49 MiB


def test_a_share_too_small_is_refused_with_its_arithmetic() -> None:
    with pytest.raises(ConfigError) as refusal:
        blocks_that_fit(MEASURED, 4 * MIB, 16, reserve_bytes=41 * MIB, min_tokens=2, share=0.25)

    for word in ("share of 0.25 is 250 MiB", "they take 300 MiB", "fewer workers on a GPU have larger shares"):
        assert word in refusal.value.message


def test_a_pool_that_was_asked_for_is_held_against_what_fits() -> None:
    def asked(blocks: int) -> int:
        return blocks_that_fit(MEASURED, 4 * MIB, 16, reserve_bytes=41 * MIB, min_tokens=2, asked=blocks)

    assert asked(1) == 1
    assert asked(124) == 124
    with pytest.raises(
        ConfigError, match="124 KV blocks of 16 tokens fit on the GPU, and 125 were asked for"
    ) as refusal:
        asked(125)
    assert refusal.value.field == "num_blocks"


def test_groups_of_nccl_have_memory_of_their_own() -> None:
    assert reserve_bytes(10, "off") == reserve_bytes(10, "gloo") == 10 * MIB
    assert reserve_bytes(10, "nccl") == (10 + 1600) * MIB
