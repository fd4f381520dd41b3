"""Matrix products on AVX-512's vectors; `tile.py` has the inner loops.

x is cut into tiles of up to `MAX_ROWS` rows. A panel stays in the cache while it meets one tile after another, and a
group of tiles while it meets all panels. Each sum is over the whole depth, front to back, so a row's result does not
depend on what else is in the batch.
"""

import numpy as np
from numba import njit, prange

from engine.kernels.quantize import quantize_row
from engine.kernels.sharing import LOOPS, num_shares, share_out, take
from engine.kernels.tile import COLUMNS, MAX_ROWS, tile, tile_int8

_GROUP_BYTES = 3 << 18
"""Of the rows that are multiplied with every panel before the next ones."""
_FEW_TILES = 2
"""Packing so few tiles takes less time than waking other threads for it."""


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


@njit(nogil=True)
def _float_panels(rows, packed, tiles, work, thread, weight, bias, y):  # type: ignore[no-untyped-def]
    """Some tiles of rows with panels that are left."""
    size = weight.shape[1] * COLUMNS
    begin, end = take(work, thread)
    while begin < end:
        for panel in range(begin, end):
            column = panel * COLUMNS
            for t in range(tiles[0], tiles[1]):
                x_at, y_at = t * weight.shape[1] * rows, t * rows * y.shape[1] + column
                tile(rows, packed, x_at, weight, panel * size, bias, column, y, y_at)
        begin, end = take(work, thread)


@njit(parallel=LOOPS, nogil=True, cache=True)
def gemm_float(x, weight, bias, y):  # type: ignore[no-untyped-def]
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
        work = share_out(num_panels)
        for thread in prange(num_shares(work)):
            tiles = first, min(first + group, num_tiles)
            _float_panels(rows, packed, tiles, work, np.int64(thread), weight, bias, y)


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


@njit(nogil=True)
def _int8_panels(rows, packed, x_scales, starts, tiles, work, thread, weight, scales, bias, y):  # type: ignore[no-untyped-def]
    size = weight.shape[1] * COLUMNS
    begin, end = take(work, thread)
    while begin < end:
        for panel in range(begin, end):
            w_at, column = panel * size, panel * COLUMNS
            for t in range(tiles[0], tiles[1]):
                row, x_at = t * rows, t * weight.shape[1] * rows
                y_at = row * y.shape[1] + column
                tile_int8(rows, packed, x_at, weight, w_at, scales, bias, column, x_scales, starts, row, y, y_at)
        begin, end = take(work, thread)


@njit(parallel=LOOPS, nogil=True, cache=True)
def gemm_int8(x, weight, w_scales, bias, y):  # type: ignore[no-untyped-def]
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
        work = share_out(num_panels)
        for thread in prange(num_shares(work)):
            tiles = first, min(first + group, num_tiles)
            _int8_panels(rows, packed, scales, starts, tiles, work, np.int64(thread), weight, w_scales, bias, y)
