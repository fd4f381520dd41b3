"""Attention of a chunk on AMX, with the softmax made along the way (FlashAttention's, Dao 2022).

For 32 queries and 64 positions at a time, scores are keys times queries, so that a query is a column: a maximum over
positions is then one of vectors. Their weights come out as the next product needs them: values times weights.

Keys and values are packed once for all queries. In float32 all is multiplied as three parts (`amx.py`) and as exact as
float32 is; where it need not be, as the nearest bfloat16.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit, prange

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
from engine.kernels.kv_row import load_row
from engine.kernels.pool_strides import pool_strides
from engine.kernels.soften import HIDDEN, hide, rows_of_queries, scale_rows, soften
from engine.kernels.tile import COLUMNS, LANES

_QUERIES = COLUMNS
_STEPS = 2
_POSITIONS = _STEPS * FLOAT_DEPTH
"""That a softmax is made of at a time."""
_MOST_WORDS = 1 << 24
"""Of packed keys and values at a time: of a long context, those of some heads after those of others."""


def takes(head_dim: int) -> bool:
    """Whether heads of this size are whole tiles."""
    return head_dim % FLOAT_DEPTH == 0


@cache
def kernel(size: int, *, is_exact: bool) -> Callable[..., None]:
    """For one head dimension and one precision: `(qkv, first_row, end_row, pool, layer, block_table, end, window, out)`
    is `prefill_attention` of those rows, the last of which stands at position `end - 1`."""
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
    def pack(pool, layer, block_table, head, position, end, keys, values, at):  # type: ignore[no-untyped-def]
        """Keys as rows of positions, values as rows of d: `_POSITIONS` of them from `position` on."""
        block_tokens, pitch = pool.shape[4:]
        of_block, of_layer, of_kind = pool_strides(pool)
        rows = np.empty(2 * _POSITIONS * size, np.float32)
        if end - position < _POSITIONS:  # what is not a number would spoil what it is multiplied with zero for
            rows[:] = np.float32(0)
        for p in range(min(_POSITIONS, end - position)):
            block = np.int64(block_table[(position + p) // block_tokens])
            for part in range(2):
                at_kind = block * of_block + layer * of_layer + part * of_kind
                source = at_kind + (head * block_tokens + (position + p) % block_tokens) * pitch
                load_row(pool, source, rows, (part * _POSITIONS + p) * size, size)
        for p in range(_POSITIONS):
            for step in range(depth):
                to = at + (p // _QUERIES * depth + step) * step_words + p % _QUERIES * LINE_WORDS
                split_row(num_parts, rows, p * size + step * FLOAT_DEPTH, keys, to)
        for group in range(depth):
            for step in range(_STEPS):
                to = at + (group * _STEPS + step) * step_words
                for row in range(TILE_ROWS):
                    source = (_POSITIONS + step * FLOAT_DEPTH + 2 * row) * size + group * FLOAT_DEPTH
                    for half in range(TALL):
                        even = source + half * LANES
                        tile_row = to + half * TILE_WORDS + row * LINE_WORDS
                        split_pair(num_parts, rows, even, even + size, values, tile_row)
                transpose_step(values, to)

    @njit(nogil=True)
    def pack_queries(qkv, first_row, end_row, head, packed, at):  # type: ignore[no-untyped-def]
        """As columns; those of rows that are missing are zeros."""
        zeros = np.zeros(FLOAT_DEPTH, np.float32)
        for q in range(_QUERIES):
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
    def attend(qkv, first_row, end_row, query, head, keys, values, at, begin, window, out):  # type: ignore[no-untyped-def]
        """One head of up to `_QUERIES` rows, the first of which is at position `query`. What is packed of its keys and
        values lies at `at`, from position `begin` on."""
        queries = np.empty(depth * step_words + LINE_WORDS, np.int32)
        weights = np.empty(_STEPS * step_words + LINE_WORDS, np.int32)
        queries_at, weights_at = offset_to_line(queries), offset_to_line(weights)
        scores = np.empty(_QUERIES * _POSITIONS + LINE_WORDS, np.float32)
        totals = np.zeros(_QUERIES * size + LINE_WORDS, np.float32)
        scores_at, totals_at = offset_to_line(scores), offset_to_line(totals)
        maxima, sums = np.full(_QUERIES, np.float32(HIDDEN)), np.zeros(_QUERIES, np.float32)
        shrink = np.empty(_QUERIES, np.float32)
        pack_queries(qkv, first_row, end_row, head, queries, queries_at)
        begin_tiles(SHAPES, _QUERIES)
        last = query + min(_QUERIES, end_row - first_row)
        first = (max(query - window + 1, begin) - begin) // _POSITIONS
        for block in range(first, (last - begin - 1) // _POSITIONS + 1):
            block_at, position = at + block * words, begin + block * _POSITIONS
            for step in range(_STEPS):
                to = scores_at + step * _QUERIES * _QUERIES
                keys_at = block_at + step * depth * step_words
                float_block(num_parts, 2, 1, depth, keys, keys_at, queries, queries_at, scores, to)
            if position + _POSITIONS > query or last - position > window:
                hide(scores, scores_at, _POSITIONS, query - position, window)
            soften(num_parts, scores, scores_at, _POSITIONS, scale, maxima, sums, shrink, weights, weights_at)
            scale_rows(totals, totals_at, size, shrink)
            for group in range(depth):
                to, values_at = totals_at + group * FLOAT_DEPTH * _QUERIES, block_at + group * _STEPS * step_words
                float_block(num_parts, 2, 0, _STEPS, values, values_at, weights, weights_at, totals, to)
        end_tiles()
        num_queries, out_at = min(_QUERIES, end_row - first_row), first_row * out.shape[1] + head * size
        rows_of_queries(totals, totals_at, size, sums, num_queries, out, out_at, out.shape[1])

    @njit(parallel=True, nogil=True, cache=True, error_model="numpy")
    def attend_all(qkv, first_row, end_row, pool, layer, block_table, end, window, out):  # type: ignore[no-untyped-def]
        num_kv_heads = pool.shape[3]
        group = qkv.shape[1] // size // num_kv_heads - 2
        start = end - (end_row - first_row)
        begin = max(0, start - window + 1) // _POSITIONS * _POSITIONS
        num_blocks = (end - begin + _POSITIONS - 1) // _POSITIONS
        num_tiles = (end_row - first_row + _QUERIES - 1) // _QUERIES
        at_once = min(num_kv_heads, max(1, _MOST_WORDS // (num_blocks * words)))
        keys = np.empty(at_once * num_blocks * words + LINE_WORDS, np.int32)
        values = np.empty(keys.shape[0], np.int32)
        keys_at, values_at = offset_to_line(keys), offset_to_line(values)
        keys, values = keys[keys_at:], values[values_at:]
        for first in range(0, num_kv_heads, at_once):
            count = min(at_once, num_kv_heads - first)
            for task in prange(count * num_blocks):
                position = begin + task % num_blocks * _POSITIONS
                head = first + task // num_blocks
                pack(pool, layer, block_table, head, position, end, keys, values, task * words)
            for task in prange(count * group * num_tiles):
                at = task // (group * num_tiles) * num_blocks * words
                row, head = first_row + task % num_tiles * _QUERIES, first * group + task // num_tiles
                query = start + row - first_row
                attend(qkv, row, end_row, query, head, keys, values, at, begin, window, out)

    compiled: Callable[..., None] = attend_all
    return compiled
