"""The blocks of `flash.py` on AMX. Weights of positions come out as the next product needs them: values times weights.

In float32 all is multiplied as three parts (`amx.py`) and as exact as float32 is; where it need not be, as the nearest
bfloat16.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit

from engine.kernels.amx import (
    FLOAT_DEPTH,
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
    split_pair,
    split_row,
    transpose_tile,
)
from engine.kernels.flash import POSITIONS, QUERIES, in_blocks
from engine.kernels.soften import HIDDEN, hide, rows_of_queries, scale_rows, soften
from engine.kernels.tile import LANES

_STEPS = POSITIONS // FLOAT_DEPTH


def takes(head_dim: int) -> bool:
    """Whether heads of this size are whole tiles."""
    return head_dim % FLOAT_DEPTH == 0


@cache
def kernel(size: int, *, is_exact: bool) -> Callable[..., None]:
    """For one head dimension and one precision: what `flash.py` says."""
    num_parts = PARTS if is_exact else 1
    depth = size // FLOAT_DEPTH
    step_words = num_parts * TALL * TILE_WORDS
    words = _STEPS * depth * step_words
    scale = np.float32(size**-0.5)

    @njit(nogil=True)
    def transpose_step(packed, at):  # type: ignore[no-untyped-def]
        for tile in range(num_parts * TALL):
            transpose_tile(packed, at + tile * TILE_WORDS)

    @njit(nogil=True)
    def pack(rows, keys, values, at):  # type: ignore[no-untyped-def]
        """Keys as rows of positions, values as rows of d."""
        for p in range(POSITIONS):
            for step in range(depth):
                to = at + (p // QUERIES * depth + step) * step_words + p % QUERIES * LINE_WORDS
                split_row(num_parts, rows, p * size + step * FLOAT_DEPTH, keys, to)
        for group in range(depth):
            for step in range(_STEPS):
                to = at + (group * _STEPS + step) * step_words
                for row in range(TILE_ROWS):
                    source = (POSITIONS + step * FLOAT_DEPTH + 2 * row) * size + group * FLOAT_DEPTH
                    for half in range(TALL):
                        even = source + half * LANES
                        tile_row = to + half * TILE_WORDS + row * LINE_WORDS
                        split_pair(num_parts, rows, even, even + size, values, tile_row)
                transpose_step(values, to)

    @njit(nogil=True)
    def pack_queries(qkv, first_row, end_row, head, packed, at):  # type: ignore[no-untyped-def]
        """As columns; those of rows that are missing are zeros."""
        zeros = np.zeros(FLOAT_DEPTH, np.float32)
        for q in range(QUERIES):
            for step in range(depth):
                to = at + step * step_words + q * LINE_WORDS
                if first_row + q < end_row:
                    source = (first_row + q) * qkv.shape[1] + head * size + step * FLOAT_DEPTH
                    split_row(num_parts, qkv, source, packed, to)
                else:
                    split_row(num_parts, zeros, 0, packed, to)
        for step in range(depth):
            transpose_step(packed, at + step * step_words)

    @njit(nogil=True)
    def attend(qkv, first_row, end_row, head, query, keys, values, at, begin, window, out):  # type: ignore[no-untyped-def]
        queries = np.empty(depth * step_words + LINE_WORDS, np.int32)
        weights = np.empty(_STEPS * step_words + LINE_WORDS, np.int32)
        queries_at, weights_at = offset_to_line(queries), offset_to_line(weights)
        scores = np.empty(QUERIES * POSITIONS + LINE_WORDS, np.float32)
        totals = np.zeros(QUERIES * size + LINE_WORDS, np.float32)
        scores_at, totals_at = offset_to_line(scores), offset_to_line(totals)
        maxima, sums = np.full(QUERIES, np.float32(HIDDEN)), np.zeros(QUERIES, np.float32)
        shrink = np.empty(QUERIES, np.float32)
        pack_queries(qkv, first_row, end_row, head, queries, queries_at)
        begin_tiles(SHAPES, QUERIES)
        last = query + min(QUERIES, end_row - first_row)
        first = (max(query - window + 1, begin) - begin) // POSITIONS
        for block in range(first, (last - begin - 1) // POSITIONS + 1):
            block_at, position = at + block * words, begin + block * POSITIONS
            for step in range(_STEPS):
                to = scores_at + step * QUERIES * QUERIES
                keys_at = block_at + step * depth * step_words
                float_block(num_parts, 2, 1, depth, keys, keys_at, queries, queries_at, scores, to)
            if position + POSITIONS > query or last - position > window:
                hide(scores, scores_at, POSITIONS, query - position, window)
            soften(num_parts, scores, scores_at, POSITIONS, scale, maxima, sums, shrink, weights, weights_at)
            scale_rows(totals, totals_at, size, shrink)
            for group in range(depth):
                to, values_at = totals_at + group * FLOAT_DEPTH * QUERIES, block_at + group * _STEPS * step_words
                float_block(num_parts, 2, 0, _STEPS, values, values_at, weights, weights_at, totals, to)
        end_tiles()
        num_queries, out_at = min(QUERIES, end_row - first_row), first_row * out.shape[1] + head * size
        rows_of_queries(totals, totals_at, size, sums, num_queries, out, out_at, out.shape[1])

    return in_blocks(size, words, pack, attend)
