"""Rotate queries and keys by position and store keys and values in their slots.

For a head x of 2h numbers at position t, with c = cos(t * w_i) and s = sin(t * w_i) for i < h:

    x_i, x_(h+i)  <-  x_i * c - x_(h+i) * s,  x_(h+i) * c + x_i * s

Where the model asks for it, each query and key head is RMS-normalised first.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numba import njit, prange

from engine.kernels.exp import FAST, WORTH_SHARING
from engine.kernels.kv_row import store_row
from engine.kernels.pool_strides import pool_strides
from engine.kernels.sharing import LOOPS


def rope_cache_twin(
    qkv: torch.Tensor,
    table: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    pool: torch.Tensor,
    layer: int,
    head_norms: torch.Tensor | None = None,
    eps: float = 0.0,
) -> None:
    """Arguments as for `rope_cache`; `qkv` and `pool` change in place."""
    num_kv_heads, block_tokens, head_dim = pool.shape[3:]
    heads = qkv.view(len(qkv), -1, head_dim)  # [T, H + 2K, D]
    num_heads = heads.shape[1] - 2 * num_kv_heads
    half = head_dim // 2
    cos, sin = table[positions, None, :half], table[positions, None, half:]
    rotated = heads[:, : num_heads + num_kv_heads]
    if head_norms is not None:
        weights = torch.cat((head_norms[:1].expand(num_heads, -1), head_norms[1:].expand(num_kv_heads, -1)))
        rotated *= torch.rsqrt(rotated.pow(2).mean(-1, keepdim=True) + eps) * weights
    first, second = rotated[..., :half].clone(), rotated[..., half:].clone()
    rotated[..., :half] = first * cos - second * sin
    rotated[..., half:] = second * cos + first * sin
    kv = heads[:, num_heads:].view(-1, 2, num_kv_heads, head_dim)
    pool[slots // block_tokens, layer, :, :, slots % block_tokens] = kv


@cache
def kernel(size: int) -> Callable[..., None]:
    """`rope_cache` for one head dimension; compiled code may call it. `head_norms` may have no rows."""

    @njit(nogil=True, fastmath=FAST, error_model="numpy")
    def rotate(qkv, table, positions, slots, pool, layer, head_norms, eps, row):  # type: ignore[no-untyped-def]
        num_kv_heads, block_tokens, pitch = pool.shape[3:]
        num_heads = qkv.shape[1] // size - 2 * num_kv_heads
        half = size // 2
        turn = table[positions[row]]
        for head in range(num_heads + num_kv_heads):
            numbers = qkv[row, head * size : (head + 1) * size]
            if head_norms.shape[0]:
                square = np.float32(0)
                for i in range(size):
                    square += numbers[i] * numbers[i]
                scale = np.float32(1) / np.sqrt(square / np.float32(size) + np.float32(eps))
                kind = 0 if head < num_heads else 1
                for i in range(size):
                    numbers[i] *= scale * head_norms[kind, i]
            for i in range(half):
                cos, sin = turn[i], turn[half + i]
                first, second = numbers[i], numbers[half + i]
                numbers[i] = first * cos - second * sin
                numbers[half + i] = second * cos + first * sin
        block, offset = slots[row] // block_tokens, slots[row] % block_tokens
        of_block, of_layer, of_kind = pool_strides(pool)
        for kind in range(2):
            at = block * of_block + layer * of_layer + kind * of_kind
            first = num_heads + kind * num_kv_heads
            for head in range(num_kv_heads):
                to = at + (head * block_tokens + offset) * pitch
                store_row(qkv, row * qkv.shape[1] + (first + head) * size, pool, to, size)

    @njit(parallel=LOOPS, nogil=True, cache=True)
    def rotate_all(qkv, table, positions, slots, pool, layer, head_norms, eps):  # type: ignore[no-untyped-def]
        if positions.shape[0] * qkv.shape[1] < WORTH_SHARING:
            for row in range(positions.shape[0]):
                rotate(qkv, table, positions, slots, pool, layer, head_norms, eps, row)
        else:
            for row in prange(positions.shape[0]):
                rotate(qkv, table, positions, slots, pool, layer, head_norms, eps, np.int64(row))

    compiled: Callable[..., None] = rotate_all
    return compiled


_NO_NORMS = np.empty((0, 1), np.float32)


def rope_cache(
    qkv: np.ndarray,
    table: np.ndarray,
    positions: np.ndarray,
    slots: np.ndarray,
    pool: np.ndarray,
    layer: int,
    head_norms: np.ndarray | None = None,
    eps: float = 0.0,
) -> None:
    """Rotate `qkv` `[T, (H + 2K) * D]` in place; store its keys and values in `layer` of `pool` `[N, L, 2, K, P, row]`,
    or of some heads of one.

    `table` `[max context, D]` holds the cosines of each position, then its sines; `head_norms` `[2, D]` the weights of
    the query norm and of the key norm.
    """
    norms = _NO_NORMS if head_norms is None else head_norms
    kernel(table.shape[1])(qkv, table, positions, slots, pool, layer, norms, eps)
