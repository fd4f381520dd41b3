"""Rotate queries and keys by position and store keys and values in their slots.

For a head x of 2h numbers at position t, with c = cos(t * w_i) and s = sin(t * w_i) for i < h:

    x_i, x_(h+i)  <-  x_i * c - x_(h+i) * s,  x_(h+i) * c + x_i * s

Where the model asks for it, each query and key head is RMS-normalised first.
"""

import numpy as np
import torch
from numba import njit, prange

from engine.kernels.exp import FAST, WORTH_SHARING


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


@njit(nogil=True, fastmath=FAST)
def _row(qkv, table, positions, slots, pool, layer, head_norms, eps, row):  # type: ignore[no-untyped-def]
    num_kv_heads, block_tokens, head_dim = pool.shape[3:]
    num_heads = qkv.shape[1] // head_dim - 2 * num_kv_heads
    half = head_dim // 2
    turn = table[positions[row]]
    block, offset = slots[row] // block_tokens, slots[row] % block_tokens
    for head in range(num_heads + num_kv_heads):
        numbers = qkv[row, head * head_dim : (head + 1) * head_dim]
        if head_norms.shape[0]:
            square = np.float32(0)
            for i in range(head_dim):
                square += numbers[i] * numbers[i]
            scale = np.float32(1) / np.sqrt(square / np.float32(head_dim) + np.float32(eps))
            kind = 0 if head < num_heads else 1
            for i in range(head_dim):
                numbers[i] *= scale * head_norms[kind, i]
        for i in range(half):
            cos, sin = turn[i], turn[half + i]
            first, second = numbers[i], numbers[half + i]
            numbers[i] = first * cos - second * sin
            numbers[half + i] = second * cos + first * sin
    for head in range(2 * num_kv_heads):
        kind, kv_head = head // num_kv_heads, head % num_kv_heads
        begin = (num_heads + head) * head_dim
        for i in range(head_dim):
            pool[block, layer, kind, kv_head, offset, i] = qkv[row, begin + i]


@njit(nogil=True, cache=True)
def _few(qkv, table, positions, slots, pool, layer, head_norms, eps):  # type: ignore[no-untyped-def]
    for row in range(qkv.shape[0]):
        _row(qkv, table, positions, slots, pool, layer, head_norms, eps, row)


@njit(parallel=True, nogil=True, cache=True)
def _many(qkv, table, positions, slots, pool, layer, head_norms, eps):  # type: ignore[no-untyped-def]
    for row in prange(qkv.shape[0]):
        _row(qkv, table, positions, slots, pool, layer, head_norms, eps, row)


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
    """Rotate `qkv` `[T, (H + 2K) * D]` in place; store its keys and values in `layer` of `pool` `[N, L, 2, K, P, D]`.

    `table` `[max context, D]` holds the cosines of each position, then its sines; `head_norms` `[2, D]` the weights of
    the query norm and of the key norm.
    """
    kernel = _few if qkv.size < WORTH_SHARING else _many
    kernel(qkv, table, positions, slots, pool, layer, _NO_NORMS if head_norms is None else head_norms, eps)
