"""Attention of a chunk in blocks of queries and positions, with the softmax made along the way (FlashAttention's, Dao
2022): what is the same on AMX (`amx_attention.py`) and on AVX-512's vectors (`vector_attention.py`).

For `QUERIES` queries and `POSITIONS` positions at a time, scores are keys times queries, so that a query is a column: a
maximum over positions is then one of vectors. Keys and values are packed once for all queries.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, prange

from engine.kernels.amx import LINE_WORDS, offset_to_line
from engine.kernels.kv_row import load_row
from engine.kernels.pool_strides import pool_strides
from engine.kernels.tile import COLUMNS

QUERIES = COLUMNS
POSITIONS = 64
"""That a softmax is made of at a time."""
_MOST_WORDS = 1 << 24
"""Of packed keys and values at a time: of a long context, those of some heads after those of others."""


def in_blocks(size: int, words: int, pack: Any, attend: Any) -> Callable[..., None]:
    """For heads of `size`: `(qkv, first_row, end_row, pool, layer, block_table, end, window, out)` is
    `prefill_attention` of those rows, the last of which stands at position `end - 1`.

    `pack(rows, keys, values, at)` puts `POSITIONS` keys and after them as many values, each a row of `size` float32,
    into `words` 32-bit items of `keys` and of `values`;
    `attend(qkv, first_row, end_row, head, query, keys, values, at, begin, window, out)` is one query head's part of up
    to `QUERIES` rows, the first of which is at position `query`; what is packed begins at `at` and position `begin`.
    """

    @njit(nogil=True)
    def load_rows(pool, layer, block_table, head, position, end):  # type: ignore[no-untyped-def]
        """Of a KV head, `POSITIONS` keys from `position` on, and their values; those from `end` on are zeros."""
        block_tokens, pitch = pool.shape[4:]
        of_block, of_layer, of_kind = pool_strides(pool)
        rows = np.empty(2 * POSITIONS * size, np.float32)
        if end - position < POSITIONS:  # what is not a number would spoil what it is multiplied with zero for
            rows[:] = np.float32(0)
        for p in range(min(POSITIONS, end - position)):
            block = np.int64(block_table[(position + p) // block_tokens])
            for kind in range(2):
                at_kind = block * of_block + layer * of_layer + kind * of_kind
                source = at_kind + (head * block_tokens + (position + p) % block_tokens) * pitch
                load_row(pool, source, rows, (kind * POSITIONS + p) * size, size)
        return rows

    @njit(parallel=True, nogil=True, cache=True, error_model="numpy")
    def attend_all(qkv, first_row, end_row, pool, layer, block_table, end, window, out):  # type: ignore[no-untyped-def]
        num_kv_heads = pool.shape[3]
        group = qkv.shape[1] // size // num_kv_heads - 2
        start = end - (end_row - first_row)
        begin = max(0, start - window + 1) // POSITIONS * POSITIONS
        num_blocks = (end - begin + POSITIONS - 1) // POSITIONS
        num_tiles = (end_row - first_row + QUERIES - 1) // QUERIES
        at_once = min(num_kv_heads, max(1, _MOST_WORDS // (num_blocks * words)))
        keys = np.empty(at_once * num_blocks * words + LINE_WORDS, np.int32)
        values = np.empty(keys.shape[0], np.int32)
        keys_at, values_at = offset_to_line(keys), offset_to_line(values)
        keys, values = keys[keys_at:], values[values_at:]
        for first in range(0, num_kv_heads, at_once):
            count = min(at_once, num_kv_heads - first)
            for task in prange(count * num_blocks):
                position = begin + task % num_blocks * POSITIONS
                head = first + task // num_blocks
                pack(load_rows(pool, layer, block_table, head, position, end), keys, values, task * words)
            for task in prange(count * group * num_tiles):
                at = task // (group * num_tiles) * num_blocks * words
                row, head = first_row + task % num_tiles * QUERIES, first * group + task // num_tiles
                query = start + row - first_row
                attend(qkv, row, end_row, head, query, keys, values, at, begin, window, out)

    compiled: Callable[..., None] = attend_all
    return compiled
