"""Gate of the MLP:  y = g / (1 + exp(-g)) * u,  where g and u are the halves of each row. In float32, rounded once."""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from engine.kernels.gpu.compiled import Compiled

_BLOCK = 1024
CONFIGS = tuple(triton.Config({"BLOCK": block}, num_warps=warps) for block in (512, 1024, 2048) for warps in (4, 8))
"""For the bench to try."""


def silu_mul_reference(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.double().chunk(2, dim=-1)
    return (F.silu(gate) * up).to(gate_up.dtype)


@triton.jit
def _silu_mul(gate_up, out, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    gate = tl.load(gate_up + row * 2 * size + columns, inside, 0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * size + size + columns, inside, 0.0).to(tl.float32)
    y = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * size + columns, y.to(out.dtype.element_ty), inside)


def silu_mul(gate_up: torch.Tensor, out: torch.Tensor) -> None:
    """Rows of `gate_up` `[T, 2 * mlp size]` to `out` `[T, mlp size]`; both contiguous."""
    num_rows, size = out.shape
    assert gate_up.shape == (num_rows, 2 * size)
    assert gate_up.is_contiguous()
    assert out.is_contiguous()
    if num_rows:
        _silu_mul[(num_rows, triton.cdiv(size, _BLOCK))](gate_up, out, size, BLOCK=_BLOCK, num_warps=4)


COMPILED = (Compiled(_silu_mul, {"gate_up": "*bf16", "out": "*bf16", "size": "i32:16"}, {"BLOCK": _BLOCK}),)
