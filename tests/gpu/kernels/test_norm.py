"""RMSNorm and the residual sum before it against their twin and the CPU's kernel."""

import pytest
import torch

from engine.kernels import norm as cpu
from engine.kernels.gpu.norm import rms_norm, rms_norm_reference

EPS = 1e-5


@pytest.mark.parametrize(("num_rows", "size"), [(0, 64), (1, 64), (3, 100), (2, 1024)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("with_delta", [False, True])
def test_rows_agree_with_the_twin(num_rows: int, size: int, dtype: torch.dtype, with_delta: bool) -> None:
    hidden = (torch.randn(num_rows, size) * 5).to(dtype)
    delta = torch.randn(num_rows, size).to(dtype) if with_delta else None
    weight = torch.randn(size).to(dtype)
    twin = hidden.clone()
    out = torch.empty_like(hidden)

    rms_norm(hidden, delta, weight, EPS, out)

    torch.testing.assert_close(out, rms_norm_reference(twin, delta, weight, EPS))
    torch.testing.assert_close(hidden, twin)


def test_a_float32_residual_gives_rows_of_the_model_s_type() -> None:
    hidden, delta = torch.randn(2, 48), torch.randn(2, 48).to(torch.float16)
    weight, out = torch.randn(48).to(torch.float16), torch.empty(2, 48, dtype=torch.float16)
    twin = hidden.clone()

    rms_norm(hidden, delta, weight, EPS, out)

    torch.testing.assert_close(out, rms_norm_reference(twin, delta, weight, EPS))
    torch.testing.assert_close(hidden, twin, rtol=0, atol=0)


def test_rows_agree_with_the_cpu() -> None:
    hidden, delta, weight = torch.randn(4, 300), torch.randn(4, 300), torch.randn(300)
    on_cpu, out = hidden.cpu().clone(), torch.empty(4, 300)

    rms_norm(hidden, delta, weight, EPS, out)

    torch.testing.assert_close(out.cpu(), cpu.rms_norm(on_cpu, delta.cpu(), weight.cpu().numpy(), EPS))
    torch.testing.assert_close(hidden.cpu(), on_cpu, rtol=0, atol=0)
