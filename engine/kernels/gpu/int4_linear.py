"""Linear layers with weights of four bits:  y = x W^T + b,  W_nk = s_gn * (q_nk - z_gn),  g = k // group.

q and z are whole numbers of 0 to 15, s a float for every output and group of 32, 64 or 128 inputs, as AWQ (Lin et al.,
2023) and GPTQ (Frantar et al., 2022) have them. A group's differences q - z are exact in the type of x and are
multiplied first; its scale meets the float32 sums, not the weights. So weights are never rounded again.

A byte has a weight of the first half of its group in its low bits and that of the second half in its high bits:
unpacked, the two are the operands of two products, and nothing is moved between threads.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from engine.kernels.gpu.compiled import Compiled

GROUPS = (128, 64, 32)
"""Numbers of inputs that may share a scale; the first reads the least."""
GROUP = GROUPS[0]


@dataclass(frozen=True, slots=True)
class Int4Weight:
    """One weight of N outputs and K inputs in G groups, packed."""

    values: torch.Tensor
    """[K / 2, N] uint8"""
    scales: torch.Tensor
    """[G, N], of any float type"""
    zeros: torch.Tensor
    """[G, N] uint8"""

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        return 2 * len(self.values) // len(self.scales)


@dataclass(frozen=True, slots=True)
class _Tile:
    rows: int
    outputs: int
    num_warps: int
    num_stages: int


TILES = ((16, _Tile(16, 32, 4, 4)), (64, _Tile(64, 64, 8, 3)), (None, _Tile(128, 64, 8, 3)))
"""By the rows there are at most."""
CONFIGS = tuple(
    triton.Config({"ROWS": rows, "OUTPUTS": outputs}, num_warps=warps, num_stages=stages)
    for rows, outputs, warps in ((16, 32, 4), (16, 64, 4), (32, 64, 4), (64, 64, 4), (64, 128, 8), (128, 128, 8))
    for stages in (2, 3, 4)
)
"""For the bench to try."""


def pack(q: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor) -> Int4Weight:
    """`q` `[K, N]` and `zeros` `[G, N]` are of 0 to 15, of any integer type; K / G is one of `GROUPS`."""
    depth, num_outputs = q.shape
    group = depth // len(scales)
    assert group in GROUPS, f"groups of {group} inputs: four-bit weights need {', '.join(map(str, GROUPS))}"
    assert depth == group * len(scales), f"{depth} inputs are not in groups of {group}"
    assert scales.shape == zeros.shape == (len(scales), num_outputs)
    groups = q.to(torch.uint8).view(-1, 2, group // 2, num_outputs)
    values = (groups[:, 0] | groups[:, 1] << 4).view(depth // 2, num_outputs)
    return Int4Weight(values.contiguous(), scales.contiguous(), zeros.to(torch.uint8).contiguous())


def unpacked(weight: Int4Weight) -> torch.Tensor:
    """`[N, K]` float64."""
    num_outputs = weight.values.shape[1]
    halves = weight.values.view(-1, 1, weight.group // 2, num_outputs)
    q = torch.cat((halves & 15, halves >> 4), dim=1).view(-1, weight.group, num_outputs)
    return ((q.double() - weight.zeros.double()[:, None]) * weight.scales.double()[:, None]).flatten(0, 1).T


def int4_linear_reference(x: torch.Tensor, weight: Int4Weight, bias: torch.Tensor | None) -> torch.Tensor:
    y = x.double() @ unpacked(weight).T
    return (y if bias is None else y + bias.double()).to(x.dtype)


@triton.jit(do_not_specialize=["num_rows"])
def _int4_linear(  # type: ignore[no-untyped-def]
    x,
    values,
    scales,
    zeros,
    bias,
    y,
    num_rows,
    num_outputs,
    num_groups,
    HALF: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    outputs = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)[None, :]
    half = tl.arange(0, HALF)
    x_at = x + rows.to(tl.int64) * num_groups * 2 * HALF + half[None, :]
    values_at = values + half[:, None].to(tl.int64) * num_outputs + outputs
    element: tl.constexpr = x.dtype.element_ty
    totals = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for group in range(0, num_groups):
        x_low = tl.load(x_at, rows < num_rows, 0.0)
        x_high = tl.load(x_at + HALF, rows < num_rows, 0.0)
        pairs = tl.load(values_at, outputs < num_outputs, 0)
        zero = tl.load(zeros + group * num_outputs + outputs, outputs < num_outputs, 0).to(tl.int8)
        scale = tl.load(scales + group * num_outputs + outputs, outputs < num_outputs, 0.0).to(tl.float32)
        low = ((pairs & 15).to(tl.int8) - zero).to(element)
        high = ((pairs >> 4).to(tl.int8) - zero).to(element)
        total = tl.dot(x_low, low, input_precision="ieee")
        totals += tl.dot(x_high, high, total, input_precision="ieee") * scale
        x_at += 2 * HALF
        values_at += HALF * num_outputs
    if bias is not None:
        totals += tl.load(bias + outputs, outputs < num_outputs, 0.0).to(tl.float32)
    to = y + rows.to(tl.int64) * num_outputs + outputs
    tl.store(to, totals.to(y.dtype.element_ty), (rows < num_rows) & (outputs < num_outputs))


def int4_linear(x: torch.Tensor, weight: Int4Weight, bias: torch.Tensor | None, y: torch.Tensor) -> None:
    """`x` `[T, K]` to `y` `[T, N]`; `bias` is `[N]`. All contiguous, and of any float type."""
    num_rows, depth = x.shape
    num_groups, num_outputs = weight.scales.shape
    assert depth == num_groups * weight.group
    assert y.shape == (num_rows, num_outputs)
    assert bias is None or bias.shape == (num_outputs,)
    assert x.is_contiguous()
    assert y.is_contiguous()
    if num_rows:
        tile = next(tile for most, tile in TILES if most is None or num_rows <= most)
        _int4_linear[(triton.cdiv(num_rows, tile.rows), triton.cdiv(num_outputs, tile.outputs))](
            x,
            weight.values,
            weight.scales,
            weight.zeros,
            bias,
            y,
            num_rows,
            num_outputs,
            num_groups,
            HALF=weight.group // 2,
            ROWS=tile.rows,
            OUTPUTS=tile.outputs,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )


_SIGNATURE = {"x": "*bf16", "values": "*u8", "scales": "*fp16", "zeros": "*u8", "y": "*bf16"}
_SIGNATURE |= {"num_rows": "i32", "num_outputs": "i32:16", "num_groups": "i32"}
COMPILED = tuple(
    Compiled(
        _int4_linear,
        _SIGNATURE,
        {"bias": None, "HALF": group // 2, "ROWS": tile.rows, "OUTPUTS": tile.outputs},
        tile.num_warps,
        tile.num_stages,
    )
    for group in (GROUPS[0], GROUPS[-1])
    for _, tile in TILES
)
