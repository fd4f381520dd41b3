"""Attention of one new token per sequence over the paged pool.

    a_p = (q . k_p) / sqrt(D) for the visible positions p,   out = sum_p softmax(a)_p * v_p

A task is one run of `SPLIT` positions of one sequence. It reads each block once, front to back over the KV heads, for
all the query heads that share one, and leaves an unnormalised sum, the maximum and the weight of every head; a short
second loop joins the runs of a sequence. Runs begin at fixed positions, so a sequence's result does not depend on what
else is in the batch. The kernel is compiled per head dimension: known trip counts make it half again as fast.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numba import njit, prange

from engine.kernels.exp import FAST, exp

SPLIT = 512
"""Positions in one task: enough to hide its start, few enough to fill many cores with one long sequence."""


def decode_attention_twin(
    queries: torch.Tensor,
    pool: torch.Tensor,
    layer: int,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    window: int | None = None,
) -> torch.Tensor:
    """`queries` is `[S, H, D]`; the rest as for `decode_attention`."""
    num_heads, head_dim = queries.shape[1:]
    group = num_heads // pool.shape[3]
    rows = []
    for query, table, length in zip(queries, block_tables, context_lens.tolist(), strict=True):
        kv = pool[table.long(), layer].permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :length]  # [2, K, context, D]
        keys, values = kv.repeat_interleave(group, dim=1)[:, :, max(0, length - (window or length)) :]
        weights = (torch.einsum("hd,hpd->hp", query, keys) * head_dim**-0.5).softmax(-1)
        rows.append(torch.einsum("hp,hpd->hd", weights, values))
    return torch.stack(rows)


@njit(inline="always", nogil=True, fastmath=FAST)
def _scores(query, keys, begin, end, scores, at, size):  # type: ignore[no-untyped-def]
    """scores[at + i] = query . keys[begin + i], four positions at a time so that a query number is read once."""
    position = begin
    while position + 4 <= end:
        s0, s1, s2, s3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        k0, k1, k2, k3 = keys[position], keys[position + 1], keys[position + 2], keys[position + 3]
        for i in range(size):
            q = query[i]
            s0 += q * k0[i]
            s1 += q * k1[i]
            s2 += q * k2[i]
            s3 += q * k3[i]
        scores[at], scores[at + 1], scores[at + 2], scores[at + 3] = s0, s1, s2, s3
        position += 4
        at += 4
    while position < end:
        s0 = np.float32(0)
        k0 = keys[position]
        for i in range(size):
            s0 += query[i] * k0[i]
        scores[at] = s0
        position += 1
        at += 1


@njit(inline="always", nogil=True, fastmath=FAST)
def _accumulate(weights, at, values, begin, end, total, size):  # type: ignore[no-untyped-def]
    """total += sum_i weights[at + i] * values[begin + i], four positions at a time to store sums less often."""
    position = begin
    while position + 4 <= end:
        w0, w1, w2, w3 = weights[at], weights[at + 1], weights[at + 2], weights[at + 3]
        v0, v1, v2, v3 = values[position], values[position + 1], values[position + 2], values[position + 3]
        for i in range(size):
            total[i] += w0 * v0[i] + w1 * v1[i] + w2 * v2[i] + w3 * v3[i]
        position += 4
        at += 4
    while position < end:
        w0 = weights[at]
        v0 = values[position]
        for i in range(size):
            total[i] += w0 * v0[i]
        position += 1
        at += 1


@njit(nogil=True, fastmath=FAST)
def _soften(scores, scale):  # type: ignore[no-untyped-def]
    """Turn scores into unnormalised weights in place; return the largest scaled score and the sum of the weights."""
    maximum = scores[0]
    for i in range(scores.shape[0]):
        maximum = max(maximum, scores[i])
    total = np.float32(0)
    for i in range(scores.shape[0]):
        scores[i] = exp((scores[i] - maximum) * scale)
        total += scores[i]
    return maximum * scale, total


@njit(nogil=True, fastmath=FAST)
def _join(totals, maxima, sums, row, size):  # type: ignore[no-untyped-def]
    """row = the normalised sum over the runs of one head."""
    maximum = maxima[0]
    for run in range(1, maxima.shape[0]):
        maximum = max(maximum, maxima[run])
    weight = np.float32(0)
    for run in range(maxima.shape[0]):
        weight += sums[run] * exp(maxima[run] - maximum)
    for i in range(size):
        row[i] = np.float32(0)
    for run in range(maxima.shape[0]):
        share = exp(maxima[run] - maximum) / weight
        for i in range(size):
            row[i] += totals[run, i] * share


@njit(inline="always", nogil=True)
def _attend(query, pool, layer, table, begin, end, totals, maxima, sums, size):  # type: ignore[no-untyped-def]
    """One task: positions `begin` to `end` of one sequence, every head of `query` `[H * D]`."""
    num_kv_heads, block_tokens = pool.shape[3], pool.shape[4]
    group = query.shape[0] // size // num_kv_heads
    scores = np.empty((num_kv_heads * group, end - begin), np.float32)
    position = begin
    while position < end:
        block, first = table[position // block_tokens], position % block_tokens
        last = min(block_tokens, first + end - position)
        for kv_head in range(num_kv_heads):
            keys = pool[block, layer, 0, kv_head]
            for head in range(kv_head * group, (kv_head + 1) * group):
                of_head = query[head * size : (head + 1) * size]
                _scores(of_head, keys, first, last, scores[head], position - begin, size)
        position += last - first
    for head in range(scores.shape[0]):
        maxima[head], sums[head] = _soften(scores[head], np.float32(size**-0.5))
    totals[:] = np.float32(0)
    position = begin
    while position < end:
        block, first = table[position // block_tokens], position % block_tokens
        last = min(block_tokens, first + end - position)
        for kv_head in range(num_kv_heads):
            values = pool[block, layer, 1, kv_head]
            for head in range(kv_head * group, (kv_head + 1) * group):
                _accumulate(scores[head], position - begin, values, first, last, totals[head], size)
        position += last - first


@cache
def _kernel(size: int) -> Callable[..., None]:
    """The kernel for one head dimension; Numba takes `size` as a constant."""

    @njit(parallel=True, nogil=True, cache=True, fastmath=FAST)
    def kernel(qkv, pool, layer, block_tables, context_lens, window, split, out):  # type: ignore[no-untyped-def]
        num_sequences, query_size = out.shape
        num_heads = query_size // size
        first_runs = np.zeros(num_sequences + 1, np.int64)
        for s in range(num_sequences):
            hidden = max(0, context_lens[s] - window)
            first_runs[s + 1] = first_runs[s] + (context_lens[s] + split - 1) // split - hidden // split
        num_runs = first_runs[num_sequences]
        owners = np.empty(num_runs, np.int64)
        for s in range(num_sequences):
            owners[first_runs[s] : first_runs[s + 1]] = s
        totals = np.empty((num_runs, num_heads, size), np.float32)
        maxima = np.empty((num_runs, num_heads), np.float32)
        sums = np.empty((num_runs, num_heads), np.float32)
        for run in prange(num_runs):
            s = owners[run]
            hidden = max(0, context_lens[s] - window)
            nominal = (run - first_runs[s] + hidden // split) * split
            begin, end = max(nominal, hidden), min(nominal + split, context_lens[s])
            query = qkv[s, :query_size]
            _attend(query, pool, layer, block_tables[s], begin, end, totals[run], maxima[run], sums[run], size)
        for s in range(num_sequences):
            runs = slice(first_runs[s], first_runs[s + 1])
            for head in range(num_heads):
                row = out[s, head * size : (head + 1) * size]
                _join(totals[runs, head], maxima[runs, head], sums[runs, head], row, size)

    compiled: Callable[..., None] = kernel
    return compiled


_NO_WINDOW = 1 << 40


def decode_attention(
    qkv: np.ndarray,
    pool: np.ndarray,
    layer: int,
    block_tables: np.ndarray,
    context_lens: np.ndarray,
    out: np.ndarray,
    window: int | None = None,
) -> None:
    """Attend with the first S rows of `qkv` `[T, (H + 2K) * D]` and write `out` `[S, H * D]`.

    `pool` is `[N, L, 2, K, P, D]`, `block_tables` `[S, max blocks]`, `context_lens` `[S]`: positions of each sequence,
    the new one included. With a `window` only the last so many are visible.
    """
    kernel = _kernel(pool.shape[5])
    kernel(qkv, pool, layer, block_tables, context_lens, window or _NO_WINDOW, SPLIT, out)
