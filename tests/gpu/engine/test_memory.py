"""The number of KV blocks, from bytes."""

import pytest

from engine.errors import ConfigError
from engine.gpu.memory import MIB, Measured, blocks_that_fit

MEASURED = Measured(total=1000 * MIB, free=600 * MIB, activations=60 * MIB)


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
