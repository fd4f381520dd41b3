"""Matrix products of float32 rows with a weight packed for them:  y = x W^T + b.

The weight is cut into panels of `COLUMNS` outputs, each a run of memory read front to back; x is cut into tiles of up
to `MAX_ROWS` rows. A panel stays in the cache while it meets one tile after another, and a group of tiles while it
meets all panels. Each sum is over the whole depth, front to back, so a row's result does not depend on what else is in
the batch. The kernels want AVX-512's registers; elsewhere oneDNN is the better choice (`linear.py`).
"""

from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numpy as np
import torch
from numba import njit, prange, types
from numba.extending import overload

from engine.kernels.exp import FAST
from engine.kernels.tile import COLUMNS, DEPTH_STEP, MAX_ROWS, tile, tile_int8

_GROUP_BYTES = 3 << 18
"""Of the rows that are multiplied with every panel before the next ones."""
_FEW_TILES = 2
"""Packing so few tiles takes less time than waking other threads for it."""
_LARGEST = 127


class Panels(NamedTuple):
    """A packed weight, or those of all layers with one more axis in front."""

    weight: np.ndarray
    """[N / COLUMNS, K, COLUMNS] float32, or [N / COLUMNS, K / 4, COLUMNS] int32: a byte of each of four k, plus 128"""
    scales: np.ndarray
    """[N], what an output of an int8 weight is multiplied by"""
    bias: np.ndarray
    """[N]"""


def runs_here(dtype: torch.dtype) -> bool:
    """Whether this processor is one that the kernel for weights of this type is made for."""
    features = llvm.get_host_cpu_features()
    return bool(features.get("avx512f") and (dtype is torch.float32 or features.get("avx512vnni")))


def takes(num_outputs: int, depth: int) -> bool:
    """Whether a weight `[num_outputs, depth]` can be packed without an output more than it has."""
    return num_outputs % COLUMNS == 0 and depth % DEPTH_STEP == 0


def allocate(lead: tuple[int, ...], num_outputs: int, depth: int, dtype: torch.dtype) -> Panels:
    """Room for packed weights: `lead` is `()` for one, `(layers,)` for those of all layers."""
    assert takes(num_outputs, depth)
    panels = num_outputs // COLUMNS
    shape = (panels, depth, COLUMNS) if dtype is torch.float32 else (panels, depth // 4, COLUMNS)
    item = np.float32 if dtype is torch.float32 else np.int32
    scales, bias = np.ones((*lead, num_outputs), np.float32), np.zeros((*lead, num_outputs), np.float32)
    return Panels(np.empty((*lead, *shape), item), scales, bias)


def pack(weight: torch.Tensor, bias: torch.Tensor | None, to: Panels) -> None:
    """Fill `to` with `weight` `[N, K]`, in its own float32 or quantized to int8, whichever `to` is for."""
    num_outputs, depth = weight.shape
    if bias is not None:
        to.bias[:] = bias.float().numpy()
    if to.weight.dtype == np.float32:
        to.weight[:] = weight.view(-1, COLUMNS, depth).transpose(1, 2).numpy()
        return
    scales, values = quantize(weight)
    to.scales[:] = scales.numpy()
    bytes_ = (values.to(torch.int16) + 128).to(torch.uint8).view(-1, COLUMNS, depth // 4, 4).transpose(1, 2)
    to.weight.view(np.uint8).reshape(bytes_.shape)[:] = bytes_.numpy()


def quantize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric, per output: `(scales [N], values [N, K] int8)` with weight ~ scales * values."""
    scales = (weight.abs().amax(1) / _LARGEST).clamp(min=1e-30)
    return scales, (weight / scales[:, None]).round().to(torch.int8)


@njit(nogil=True)
def _pack_tile(x, first, rows, packed, at):  # type: ignore[no-untyped-def]
    """The rows from `first` on, those of one k together; rows past the end of x are zero."""
    num_rows, depth = x.shape
    count = min(rows, num_rows - first)
    for k in range(depth):
        for m in range(count):
            packed[at + k * rows + m] = x[first + m, k]
        for m in range(count, rows):
            packed[at + k * rows + m] = np.float32(0)


@njit(nogil=True, cache=True)
def tile_rows(num_rows):  # type: ignore[no-untyped-def]
    """Rows of each tile: all tiles have the same, so as few as can be are empty."""
    num_tiles = max(1, (num_rows + MAX_ROWS - 1) // MAX_ROWS)
    return max(1, (num_rows + num_tiles - 1) // num_tiles)


@njit(nogil=True)
def _group_tiles(num_tiles, tile_bytes):  # type: ignore[no-untyped-def]
    """Tiles that meet every panel before the next ones: groups of one size, whose tiles fit in L2 beside a panel."""
    most = max(1, _GROUP_BYTES // tile_bytes)
    num_groups = max(1, (num_tiles + most - 1) // most)
    return max(1, (num_tiles + num_groups - 1) // num_groups)


@njit(parallel=True, nogil=True, cache=True)
def _gemm(x, weight, bias, y):  # type: ignore[no-untyped-def]
    num_panels, depth, _ = weight.shape
    rows = tile_rows(x.shape[0])
    num_tiles = (x.shape[0] + rows - 1) // rows
    size = depth * rows
    group = _group_tiles(num_tiles, size * 4)
    packed = np.empty(num_tiles * size, np.float32)
    if num_tiles <= _FEW_TILES:
        for t in range(num_tiles):
            _pack_tile(x, t * rows, rows, packed, t * size)
    else:
        for t in prange(num_tiles):
            _pack_tile(x, t * rows, rows, packed, t * size)
    for first in range(0, num_tiles, group):
        for panel in prange(num_panels):
            for t in range(first, min(first + group, num_tiles)):
                y_at = t * rows * y.shape[1] + panel * COLUMNS
                tile(rows, packed, t * size, weight, panel * depth * COLUMNS, bias, panel * COLUMNS, y, y_at)


@njit(nogil=True, fastmath=FAST, error_model="numpy")
def quantize_row(row, values):  # type: ignore[no-untyped-def]
    """values = round(row / s), s = max |row| / 127. Returns s and the sum of the values."""
    # Without their signs the bits of floats order as the floats do, and a maximum of integers is what LLVM vectorizes.
    bits = row.view(np.int32)
    highest = np.zeros(1, np.int32)
    peak = np.int32(0)
    for k in range(row.shape[0]):
        peak = max(peak, bits[k] & np.int32(0x7FFFFFFF))
    highest[0] = peak
    largest = highest.view(np.float32)[0]
    inverse = np.float32(_LARGEST) / largest if largest > np.float32(0) else np.float32(0)
    total = np.int32(0)
    for k in range(row.shape[0]):
        value = np.int32(np.rint(row[k] * inverse))
        values[k] = np.int8(value)
        total += value
    return largest / np.float32(_LARGEST), total


@njit(nogil=True)
def _pack_tile_int8(x, first, rows, packed, at, scales, starts):  # type: ignore[no-untyped-def]
    num_rows, depth = x.shape
    values = np.zeros(depth, np.int8)
    items = values.view(np.int32)
    for m in range(rows):
        if first + m < num_rows:
            scales[first + m], total = quantize_row(x[first + m], values)
        else:
            values[:] = 0
            scales[first + m], total = np.float32(0), np.int32(0)
        starts[first + m] = np.int32(-128) * total
        for k in range(items.shape[0]):
            packed[at + k * rows + m] = items[k]


@njit(parallel=True, nogil=True, cache=True)
def _gemm_int8(x, weight, w_scales, bias, y):  # type: ignore[no-untyped-def]
    num_panels, steps, _ = weight.shape
    rows = tile_rows(x.shape[0])
    num_tiles = (x.shape[0] + rows - 1) // rows
    size = steps * rows
    group = _group_tiles(num_tiles, size * 4)
    packed = np.empty(num_tiles * size, np.int32)
    scales = np.empty(num_tiles * rows, np.float32)
    starts = np.empty(num_tiles * rows, np.int32)
    if num_tiles <= _FEW_TILES:
        for t in range(num_tiles):
            _pack_tile_int8(x, t * rows, rows, packed, t * size, scales, starts)
    else:
        for t in prange(num_tiles):
            _pack_tile_int8(x, t * rows, rows, packed, t * size, scales, starts)
    for first in range(0, num_tiles, group):
        for panel in prange(num_panels):
            w_at, column = panel * steps * COLUMNS, panel * COLUMNS
            for t in range(first, min(first + group, num_tiles)):
                row = t * rows
                y_at = row * y.shape[1] + column
                tile_int8(rows, packed, t * size, weight, w_at, w_scales, bias, column, scales, starts, row, y, y_at)


def multiply(x: Any, weight: Any, scales: Any, bias: Any, y: Any) -> None:
    """For compiled code: `y[:T] = x W^T + b`. `y` has a whole number of tiles of rows (`tile_rows`)."""
    raise NotImplementedError


@overload(multiply)
def _multiply(x, weight, scales, bias, y):  # type: ignore[no-untyped-def]
    if weight.dtype == types.float32:
        return lambda x, weight, scales, bias, y: _gemm(x, weight, bias, y)
    return lambda x, weight, scales, bias, y: _gemm_int8(x, weight, scales, bias, y)


@njit(nogil=True, cache=True)
def _call(x, weight, scales, bias, y):  # type: ignore[no-untyped-def]
    multiply(x, weight, scales, bias, y)


def gemm(x: torch.Tensor, panels: Panels) -> torch.Tensor:
    """`x` `[T, K]` float32, contiguous; the result is `[T, N]`."""
    num_rows = len(x)
    rows = tile_rows(num_rows)
    y = torch.empty(-(-num_rows // rows) * rows, panels.bias.shape[0])
    _call(x.numpy(), *panels, y.numpy())
    return y[:num_rows]
