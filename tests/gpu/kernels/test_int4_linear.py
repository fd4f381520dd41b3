"""Products with four-bit weights against their twin. Of no bfloat16: the interpreter multiplies it wrongly."""

import pytest
import torch

from engine.kernels.gpu.int4_linear import GROUP, int4_linear, int4_linear_reference, pack, unpacked


def numbers(num_outputs: int, num_groups: int, group: int = GROUP) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    q = torch.randint(0, 16, (num_groups * group, num_outputs))
    return q, torch.rand(num_groups, num_outputs) * 0.1, torch.randint(0, 16, (num_groups, num_outputs))


def exact(q: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor) -> torch.Tensor:
    group = len(q) // len(scales)
    shares = (tensor.double().repeat_interleave(group, 0) for tensor in (scales, zeros))
    scale, zero = shares
    return ((q - zero) * scale).T


@pytest.mark.parametrize(
    ("num_rows", "num_outputs", "num_groups"),
    [(0, 8, 1), (1, 8, 1), (5, 100, 3), (16, 32, 2), (40, 72, 2), (130, 130, 1)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("with_bias", [False, True])
def test_rows_agree_with_the_twin(
    num_rows: int, num_outputs: int, num_groups: int, dtype: torch.dtype, with_bias: bool
) -> None:
    check(num_rows, num_outputs, num_groups, GROUP, dtype, dtype, with_bias)


@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize("num_rows", [1, 40])
@pytest.mark.parametrize("scales", [torch.float32, torch.float16])
def test_groups_are_smaller_and_scales_of_another_type(group: int, num_rows: int, scales: torch.dtype) -> None:
    check(num_rows, 72, 5, group, torch.float32, scales, True)


def check(
    num_rows: int,
    num_outputs: int,
    num_groups: int,
    group: int,
    dtype: torch.dtype,
    scale_dtype: torch.dtype,
    with_bias: bool,
) -> None:
    q, scales, zeros = numbers(num_outputs, num_groups, group)
    weight = pack(q, scales.to(scale_dtype), zeros)
    x = torch.randn(num_rows, num_groups * group).to(dtype)
    bias = torch.randn(num_outputs).to(dtype) if with_bias else None
    y = torch.empty(num_rows, num_outputs, dtype=dtype)

    int4_linear(x, weight, bias, y)

    tolerance = {torch.float32: 1e-4, torch.float16: 4e-3}[dtype]
    torch.testing.assert_close(y, int4_linear_reference(x, weight, bias), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("group", [32, 64, 128])
def test_what_is_packed_is_what_was_there(group: int) -> None:
    q, scales, zeros = numbers(24, 2, group)

    weight = pack(q, scales, zeros)

    assert weight.group == group
    torch.testing.assert_close(unpacked(weight), exact(q, scales, zeros))


@pytest.mark.parametrize(("depth", "num_groups"), [(100, 1), (256, 1), (64, 4)])
def test_groups_that_the_kernel_does_not_have_are_refused(depth: int, num_groups: int) -> None:
    group = depth // num_groups

    with pytest.raises(AssertionError, match=f"groups of {group} inputs"):
        pack(torch.zeros(depth, 8), torch.zeros(num_groups, 8), torch.zeros(num_groups, 8))
