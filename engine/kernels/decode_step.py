"""One decode step of a whole model in one native call: what `models/decoder.py` does layer by layer from Python.

A step of few rows is a hundred small kernels between memory-bound products; called from Python each begins with a cold
cache and 20 us of dispatch, together a tenth of a float32 step and a third of an int8 one. The kernels are the same.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from numba import njit

from engine.kernels import decode_attention, rope_cache
from engine.kernels.gemm import Panels, multiply
from engine.kernels.norm import norm_rows
from engine.kernels.silu_mul import silu_mul_rows
from engine.kernels.vector_gemm import tile_rows


class Weights(NamedTuple):
    """Of a model of L layers; panels and vectors have the layers in front."""

    qkv: Panels
    output: Panels
    gate_up: Panels
    down: Panels
    head: Panels
    """of one matrix"""
    input_norms: np.ndarray
    """[L, hidden size]"""
    post_norms: np.ndarray
    norm: np.ndarray
    """[hidden size]"""
    head_norms: np.ndarray
    """[L, 2, D], of queries and keys; [L, 0, D] where the model has none"""
    windows: np.ndarray
    """[L] int64, positions that are visible"""
    rope: np.ndarray
    """[max context, D]"""
    eps: float


@cache
def _kernel(size: int, group: int) -> Callable[..., None]:
    """The step for one head dimension and number of query heads per KV head."""
    rotate_all, attend_all = rope_cache.kernel(size), decode_attention.kernel(size, group)

    @njit(nogil=True, cache=True)
    def step(weights, hidden, positions, slots, block_tables, context_lens, pool, logits):  # type: ignore[no-untyped-def]
        num_rows = hidden.shape[0]
        padded = logits.shape[0]
        qkv = np.empty((padded, weights.qkv.bias.shape[1]), np.float32)
        attended = np.empty((num_rows, group * size * pool.shape[3]), np.float32)
        gate_up = np.empty((padded, weights.gate_up.bias.shape[1]), np.float32)
        gated = np.empty((num_rows, gate_up.shape[1] // 2), np.float32)
        normed = np.empty_like(hidden)
        delta = np.zeros((padded, hidden.shape[1]), np.float32)
        for layer in range(weights.windows.shape[0]):
            norm_rows(hidden, delta, weights.input_norms[layer], weights.eps, normed)
            of = weights.qkv
            multiply(normed, of.weight[layer], of.scales[layer], of.bias[layer], of.tiles, qkv)
            head_norms, window = weights.head_norms[layer], weights.windows[layer]
            rotate_all(qkv, weights.rope, positions, slots, pool, layer, head_norms, weights.eps)
            attend_all(qkv, pool, layer, block_tables, context_lens, window, attended)
            of = weights.output
            multiply(attended, of.weight[layer], of.scales[layer], of.bias[layer], of.tiles, delta)
            norm_rows(hidden, delta, weights.post_norms[layer], weights.eps, normed)
            of = weights.gate_up
            multiply(normed, of.weight[layer], of.scales[layer], of.bias[layer], of.tiles, gate_up)
            silu_mul_rows(gate_up, gated)
            of = weights.down
            multiply(gated, of.weight[layer], of.scales[layer], of.bias[layer], of.tiles, delta)
        norm_rows(hidden, delta, weights.norm, weights.eps, normed)
        of_head = weights.head
        multiply(normed, of_head.weight, of_head.scales, of_head.bias, of_head.tiles, logits)

    compiled: Callable[..., None] = step
    return compiled


def decode_step(
    weights: Weights,
    hidden: np.ndarray,
    positions: np.ndarray,
    slots: np.ndarray,
    block_tables: np.ndarray,
    context_lens: np.ndarray,
    pool: np.ndarray,
) -> np.ndarray:
    """Logits `[T, V]` of T sequences with one new token each, whose embeddings are `hidden` `[T, hidden size]`.

    `hidden` is summed into; `pool` gets the new keys and values. The rest as for the kernels.
    """
    size = weights.rope.shape[1]
    num_kv_heads = pool.shape[3]
    group = weights.qkv.bias.shape[1] // size // num_kv_heads - 2
    rows = tile_rows(len(hidden))
    logits = np.empty((-(-len(hidden) // rows) * rows, weights.head.bias.shape[0]), np.float32)
    _kernel(size, group)(weights, hidden, positions, slots, block_tables, context_lens, pool, logits)
    return logits[: len(hidden)]
