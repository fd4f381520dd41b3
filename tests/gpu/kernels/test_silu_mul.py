"""The gate of the MLP against its twin and the CPU's kernel."""

import pytest
import torch

from engine.kernels import silu_mul as cpu
from engine.kernels.gpu.silu_mul import silu_mul, silu_mul_reference


@pytest.mark.parametrize(("num_rows", "size"), [(0, 8), (1, 1), (3, 100), (2, 1024), (2, 1500)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows_agree_with_the_twin(num_rows: int, size: int, dtype: torch.dtype) -> None:
    gate_up = (torch.randn(num_rows, 2 * size) * 4).to(dtype)
    out = torch.empty(num_rows, size, dtype=dtype)

    silu_mul(gate_up, out)

    torch.testing.assert_close(out, silu_mul_reference(gate_up))


def test_rows_agree_with_the_cpu() -> None:
    gate_up, out = torch.randn(4, 600), torch.empty(4, 300)

    silu_mul(gate_up, out)

    torch.testing.assert_close(out.cpu(), cpu.silu_mul(gate_up.cpu()))
