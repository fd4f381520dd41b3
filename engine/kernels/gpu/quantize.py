"""Rows of activations to eight bits, each with a scale of its own, as they come:

    s = max |x| / largest;   values = round(x * (largest / max |x|)),  largest = 127 for int8, 448 for float8 e4m3

Rounded to the nearest, ties to even, by the inverse and one division, as the CPU's `quantize_row` does: the values are
the same. A row of zeros has a scale of 0. e4m3 is made of a float32's bits: that needs no instruction that only newer
GPUs have, and the interpreter's own conversion loses what is carried into the exponent.
"""

import torch
import triton
import triton.language as tl

from engine.kernels.eight_bits import LARGEST
from engine.kernels.gpu.compiled import Compiled

WIDEST = 1 << 15
_TO_WHOLE = tl.constexpr(12582912.0)
"""1.5 * 2^23: added to a float32 and taken away again, it leaves the nearest whole number."""
CONFIGS = tuple(triton.Config({}, num_warps=warps) for warps in (4, 8, 16))
"""For the bench to try."""


def quantize_rows_reference(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """`(values [T, K], scales [T])` of `x` `[T, K]`."""
    peaks = x.float().abs().amax(1)
    largest = torch.full_like(peaks, LARGEST[dtype])
    scaled = x.float() * torch.where(peaks > 0, largest / peaks, 0)[:, None]
    scaled = scaled.clamp(-LARGEST[dtype], LARGEST[dtype])
    return (scaled.round() if dtype is torch.int8 else scaled).to(dtype), peaks / largest


@triton.jit
def e4m3_bits(x):  # type: ignore[no-untyped-def]
    """The nearest number with four exponent bits (bias 7) and three of mantissa, as a byte; |x| is at most 448."""
    bits = x.to(tl.int32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    normal = ((magnitude + 0x7FFFF + ((magnitude >> 20) & 1)) >> 20) - (120 << 3)
    subnormal = ((tl.abs(x) * 512.0 + _TO_WHOLE) - _TO_WHOLE).to(tl.int32)  # 2^-9 apart
    is_normal = magnitude >= (121 << 23)  # 2^-6
    return (tl.where(is_normal, normal, subnormal) | ((bits >> 24) & 0x80)).to(tl.uint8)


@triton.jit
def _quantize_rows(x, values, scales, size, LARGEST: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    value = tl.load(x + row * size + columns, inside, 0.0).to(tl.float32)
    peak = tl.max(tl.abs(value), 0)
    inverse = tl.where(peak > 0, tl.div_rn(LARGEST, tl.where(peak > 0, peak, 1.0)), 0.0)
    # The clamp also keeps the product and the sum below from becoming one instruction, which would round once.
    scaled = tl.minimum(tl.maximum(value * inverse, -LARGEST), LARGEST)
    rounded = e4m3_bits(scaled) if LARGEST == 448 else ((scaled + _TO_WHOLE) - _TO_WHOLE).to(tl.int8)
    tl.store(values + row * size + columns, rounded, inside)
    tl.store(scales + row, tl.div_rn(peak, LARGEST))


def _num_warps(block: int) -> int:
    return min(32, max(4, block // 1024))


def quantize_rows(x: torch.Tensor, values: torch.Tensor, scales: torch.Tensor) -> None:
    """`x` `[T, K]` to `values` `[T, K]` int8 or float8_e4m3fn and `scales` `[T]` float32: x ~ scale * value."""
    num_rows, size = x.shape
    assert size <= WIDEST, f"rows of {size} numbers: {WIDEST} at most"
    assert values.shape == x.shape
    assert scales.shape == (num_rows,)
    assert x.is_contiguous()
    assert values.is_contiguous()
    if num_rows:
        block = triton.next_power_of_2(size)
        largest = LARGEST[values.dtype]
        stored = values if values.dtype is torch.int8 else values.view(torch.uint8)
        _quantize_rows[(num_rows,)](x, stored, scales, size, LARGEST=largest, BLOCK=block, num_warps=_num_warps(block))


def _compiled(values: str, largest: float, block: int) -> Compiled:
    signature = {"x": "*bf16", "values": values, "scales": "*fp32", "size": "i32:16"}
    return Compiled(_quantize_rows, signature, {"LARGEST": largest, "BLOCK": block}, _num_warps(block))


COMPILED = tuple(
    _compiled(values, largest, block)
    for values, largest in (("*i8", 127.0), ("*u8", 448.0))
    for block in (4096, 16384, 32768)
)
