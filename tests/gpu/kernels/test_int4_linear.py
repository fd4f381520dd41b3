"""Products with four-bit weights against their twin. Of no bfloat16: the interpreter multiplies it wrongly."""

import pytest
import torch

from engine.kernels.gpu.int4_linear import (
    GROUP,
    Int4Weight,
    from_awq,
    from_gptq,
    int4_linear,
    int4_linear_reference,
    pack,
    unpacked,
)

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def numbers(num_outputs: int, num_groups: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    q = torch.randint(0, 16, (num_groups * GROUP, num_outputs))
    return q, torch.rand(num_groups, num_outputs) * 0.1, torch.randint(0, 16, (num_groups, num_outputs))


def exact(q: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor) -> torch.Tensor:
    shares = (tensor.double().repeat_interleave(GROUP, 0) for tensor in (scales, zeros))
    scale, zero = shares
    return ((q - zero) * scale).T


def words(columns: torch.Tensor, order: list[int]) -> torch.Tensor:
    """Eight columns of four bits in an int32, those of `order` from the low bits on."""
    eights = columns.reshape(len(columns), -1, 8)
    packed = sum(eights[..., column].long() << (4 * place) for place, column in enumerate(order))
    assert isinstance(packed, torch.Tensor)
    return packed.to(torch.int32)  # the high bit is the sign's, as it is in checkpoints


@pytest.mark.parametrize(
    ("num_rows", "num_outputs", "num_groups"),
    [(0, 8, 1), (1, 8, 1), (5, 100, 3), (16, 32, 2), (40, 72, 2), (130, 130, 1)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("with_bias", [False, True])
def test_rows_agree_with_the_twin(
    num_rows: int, num_outputs: int, num_groups: int, dtype: torch.dtype, with_bias: bool
) -> None:
    q, scales, zeros = numbers(num_outputs, num_groups)
    weight = pack(q, scales.to(dtype), zeros)
    x = torch.randn(num_rows, num_groups * GROUP).to(dtype)
    bias = torch.randn(num_outputs).to(dtype) if with_bias else None
    y = torch.empty(num_rows, num_outputs, dtype=dtype)

    int4_linear(x, weight, bias, y)

    tolerance = {torch.float32: 1e-4, torch.float16: 4e-3}[dtype]
    torch.testing.assert_close(y, int4_linear_reference(x, weight, bias), rtol=tolerance, atol=tolerance)


def test_what_is_packed_is_what_was_there() -> None:
    q, scales, zeros = numbers(24, 2)

    torch.testing.assert_close(unpacked(pack(q, scales, zeros)), exact(q, scales, zeros))


def test_checkpoints_of_awq_and_of_gptq_are_read() -> None:
    q, scales, zeros = numbers(24, 2)
    in_order = list(range(8))

    awq = from_awq(words(q, AWQ_ORDER), words(zeros, AWQ_ORDER), scales)
    gptq = from_gptq(words(q.T, in_order).T, words((zeros - 1) & 15, in_order), scales)

    expected = exact(q, scales, zeros)
    for weight in (awq, gptq):
        assert isinstance(weight, Int4Weight)
        torch.testing.assert_close(unpacked(weight), expected)


def test_a_depth_that_is_no_multiple_of_a_group_is_refused() -> None:
    with pytest.raises(AssertionError, match="100 inputs"):
        pack(torch.zeros(100, 8), torch.zeros(1, 8), torch.zeros(1, 8))
