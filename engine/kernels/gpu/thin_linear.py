"""Products of few rows, with what stands before and behind them in a layer:

    y = x W^T + b                       x: rows of the model's type
    x = h / sqrt(mean(h^2) + eps) * w   where x is the norm of the residual stream h (`norm.py`)
    y = silu(g) * u                     where g and u are the halves of x W^T (`silu_mul.py`)
    h += y                              where y is added to the residual stream

A step of few rows is the time in which its weights are read, and what its kernels lose between one another: a layer is
seven kernels with these, where it is eleven without. A program reads some rows of W once, as fast as they come. It
knows a norm's mean from the sums of squares that those programs left which added to h last, one for each tile of
columns, so that nobody reads h for its sake.

The rows of x are padded to the 16 of a matrix instruction; their padding is not read.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from engine.kernels.gpu.compiled import Compiled
from engine.kernels.gpu.early import await_others, fetch_ahead

MOST_ROWS = 16
LINE_ITEMS = tl.constexpr(64)
"""Of a line of the cache, 128 bytes"""
_AHEAD = 32
"""Lines of each row of W that a program fetches before it may begin: 64 KB, which all programs together leave room
for in the cache"""
DTYPES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class Tile:
    """What one program computes, and of how many inputs at a time."""

    outputs: int
    depth: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True)
class Tiles:
    """Those of one step."""

    plain: Tile
    normed: Tile
    gated: Tile
    """Has as many gates as outputs, and reads both."""
    is_early: bool = False
    """Whether kernels are launched before those before them have ended (`early.py`)"""

    def num_parts(self, size: int) -> int:
        """Sums of squares of one row of a residual stream of so many numbers."""
        return -(-size // self.plain.outputs)


NARROW = Tiles(plain=Tile(16, 256, 2, 5), normed=Tile(16, 128, 2, 6), gated=Tile(16, 128, 4, 5))
"""The most programs: an output of 4,096 is 256 of them."""
WIDE = Tiles(plain=Tile(32, 128, 4, 6), normed=Tile(32, 128, 4, 5), gated=Tile(32, 128, 4, 4))
"""Rows of x are read half as often."""
CONFIGS = tuple(
    triton.Config({"OUTPUTS": outputs, "DEPTH": depth}, num_warps=warps, num_stages=stages)
    for outputs in (16, 32, 64)
    for depth in (128, 256)
    for warps in (2, 4)
    for stages in (4, 6)
)
"""For the bench to try."""


@dataclass(frozen=True, slots=True)
class Norm:
    """The norm of the residual stream, which a product begins with."""

    weight: torch.Tensor
    """[K]"""
    eps: float


class Stream:
    """The residual stream of a step, and what is known of its squares."""

    def __init__(self, hidden: torch.Tensor, squares: torch.Tensor, tiles: Tiles) -> None:
        """`hidden` `[T, K]` float32; `squares` has room for `tiles.num_parts(K)` sums of each row."""
        num_rows, parts = len(hidden), tiles.num_parts(hidden.shape[1])
        self.hidden = hidden
        self.tiles = tiles
        self.squares = squares[: num_rows * parts].view(num_rows, parts)
        """[T, tiles] float32: of the columns that one program added to"""


def thin_linear_reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, norm: Norm | None = None, *, gated: bool = False
) -> torch.Tensor:
    """In float64, but for the rounding of a norm; what is added to the residual stream comes back, too."""
    exact = x.double()
    if norm is not None:
        exact = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + norm.eps) * norm.weight.double()
        exact = exact.to(weight.dtype).double()
    y = exact @ weight.double().T + (0.0 if bias is None else bias.double())
    if not gated:
        return y
    gate, up = y.chunk(2, dim=-1)
    return F.silu(gate) * up


@triton.jit
def _rows_of(x_at, is_item, norm_at, is_input, scale, WHOLE: tl.constexpr, to: tl.constexpr):  # type: ignore[no-untyped-def]
    """Rows of x, normalised if there is a norm."""
    x = tl.load(x_at, is_item, 0.0)
    if norm_at is not None:
        weight = tl.load(norm_at) if WHOLE else tl.load(norm_at, is_input, 0.0)
        x = (x * scale[:, None] * weight.to(tl.float32)[None, :]).to(to)
    return x


@triton.jit(do_not_specialize=["num_rows"])
def _thin_linear(  # type: ignore[no-untyped-def]
    x,
    weight,
    bias,
    norm,
    squares,
    out,
    hidden,
    new_squares,
    eps,
    num_rows,
    num_outputs,
    depth,
    parts,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
    PARTS: tl.constexpr,
    GATED: tl.constexpr,
    WHOLE: tl.constexpr,
    EARLY: tl.constexpr,
    AHEAD: tl.constexpr,
):
    """Some outputs of all rows; grid (tiles of outputs). `WHOLE`: the depth is a multiple of `DEPTH`."""
    tile = tl.program_id(0)
    row, inputs = tl.arange(0, ROWS), tl.arange(0, DEPTH)
    output = tile * OUTPUTS + tl.arange(0, OUTPUTS)
    is_row, is_output = row < num_rows, output < num_outputs
    item: tl.constexpr = weight.dtype.element_ty
    if EARLY:
        line = tl.minimum(tl.arange(0, AHEAD) * LINE_ITEMS, depth - 1)
        own = weight + tl.minimum(output, num_outputs - 1).to(tl.int64)[:, None] * depth
        fetch_ahead(own + line[None, :])
        if GATED:
            own = weight + tl.minimum(output + num_outputs, 2 * num_outputs - 1).to(tl.int64)[:, None] * depth
            fetch_ahead(own + line[None, :])
        await_others()
    scale = tl.zeros([ROWS], tl.float32)
    if norm is not None:
        part = tl.arange(0, PARTS)
        is_part = is_row[:, None] & (part < parts)[None, :]
        square = tl.load(squares + row[:, None] * parts + part[None, :], is_part, 0.0)
        scale = tl.rsqrt(tl.sum(square, 1) / depth + eps)
    x_at = x + row[:, None] * depth + inputs[None, :]
    norm_at = norm
    if norm is not None:
        norm_at = norm + inputs
    weight_at = weight + output.to(tl.int64)[:, None] * depth + inputs[None, :]
    up_at = weight + (output + num_outputs).to(tl.int64)[:, None] * depth + inputs[None, :]
    totals = tl.zeros((ROWS, OUTPUTS), tl.float32)
    ups = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for first in range(0, depth, DEPTH):
        is_input = first + inputs < depth
        is_x, is_weight = is_row[:, None] & is_input[None, :], is_output[:, None] & is_input[None, :]
        if WHOLE:
            is_x, is_weight = is_row[:, None], is_output[:, None]
        left = _rows_of(x_at, is_x, norm_at, is_input, scale, WHOLE, item)
        totals = tl.dot(left, tl.trans(tl.load(weight_at, is_weight, 0.0)), totals)
        if GATED:
            ups = tl.dot(left, tl.trans(tl.load(up_at, is_weight, 0.0)), ups)
        x_at += DEPTH
        weight_at += DEPTH
        up_at += DEPTH
        if norm is not None:
            norm_at += DEPTH
    if bias is not None:
        totals += tl.load(bias + output, is_output, 0.0).to(tl.float32)[None, :]
        if GATED:
            ups += tl.load(bias + num_outputs + output, is_output, 0.0).to(tl.float32)[None, :]
    if GATED:
        totals = totals / (1.0 + tl.exp(-totals)) * ups
    at, is_item = row.to(tl.int64)[:, None] * num_outputs + output[None, :], is_row[:, None] & is_output[None, :]
    if hidden is None:
        tl.store(out + at, totals.to(out.dtype.element_ty), is_item)
    else:
        totals += tl.load(hidden + at, is_item, 0.0)
        tl.store(hidden + at, totals, is_item)
        totals = tl.where(is_output[None, :], totals, 0.0)
        tl.store(new_squares + row * tl.num_programs(0) + tile, tl.sum(totals * totals, 1), is_row)


def thin_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    tile: Tile,
) -> None:
    """Write the products of `x` `[T, K]` with `weight` `[N, K]` to `out` `[T, N]`, of any float type.

    `bias` is `[N]`, of the type of `x` and `weight`. All contiguous; T is `MOST_ROWS` at most.
    """
    _check(x, weight, bias, weight.dtype)
    _launch(tile, x, weight, bias, None, None, out, None)


def normed_linear(
    stream: Stream,
    norm: Norm,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    *,
    gated: bool = False,
) -> None:
    """As `thin_linear`, of the norm of the residual stream. `gated`: `weight` is `[2N, K]`, gates first."""
    _check(stream.hidden, weight, bias, torch.float32)
    assert norm.weight.shape == weight.shape[1:]
    tile = stream.tiles.gated if gated else stream.tiles.normed
    _launch(
        tile, stream.hidden, weight, bias, norm, stream.squares, out, None, gated=gated, is_early=stream.tiles.is_early
    )


def linear_into(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stream: Stream) -> None:
    """Add the products of `x` `[T, K]` with `weight` `[N, K]` to the residual stream, and note its squares."""
    _check(x, weight, bias, weight.dtype)
    _launch(stream.tiles.plain, x, weight, bias, None, None, None, stream, is_early=stream.tiles.is_early)


def _check(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
    assert weight.dtype in DTYPES
    assert x.dtype is dtype
    assert len(x) <= MOST_ROWS
    assert x.shape[1] == weight.shape[1]
    assert bias is None or bias.shape == weight.shape[:1]
    assert all(tensor is None or tensor.is_contiguous() for tensor in (x, weight, bias))


def _launch(
    tile: Tile,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    norm: Norm | None,
    squares: torch.Tensor | None,
    out: torch.Tensor | None,
    into: Stream | None,
    *,
    gated: bool = False,
    is_early: bool = False,
) -> None:
    (num_rows, depth), num_outputs = x.shape, len(weight) // (2 if gated else 1)
    to = into.hidden if into is not None else out
    assert to is not None
    assert to.shape == (num_rows, num_outputs)
    assert to.is_contiguous()
    parts = 1 if squares is None else squares.shape[1]
    if num_rows:
        _thin_linear[(triton.cdiv(num_outputs, tile.outputs),)](
            x,
            weight,
            bias,
            None if norm is None else norm.weight,
            squares,
            out,
            None if into is None else into.hidden,
            None if into is None else into.squares,
            0.0 if norm is None else norm.eps,
            num_rows,
            num_outputs,
            depth,
            parts,
            ROWS=MOST_ROWS,
            OUTPUTS=tile.outputs,
            DEPTH=tile.depth,
            PARTS=triton.next_power_of_2(parts),
            GATED=gated,
            WHOLE=depth % tile.depth == 0,
            EARLY=is_early,
            AHEAD=_AHEAD // (2 if gated else 1),
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
            launch_pdl=is_early,
        )


def _compiled(
    tile: Tile,
    kind: str,
    *,
    gated: bool = False,
    item: str = "*bf16",
    to: str = "*bf16",
    with_bias: bool = False,
    is_early: bool = False,
) -> Compiled:
    """`kind` is what a product is for: "rows", of the model's type, "norm", "add"."""
    signature = {"x": "*fp32" if kind == "norm" else item, "weight": item, "eps": "fp32", "num_rows": "i32"}
    signature |= dict.fromkeys(("num_outputs", "depth", "parts"), "i32:16")
    given = {"norm": {"norm": item, "squares": "*fp32", "out": to}, "rows": {"out": to}}
    signature |= given.get(kind, dict.fromkeys(("hidden", "new_squares"), "*fp32"))
    signature |= {"bias": item} if with_bias else {}
    pointers = ("bias", "norm", "squares", "out", "hidden", "new_squares")
    constants: dict[str, object] = {name: None for name in pointers if name not in signature}
    constants |= {"ROWS": MOST_ROWS, "OUTPUTS": tile.outputs, "DEPTH": tile.depth, "GATED": gated, "WHOLE": True}
    constants |= {"PARTS": 256 if kind == "norm" else 1, "EARLY": is_early, "AHEAD": _AHEAD // (2 if gated else 1)}
    capabilities = (90,) if is_early else (80, 90)
    return Compiled(_thin_linear, signature, constants, tile.num_warps, tile.num_stages, capabilities)


COMPILED = tuple(
    one
    for tiles in (NARROW, WIDE)
    for one in (
        _compiled(tiles.normed, "norm"),
        _compiled(tiles.normed, "norm", to="*fp32"),
        _compiled(tiles.normed, "norm", item="*fp16", to="*fp16", with_bias=True),
        _compiled(tiles.gated, "norm", gated=True),
        _compiled(tiles.plain, "add"),
        _compiled(tiles.plain, "rows"),
        _compiled(tiles.normed, "norm", is_early=True),
        _compiled(tiles.gated, "norm", gated=True, is_early=True),
        _compiled(tiles.plain, "add", is_early=True),
    )
)
