"""A layer's products, by how its weights are kept."""

import pytest
import torch

from engine.errors import ConfigError
from engine.four_bit import FourBitMatrix
from engine.gpu.linear import EightBitLinear, FourBitLinear, Linear, Room

ROWS, INPUTS, OUTPUTS = 5, 192, 48


def here() -> torch.device:
    return torch.get_default_device()


def matrix(group: int, outputs: int = OUTPUTS) -> FourBitMatrix:
    groups = INPUTS // group
    q, zeros = (torch.randint(0, 16, (size, outputs), dtype=torch.uint8) for size in (INPUTS, groups))
    return FourBitMatrix(q, zeros, (torch.rand(groups, outputs) * 0.1).half())


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("with_bias", [False, True])
def test_eight_bits_are_near_to_the_model_type(dtype: torch.dtype, with_bias: bool) -> None:
    weight, rows = torch.randn(OUTPUTS, INPUTS), torch.randn(ROWS, INPUTS)
    bias = torch.randn(OUTPUTS) if with_bias else None
    room, out = Room(ROWS, INPUTS, dtype, here()), torch.empty(ROWS, OUTPUTS)

    found = EightBitLinear.of(weight, bias, dtype)(rows, out, room)

    assert found is out
    exact = Linear(weight, bias)(rows, torch.empty_like(out), room)
    assert (found - exact).norm() / exact.norm() < {torch.int8: 0.015, torch.float8_e4m3fn: 0.05}[dtype]


def test_products_share_their_room_and_leave_nothing_in_it() -> None:
    room = Room(ROWS, INPUTS, torch.int8, here())
    first, second = (EightBitLinear.of(torch.randn(OUTPUTS, size), None, torch.int8) for size in (INPUTS, 64))
    rows, few = torch.randn(ROWS, INPUTS), torch.randn(2, 64)
    alone = first(rows, torch.empty(ROWS, OUTPUTS), room).clone()

    second(few, torch.empty(2, OUTPUTS), room)

    assert torch.equal(first(rows, torch.empty(ROWS, OUTPUTS), room), alone)


@pytest.mark.parametrize("group", [32, 64, 96, 192])
def test_four_bits_are_those_of_the_checkpoint(group: int) -> None:
    """96 inputs of a group are three groups of 32 with one scale."""
    upper, lower, bias = matrix(group), matrix(group, 16), torch.randn(OUTPUTS + 16)
    rows, out = torch.randn(ROWS, INPUTS), torch.empty(ROWS, OUTPUTS + 16)

    FourBitLinear.of([upper, lower], bias)(rows, out, Room(ROWS, INPUTS, None, here()))

    weight = torch.cat([part.dense(torch.float32) for part in (upper, lower)])
    torch.testing.assert_close(out, rows @ weight.T + bias, rtol=1e-4, atol=1e-4)


def in_order(matrix: FourBitMatrix, groups: torch.Tensor) -> FourBitMatrix:
    return FourBitMatrix(matrix.q, matrix.zeros, matrix.scales, groups)


def test_inputs_of_a_group_may_lie_apart() -> None:
    upper, lower = (in_order(matrix(32, outputs), torch.arange(INPUTS) % 6) for outputs in (OUTPUTS, 16))
    rows, out = torch.randn(ROWS, INPUTS), torch.empty(ROWS, OUTPUTS + 16)

    FourBitLinear.of([upper, lower], None)(rows, out, Room(ROWS, INPUTS, None, here()))

    weight = torch.cat([part.dense(torch.float32) for part in (upper, lower)])
    torch.testing.assert_close(out, rows @ weight.T, rtol=1e-4, atol=1e-4)


def test_what_the_kernel_was_not_made_for_is_said() -> None:
    plain, apart = matrix(32), in_order(matrix(32), torch.arange(INPUTS) % 6)
    uneven = in_order(matrix(32), (torch.arange(INPUTS) % 7).clamp(max=5))

    with pytest.raises(ConfigError, match="different orders"):
        FourBitLinear.of([plain, apart], None)
    with pytest.raises(ConfigError, match="different orders"):
        FourBitLinear.of([uneven, apart], None)
    with pytest.raises(ConfigError, match="different sizes"):
        FourBitLinear.of([uneven, uneven], None)
    with pytest.raises(ConfigError, match="group of 48 inputs is no multiple of 32"):
        FourBitLinear.of([matrix(48)], None)
