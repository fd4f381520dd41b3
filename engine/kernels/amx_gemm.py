"""Matrix products on AMX, from rows and panels to results; what is done with a block is in `amx.py`, `amx_weights.py`.

Rows are packed once, as tiles of parts (float32) or of int8. A panel's weights meet one block of rows after another:
float32 ones a few steps at a time, so that their parts stay in the first cache, split for the first block while it is
multiplied. A row's sums are over the whole depth, front to back, as in `gemm.py`: its result does not depend on what
else is in the batch.
"""

import numpy as np
from numba import njit, prange

from engine.kernels.amx import (
    FLOAT_DEPTH,
    INT8_DEPTH,
    LINE_WORDS,
    PARTS,
    SHAPES,
    TALL,
    TILE_ROWS,
    TILE_WORDS,
    begin_tiles,
    end_tiles,
    float_block,
    offset_to_line,
    split_row,
)
from engine.kernels.amx_weights import SLOTS, STEP_WORDS, add_row, float_block_of_weights, int8_block, scale_row
from engine.kernels.quantize import quantize_row
from engine.kernels.sharing import LOOPS, num_shares, share_out, take
from engine.kernels.tile import COLUMNS

_BLOCK_ROWS = TALL * TILE_ROWS
_BLOCK_WORDS = _BLOCK_ROWS * COLUMNS
_CHUNK_WORDS = SLOTS * STEP_WORDS
_GROUP_BLOCKS = 8
_GROUP_WORDS = 5 << 16
"""Of the rows that meet every panel before the next ones: they stay in the second cache."""
_ZEROS = np.zeros(COLUMNS, np.float32)


@njit(nogil=True)
def _tall(num_rows, block):  # type: ignore[no-untyped-def]
    """How many tiles high a block is: all but the last are two."""
    return 1 if num_rows - block * _BLOCK_ROWS <= TILE_ROWS else TALL


@njit(nogil=True)
def _step_at(step, block, num_blocks):  # type: ignore[no-untyped-def]
    """Where the parts of some rows lie: in the order in which they are read, a chunk of all blocks after another."""
    return ((step // SLOTS) * num_blocks + block) * _CHUNK_WORDS + step % SLOTS * STEP_WORDS


@njit(nogil=True)
def _pack_floats(x, block, num_blocks, packed, packed_at):  # type: ignore[no-untyped-def]
    """Rows that a tile has and x has not stay what they are: nobody reads their results."""
    first, depth = block * _BLOCK_ROWS, x.shape[1]
    for step in range(depth // FLOAT_DEPTH):
        at = packed_at + _step_at(step, block, num_blocks)
        for row in range(min(_BLOCK_ROWS, x.shape[0] - first)):
            split_row(PARTS, x, (first + row) * depth + step * FLOAT_DEPTH, packed, at + row * LINE_WORDS)


@njit(nogil=True)
def _float_panels(num_rows, packed, packed_at, blocks, span, work, thread, weight, bias, y):  # type: ignore[no-untyped-def]
    """The sums of some blocks with a span of steps of panels that are left, added to those of earlier steps in `y`."""
    begin, end = take(work, thread)
    if begin == end:
        return
    steps, width = weight.shape[1] // FLOAT_DEPTH, y.shape[1]
    num_blocks = (num_rows + _BLOCK_ROWS - 1) // _BLOCK_ROWS
    parts = np.empty(_CHUNK_WORDS + LINE_WORDS, np.int32)
    sums = np.empty((blocks[1] - blocks[0]) * _BLOCK_WORDS + LINE_WORDS, np.float32)
    parts_at, sums_at = offset_to_line(parts), offset_to_line(sums)
    first, last = blocks[0] * _BLOCK_ROWS, min(blocks[1] * _BLOCK_ROWS, num_rows)
    # A block alone keeps its sums in their tiles from the first step to the last.
    chunk = span[1] - span[0] if num_blocks == 1 else SLOTS
    begin_tiles(SHAPES, min(num_rows, _BLOCK_ROWS))
    while begin < end:
        for panel in range(begin, end):
            y_at = panel * COLUMNS
            for row in range(first, last):
                to = sums_at + (row - first) * COLUMNS
                if span[0]:
                    add_row(y, row * width + y_at, _ZEROS, 0, sums, to)
                else:
                    add_row(_ZEROS, 0, _ZEROS, 0, sums, to)
            for step in range(span[0], span[1], chunk):
                count = min(chunk, span[1] - step)
                weight_at = (panel * steps + step) * FLOAT_DEPTH * COLUMNS
                for block in range(blocks[0], blocks[1]):
                    x_at = packed_at + _step_at(step, block, num_blocks)
                    to = sums_at + (block - blocks[0]) * _BLOCK_WORDS
                    tall = _tall(num_rows, block)
                    if block == blocks[0] and tall == 1:
                        float_block_of_weights(1, count, packed, x_at, weight, weight_at, parts, parts_at, sums, to)
                    elif block == blocks[0]:
                        float_block_of_weights(2, count, packed, x_at, weight, weight_at, parts, parts_at, sums, to)
                    elif tall == 1:
                        float_block(PARTS, 1, 0, count, packed, x_at, parts, parts_at, sums, to)
                    else:
                        float_block(PARTS, 2, 0, count, packed, x_at, parts, parts_at, sums, to)
            for row in range(first, last):
                source = sums_at + (row - first) * COLUMNS
                if span[1] == steps:
                    add_row(sums, source, bias, y_at, y, row * width + y_at)
                else:
                    add_row(sums, source, _ZEROS, 0, y, row * width + y_at)
        begin, end = take(work, thread)
    end_tiles()


@njit(parallel=LOOPS, nogil=True, cache=True)
def gemm_float(x, weight, bias, y):  # type: ignore[no-untyped-def]
    """`y[:T] = x W^T + b`, of a packed float32 weight whose depth is a multiple of `FLOAT_DEPTH`."""
    num_rows, num_panels = x.shape[0], weight.shape[0]
    steps = weight.shape[1] // FLOAT_DEPTH
    num_blocks = (num_rows + _BLOCK_ROWS - 1) // _BLOCK_ROWS
    packed = np.empty((steps + SLOTS - 1) // SLOTS * num_blocks * _CHUNK_WORDS + LINE_WORDS, np.int32)
    packed_at = offset_to_line(packed)
    if num_blocks == 1:
        _pack_floats(x, 0, 1, packed, packed_at)
    else:
        for block in prange(num_blocks):
            _pack_floats(x, block, num_blocks, packed, packed_at)
    group = max(1, min(num_blocks, _GROUP_BLOCKS))
    chunks = max(1, _GROUP_WORDS // (group * _CHUNK_WORDS))
    for begin in range(0, steps, chunks * SLOTS):
        for first in range(0, num_blocks, group):
            work = share_out(num_panels)
            for thread in prange(num_shares(work)):
                blocks = first, min(first + group, num_blocks)
                span = begin, min(begin + chunks * SLOTS, steps)
                _float_panels(num_rows, packed, packed_at, blocks, span, work, thread, weight, bias, y)


@njit(nogil=True)
def _int8_panels(num_rows, packed, packed_at, x_scales, starts, blocks, work, thread, weight, scales, bias, y):  # type: ignore[no-untyped-def]
    begin, end = take(work, thread)
    if begin == end:
        return
    sums = np.empty(_BLOCK_WORDS + LINE_WORDS, np.int32)
    sums_at = offset_to_line(sums)
    steps = weight.shape[1] // TILE_ROWS
    begin_tiles(SHAPES, min(num_rows, _BLOCK_ROWS))
    while begin < end:
        for panel in range(begin, end):
            column, weight_at = panel * COLUMNS, panel * weight.shape[1] * COLUMNS
            for block in range(blocks[0], blocks[1]):
                first = block * _BLOCK_ROWS
                x_at = packed_at + block * TALL * steps * TILE_WORDS
                if _tall(num_rows, block) == 1:
                    int8_block(1, steps, packed, x_at, weight, weight_at, sums, sums_at)
                else:
                    int8_block(2, steps, packed, x_at, weight, weight_at, sums, sums_at)
                for row in range(first, min(first + _BLOCK_ROWS, num_rows)):
                    source, to = sums_at + (row - first) * COLUMNS, row * y.shape[1] + column
                    scale_row(sums, source, starts[row], x_scales[row], scales, bias, column, y, to)
        begin, end = take(work, thread)
    end_tiles()


@njit(nogil=True)
def _pack_int8(x, first, last, steps, packed, at, x_scales, starts):  # type: ignore[no-untyped-def]
    values = np.empty(x.shape[1], np.int8)
    words = values.view(np.int32)
    for row in range(first, last):
        x_scales[row], total = quantize_row(x[row], values)
        starts[row] = np.int32(-128) * total
        to = at + (row // TILE_ROWS) * steps * TILE_WORDS + (row % TILE_ROWS) * LINE_WORDS
        for step in range(steps):
            for word in range(LINE_WORDS):
                packed[to + step * TILE_WORDS + word] = words[step * LINE_WORDS + word]


@njit(parallel=LOOPS, nogil=True, cache=True)
def gemm_int8(x, weight, scales, bias, y):  # type: ignore[no-untyped-def]
    """The same of a weight packed as int8, with a depth that is a multiple of `INT8_DEPTH`."""
    num_rows, num_panels = x.shape[0], weight.shape[0]
    steps = x.shape[1] // INT8_DEPTH
    num_blocks = (num_rows + _BLOCK_ROWS - 1) // _BLOCK_ROWS
    packed = np.empty(num_blocks * TALL * steps * TILE_WORDS + LINE_WORDS, np.int32)
    packed_at = offset_to_line(packed)
    x_scales, starts = np.empty(num_rows, np.float32), np.empty(num_rows, np.int32)
    if num_blocks == 1:
        _pack_int8(x, 0, num_rows, steps, packed, packed_at, x_scales, starts)
    else:
        for block in prange(num_blocks):
            first = block * _BLOCK_ROWS
            last = min(first + _BLOCK_ROWS, num_rows)
            _pack_int8(x, first, last, steps, packed, packed_at, x_scales, starts)
    group = max(1, min(num_blocks, _GROUP_WORDS // (TALL * steps * TILE_WORDS)))
    for first in range(0, num_blocks, group):
        work = share_out(num_panels)
        for thread in prange(num_shares(work)):
            blocks = first, min(first + group, num_blocks)
            _int8_panels(num_rows, packed, packed_at, x_scales, starts, blocks, work, thread, weight, scales, bias, y)
