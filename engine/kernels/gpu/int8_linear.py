"""Linear layers in int8 (`engine.kernels.eight_bits`).

Rows of X are quantized as they come (`quantize.py`), outputs of W when a model is loaded; both are symmetric, as the
CPU's. Sums of products of int8 are exact in int32: only the scales round.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from engine.kernels.eight_bits import check_product
from engine.kernels.gpu.compiled import Compiled


@dataclass(frozen=True, slots=True)
class Tile:
    """What one program computes, and of how many inputs at a time."""

    rows: int
    outputs: int
    depth: int
    num_warps: int
    num_stages: int


TILES = ((16, Tile(16, 32, 256, 4, 4)), (64, Tile(64, 32, 256, 4, 4)), (None, Tile(128, 128, 128, 8, 3)))
"""By the rows there are at most. Few rows need many programs: an output of 4,096 is 128 of 32."""
CONFIGS = tuple(
    triton.Config({"ROWS": rows, "OUTPUTS": outputs, "DEPTH": depth}, num_warps=warps, num_stages=stages)
    for rows, outputs, depth, warps in (
        (16, 32, 256, 4),
        (16, 64, 256, 4),
        (32, 64, 128, 4),
        (64, 32, 256, 4),
        (64, 64, 128, 4),
        (64, 128, 128, 8),
        (128, 128, 128, 8),
        (128, 256, 64, 8),
    )
    for stages in (3, 4)
)
"""For the bench to try."""


@triton.jit(do_not_specialize=["num_rows"])
def _int8_linear(  # type: ignore[no-untyped-def]
    x,
    x_scales,
    weight,
    scales,
    bias,
    y,
    num_rows,
    num_outputs,
    depth,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    output = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    inputs = tl.arange(0, DEPTH)
    x_at = x + row.to(tl.int64)[:, None] * depth + inputs[None, :]
    weight_at = weight + output.to(tl.int64)[None, :] * depth + inputs[:, None]
    is_row, is_output = row < num_rows, output < num_outputs
    totals = tl.zeros((ROWS, OUTPUTS), tl.int32)
    for first in range(0, depth, DEPTH):
        inside = first + inputs < depth
        left = tl.load(x_at, is_row[:, None] & inside[None, :], 0)
        right = tl.load(weight_at, is_output[None, :] & inside[:, None], 0)
        totals = tl.dot(left, right, totals, out_dtype=tl.int32)  # some Tritons take no sum to mean so
        x_at += DEPTH
        weight_at += DEPTH
    row_scale = tl.load(x_scales + row, is_row, 0.0)
    result = totals.to(tl.float32) * row_scale[:, None] * tl.load(scales + output, is_output, 0.0)[None, :]
    if bias is not None:
        result += tl.load(bias + output, is_output, 0.0).to(tl.float32)[None, :]
    to = y + row.to(tl.int64)[:, None] * num_outputs + output[None, :]
    tl.store(to, result.to(y.dtype.element_ty), is_row[:, None] & is_output[None, :])


def int8_linear(
    x: torch.Tensor,
    x_scales: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None,
    y: torch.Tensor,
) -> None:
    """`x` `[T, K]` int8 with `x_scales` `[T]` times `weight` `[N, K]` int8 with `scales` `[N]` to `y` `[T, N]`.

    Scales are float32, `bias` `[N]` and `y` of any float type. All contiguous.
    """
    assert x.dtype is torch.int8
    check_product(x, x_scales, weight, scales, bias, y)
    (num_rows, depth), num_outputs = x.shape, len(weight)
    if num_rows:
        tile = next(tile for most, tile in TILES if most is None or num_rows <= most)
        _int8_linear[(triton.cdiv(num_rows, tile.rows), triton.cdiv(num_outputs, tile.outputs))](
            x,
            x_scales,
            weight,
            scales,
            bias,
            y,
            num_rows,
            num_outputs,
            depth,
            ROWS=tile.rows,
            OUTPUTS=tile.outputs,
            DEPTH=tile.depth,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )


_SIGNATURE = {"x": "*i8", "x_scales": "*fp32", "weight": "*i8", "scales": "*fp32", "y": "*bf16"}
_SIGNATURE |= {"num_rows": "i32", "num_outputs": "i32:16", "depth": "i32:16"}


def _compiled(tile: Tile, with_bias: bool) -> Compiled:
    sizes: dict[str, object] = {"ROWS": tile.rows, "OUTPUTS": tile.outputs, "DEPTH": tile.depth}
    warps, stages = tile.num_warps, tile.num_stages
    if with_bias:
        return Compiled(_int8_linear, {**_SIGNATURE, "bias": "*bf16"}, sizes, warps, stages)
    return Compiled(_int8_linear, _SIGNATURE, {**sizes, "bias": None}, warps, stages)


COMPILED = (*(_compiled(tile, False) for _, tile in TILES), _compiled(TILES[0][1], True))
