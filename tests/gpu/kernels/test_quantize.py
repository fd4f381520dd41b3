"""Rounding to eight bits against its twin, and int8 against the CPU's kernel, value for value."""

import numpy as np
import pytest
import torch

from engine.kernels.eight_bits import quantize_outputs
from engine.kernels.gpu.quantize import quantize_rows, quantize_rows_reference
from engine.kernels.quantize import quantize_row


def quantized(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    values, scales = torch.empty(x.shape, dtype=dtype), torch.empty(len(x))
    quantize_rows(x, values, scales)
    return values, scales


@pytest.mark.parametrize(("num_rows", "size"), [(0, 8), (1, 1), (3, 100), (4, 1024)])
@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_rows_agree_with_the_twin(num_rows: int, size: int, x_dtype: torch.dtype, dtype: torch.dtype) -> None:
    x = (torch.randn(num_rows, size) * torch.tensor([[0.01], [1.0], [300.0], [5.0]])[:num_rows]).to(x_dtype)

    values, scales = quantized(x, dtype)

    expected, expected_scales = quantize_rows_reference(x, dtype)
    assert torch.equal(values.float(), expected.float())
    assert torch.equal(scales, expected_scales)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_a_row_of_zeros_stays_zero(dtype: torch.dtype) -> None:
    values, scales = quantized(torch.zeros(1, 16), dtype)

    assert not values.float().any()
    assert not scales.any()


def test_ties_go_to_the_even_number() -> None:
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]])

    values, scales = quantized(x, torch.int8)

    assert values.tolist() == [[127, 0, 2, 2, 0, -2]]
    assert scales.tolist() == [1.0]


def test_int8_is_that_of_the_cpu() -> None:
    x = torch.randn(6, 500) * 3

    values, scales = quantized(x, torch.int8)

    for row in range(6):
        expected = np.empty(500, np.int8)
        scale, _ = quantize_row(x[row].cpu().numpy(), expected)
        assert np.array_equal(values[row].cpu().numpy(), expected)
        assert scales[row].item() == pytest.approx(scale, rel=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_in_int8_is_within_half_a_step(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.kernels.eight_bits._OUTPUTS_AT_ONCE", 16)
    weight = (torch.randn(40, 100) * torch.logspace(-3, 2, 40)[:, None]).to(dtype)
    weight[7] = 0

    values, scales = quantize_outputs(weight, torch.int8)

    exact = weight.double()
    assert values.dtype is torch.int8
    assert not values[7].any()
    others = torch.arange(40) != 7
    assert values.int().abs().amax(1)[others].tolist() == [127] * 39
    assert bool(((values * scales.double()[:, None] - exact).abs() <= scales.double()[:, None] * 0.50001).all())


def test_a_weight_in_float8_is_within_half_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.kernels.eight_bits._OUTPUTS_AT_ONCE", 3)
    weight = torch.randn(7, 64)
    weight[2] = 0

    values, scales = quantize_outputs(weight, torch.float8_e4m3fn)

    assert not values[2].float().any()
    assert values.float().abs().amax(1)[[0, 1, 3, 4, 5, 6]].tolist() == [448.0] * 6
    found, steps = values.float() * scales[:, None], scales[:, None] * 2.0**-9
    assert bool(((found - weight).abs() <= torch.maximum(weight.abs() / 16, steps / 2) * 1.001).all())
