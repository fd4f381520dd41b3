"""RMSNorm with the residual sum before it:  h += d;  y = h / sqrt(mean(h^2) + eps) * w.

h is the residual stream, summed in place; d is what the last block of the model added to it. Sums are in float32; y is
made of h as it was stored, so that nothing depends on whether a sum and its norm were one kernel.
"""

import torch
import triton
import triton.language as tl

from engine.kernels.gpu.compiled import Compiled

WIDEST = 1 << 14
CONFIGS = tuple(triton.Config({}, num_warps=warps) for warps in (4, 8, 16, 32))
"""For the bench to try."""


def rms_norm_reference(
    hidden: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> torch.Tensor:
    """Arguments as for `rms_norm`; returns the normalised rows."""
    if delta is not None:
        hidden.copy_(hidden.double() + delta.double())
    exact = hidden.double()
    exact = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + eps) * weight.double()
    return exact.to(weight.dtype)


@triton.jit
def _rms_norm(hidden, delta, weight, out, eps, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    at = tl.program_id(0).to(tl.int64) * size + columns
    value = tl.load(hidden + at, inside, 0.0).to(tl.float32)
    if delta is not None:
        value += tl.load(delta + at, inside, 0.0).to(tl.float32)
        stored = value.to(hidden.dtype.element_ty)
        tl.store(hidden + at, stored, inside)
        value = stored.to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, 0) / size + eps)
    y = value * scale * tl.load(weight + columns, inside, 0.0).to(tl.float32)
    tl.store(out + at, y.to(out.dtype.element_ty), inside)


def _num_warps(block: int) -> int:
    return min(32, max(4, block // 512))


def rms_norm(
    hidden: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float, out: torch.Tensor
) -> None:
    """Add `delta` to `hidden` `[T, hidden size]` in place; write the normalised rows to `out`, of any float type.

    `weight` is `[hidden size]`. All contiguous.
    """
    num_rows, size = hidden.shape
    assert size <= WIDEST, f"rows of {size} numbers: {WIDEST} at most"
    assert weight.shape == (size,)
    assert out.shape == hidden.shape
    assert delta is None or delta.shape == hidden.shape
    assert all(tensor is None or tensor.is_contiguous() for tensor in (hidden, delta, weight, out))
    if num_rows:
        block = triton.next_power_of_2(size)
        _rms_norm[(num_rows,)](hidden, delta, weight, out, eps, size, BLOCK=block, num_warps=_num_warps(block))


def _compiled(block: int, with_delta: bool, hidden: str = "*bf16") -> Compiled:
    signature = {"hidden": hidden, "weight": "*bf16", "out": "*bf16", "eps": "fp32", "size": "i32:16"}
    if with_delta:
        return Compiled(_rms_norm, {**signature, "delta": "*bf16"}, {"BLOCK": block}, _num_warps(block))
    return Compiled(_rms_norm, signature, {"BLOCK": block, "delta": None}, _num_warps(block))


COMPILED = (
    _compiled(1024, True),
    _compiled(4096, True),
    _compiled(4096, False),
    _compiled(8192, True),
    _compiled(16384, True),
    _compiled(4096, True, "*fp32"),  # as the decoder has it
    _compiled(4096, False, "*fp32"),
    _compiled(16384, True, "*fp32"),
)
