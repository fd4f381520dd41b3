"""Attention of one new token per sequence over the paged pool.

    a_p = (q . k_p) / sqrt(D) for the visible positions p,   out = sum_p softmax(a)_p * v_p

A task is one sequence, one KV head and one run of `SPLIT` positions: the G = H / K query heads that share the KV head are
computed together, each task leaves its unnormalised sum, its maximum and its weight, and a short second loop joins the
runs of a sequence. Runs begin at fixed positions, so a sequence's result does not depend on what else is in the batch.
"""

import numpy as np
import torch
from numba import njit, prange  # type: ignore[import-untyped]

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


@njit(nogil=True, fastmath=FAST)  # type: ignore[untyped-decorator]
def _scores(query, keys, begin, end, scores, at):  # type: ignore[no-untyped-def]
    """scores[at + i] = query . keys[begin + i], four positions at a time so that a query number is read once."""
    size = query.shape[0]
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


@njit(nogil=True, fastmath=FAST)  # type: ignore[untyped-decorator]
def _accumulate(weights, at, values, begin, end, total):  # type: ignore[no-untyped-def]
    """total += sum_i weights[at + i] * values[begin + i], four positions at a time so that a sum is stored less often."""
    size = total.shape[0]
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


@njit(nogil=True, fastmath=FAST)  # type: ignore[untyped-decorator]
def _attend_run(queries, pool, layer, table, kv_head, begin, end, totals, maxima, sums):  # type: ignore[no-untyped-def]
    """One task: positions `begin` to `end` of one sequence, G query heads of one KV head."""
    block_tokens, size = pool.shape[4], pool.shape[5]
    group = queries.shape[0]
    scale = np.float32(1) / np.sqrt(np.float32(size))
    scores = np.empty((group, end - begin), np.float32)
    position = begin
    while position < end:
        first = position % block_tokens
        last = min(block_tokens, first + end - position)
        keys = pool[table[position // block_tokens], layer, 0, kv_head]
        for g in range(group):
            _scores(queries[g], keys, first, last, scores[g], position - begin)
        position += last - first
    for g in range(group):
        row = scores[g]
        maximum = row[0]
        for i in range(row.shape[0]):
            maximum = max(maximum, row[i])
        total = np.float32(0)
        for i in range(row.shape[0]):
            row[i] = exp((row[i] - maximum) * scale)
            total += row[i]
        maxima[g] = maximum * scale
        sums[g] = total
        for i in range(size):
            totals[g, i] = np.float32(0)
    position = begin
    while position < end:
        first = position % block_tokens
        last = min(block_tokens, first + end - position)
        values = pool[table[position // block_tokens], layer, 1, kv_head]
        for g in range(group):
            _accumulate(scores[g], position - begin, values, first, last, totals[g])
        position += last - first


@njit(parallel=True, nogil=True, cache=True, fastmath=FAST)  # type: ignore[untyped-decorator]
def _decode_attention(qkv, pool, layer, block_tables, context_lens, window, split, out):  # type: ignore[no-untyped-def]
    num_sequences = out.shape[0]
    num_kv_heads, size = pool.shape[3], pool.shape[5]
    num_heads = out.shape[1] // size
    group = num_heads // num_kv_heads
    first_runs = np.empty(num_sequences + 1, np.int64)
    first_runs[0] = 0
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
    for task in prange(num_runs * num_kv_heads):
        run, kv_head = task // num_kv_heads, task % num_kv_heads
        s = owners[run]
        hidden = max(0, context_lens[s] - window)
        nominal = (run - first_runs[s] + hidden // split) * split
        heads = slice(kv_head * group, (kv_head + 1) * group)
        _attend_run(
            qkv[s, : num_heads * size].reshape(num_heads, size)[heads],
            pool,
            layer,
            block_tables[s],
            kv_head,
            max(nominal, hidden),
            min(nominal + split, context_lens[s]),
            totals[run, heads],
            maxima[run, heads],
            sums[run, heads],
        )
    for task in range(num_sequences * num_heads):
        s, head = task // num_heads, task % num_heads
        begin, end = first_runs[s], first_runs[s + 1]
        maximum = maxima[begin, head]
        for run in range(begin + 1, end):
            maximum = max(maximum, maxima[run, head])
        weight = np.float32(0)
        for run in range(begin, end):
            weight += sums[run, head] * exp(maxima[run, head] - maximum)
        row = out[s, head * size : (head + 1) * size]
        for i in range(size):
            row[i] = np.float32(0)
        for run in range(begin, end):
            share = exp(maxima[run, head] - maximum) / weight
            for i in range(size):
                row[i] += totals[run, head, i] * share


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

    `pool` is `[N, L, 2, K, P, D]`, `block_tables` `[S, max blocks]`, `context_lens` `[S]`: positions of each sequence, the
    new one included. With a `window` only the last so many are visible.
    """
    _decode_attention(qkv, pool, layer, block_tables, context_lens, window or _NO_WINDOW, SPLIT, out)
