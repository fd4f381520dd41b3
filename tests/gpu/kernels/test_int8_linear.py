"""int8 products against their twin, which is exact but for the scales, and against the CPU's."""

import pytest
import torch

from engine.kernels.eight_bits import product_reference, quantize_outputs
from engine.kernels.gpu.int8_linear import int8_linear
from engine.kernels.gpu.quantize import quantize_rows
from engine.kernels.linear import linear_int8_twin

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-2}
"""Relative. The interpreter does not round to bfloat16, it cuts off."""


@pytest.mark.parametrize(
    ("num_rows", "num_outputs", "depth"), [(0, 8, 16), (1, 8, 16), (5, 100, 300), (16, 32, 512), (40, 72, 128)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [False, True])
def test_rows_agree_with_the_twin(
    num_rows: int, num_outputs: int, depth: int, dtype: torch.dtype, with_bias: bool
) -> None:
    x, weight = (torch.randint(-127, 128, (size, depth), dtype=torch.int8) for size in (num_rows, num_outputs))
    x_scales, scales = torch.rand(num_rows), torch.rand(num_outputs)
    bias = torch.randn(num_outputs).to(dtype) if with_bias else None
    y = torch.full((num_rows, num_outputs), torch.nan, dtype=dtype)

    int8_linear(x, x_scales, weight, scales, bias, y)

    expected = product_reference(x, x_scales, weight, scales, bias, dtype)
    torch.testing.assert_close(y, expected, rtol=TOLERANCE[dtype], atol=1e-3)


def test_many_rows_take_the_largest_tile() -> None:
    x, weight = (torch.randint(-127, 128, (size, 160), dtype=torch.int8) for size in (130, 140))
    x_scales, scales, y = torch.rand(130), torch.rand(140), torch.empty(130, 140)

    int8_linear(x, x_scales, weight, scales, None, y)

    expected = product_reference(x, x_scales, weight, scales, None, torch.float32)
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-3)


def test_sums_as_large_as_they_can_be_are_exact() -> None:
    x, weight = torch.full((1, 4096), 127, dtype=torch.int8), torch.full((3, 4096), -127, dtype=torch.int8)
    y = torch.empty(1, 3)

    int8_linear(x, torch.ones(1), weight, torch.ones(3), None, y)

    assert y.tolist() == [[-127.0 * 127 * 4096] * 3]


@pytest.mark.parametrize("with_bias", [False, True])
def test_a_product_is_that_of_the_cpu(with_bias: bool) -> None:
    x, weight = torch.randn(7, 200) * 3, torch.randn(24, 200)
    weight[3] = 0
    x[2] = 0
    bias = torch.randn(24) if with_bias else None
    values, scales = torch.empty(x.shape, dtype=torch.int8), torch.empty(7)
    quantize_rows(x, values, scales)
    y = torch.empty(7, 24)

    int8_linear(values, scales, *quantize_outputs(weight, torch.int8), bias, y)

    expected = linear_int8_twin(x.cpu(), weight.cpu(), None if bias is None else bias.cpu())
    torch.testing.assert_close(y.cpu(), expected, rtol=1e-6, atol=1e-5)
