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

from engine.kernels.attend import block_scores, block_totals
from engine.kernels.exp import FAST, exp
from engine.kernels.kv_row import head_dim_of
from engine.kernels.pool_strides import pool_strides
from engine.kernels.prefetch import prefetch
from engine.kernels.sharing import LOOPS, num_shares, share_out, take

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


@njit(nogil=True, fastmath=FAST, error_model="numpy")
def _join(totals, maxima, sums, first, last, out):  # type: ignore[no-untyped-def]
    """out = the normalised sums of all heads of one sequence, whose runs are `first` to `last`."""
    size = totals.shape[2]
    for head in range(totals.shape[1]):
        maximum = maxima[first, head]
        for run in range(first + 1, last):
            maximum = max(maximum, maxima[run, head])
        weight = np.float32(0)
        for run in range(first, last):
            weight += sums[run, head] * exp(maxima[run, head] - maximum)
        at = head * size
        for i in range(size):
            out[at + i] = np.float32(0)
        for run in range(first, last):
            share = exp(maxima[run, head] - maximum) / weight
            for i in range(size):
                out[at + i] += totals[run, head, i] * share


@cache
def kernel(size: int, group: int) -> Callable[..., None]:
    """`decode_attention` for one head dimension and number of query heads per KV head; compiled code may call it."""

    @njit(nogil=True, error_model="numpy")
    def attend(query, pool, layer, table, begin, end, totals, maxima, sums):  # type: ignore[no-untyped-def]
        """One task: positions `begin` to `end` of one sequence, every head of `query` `[H * D]`."""
        num_kv_heads, block_tokens, pitch = pool.shape[3:]
        of_head = block_tokens * pitch
        of_block, of_layer, of_kind = pool_strides(pool)
        run = end - begin
        scores = np.empty((num_kv_heads * group, run), np.float32)
        position = begin
        while position < end:
            block, first = np.int64(table[position // block_tokens]), position % block_tokens
            last = min(block_tokens, first + end - position)
            keys = block * of_block + layer * of_layer + first * pitch
            following = np.int64(table[min(position + last - first, end - 1) // block_tokens])
            next_keys = following * of_block + layer * of_layer
            for head in range(num_kv_heads):
                q_at, score_at = head * group * size, head * group * run + position - begin
                key_at, count = keys + head * of_head, last - first
                prefetch(pool, next_keys + head * of_head, of_head)
                block_scores(query, q_at, pool, key_at, count, scores, score_at, run, group, size)
            position += last - first
        for head in range(scores.shape[0]):
            maxima[head], sums[head] = _soften(scores[head], np.float32(size**-0.5))
        totals[:] = np.float32(0)
        position = begin
        while position < end:
            block, first = np.int64(table[position // block_tokens]), position % block_tokens
            last = min(block_tokens, first + end - position)
            values = block * of_block + layer * of_layer + of_kind + first * pitch
            following = np.int64(table[min(position + last - first, end - 1) // block_tokens])
            next_values = following * of_block + layer * of_layer + of_kind
            for head in range(num_kv_heads):
                score_at, total_at = head * group * run + position - begin, head * group * size
                value_at, count = values + head * of_head, last - first
                prefetch(pool, next_values + head * of_head, of_head)
                block_totals(scores, score_at, run, pool, value_at, count, totals, total_at, group, size)
            position += last - first

    @njit(nogil=True, error_model="numpy")
    def attend_share(qkv, pool, layer, block_tables, context_lens, window, share, totals, maxima, sums, out):  # type: ignore[no-untyped-def]
        """The runs that one thread takes, and the sums of sequences that have no other run."""
        work, thread, first_runs, owners = share
        run, last = take(work, thread)
        while run < last:
            s = owners[run]
            hidden = max(0, context_lens[s] - window)
            nominal = (run - first_runs[s] + hidden // SPLIT) * SPLIT
            begin, end = max(nominal, hidden), min(nominal + SPLIT, context_lens[s])
            attend(qkv[s], pool, layer, block_tables[s], begin, end, totals[run], maxima[run], sums[run])
            if first_runs[s + 1] - first_runs[s] == 1:
                _join(totals, maxima, sums, run, run + 1, out[s])
            run += 1
            if run == last:
                run, last = take(work, thread)

    @njit(parallel=LOOPS, nogil=True, cache=True)
    def attend_all(qkv, pool, layer, block_tables, context_lens, window, out):  # type: ignore[no-untyped-def]
        num_sequences = context_lens.shape[0]
        num_heads = pool.shape[3] * group
        first_runs = np.zeros(num_sequences + 1, np.int64)
        for s in range(num_sequences):
            hidden = max(0, context_lens[s] - window)
            first_runs[s + 1] = first_runs[s] + (context_lens[s] + SPLIT - 1) // SPLIT - hidden // SPLIT
        num_runs = first_runs[num_sequences]
        owners = np.empty(num_runs, np.int64)
        for s in range(num_sequences):
            owners[first_runs[s] : first_runs[s + 1]] = s
        totals = np.empty((num_runs, num_heads, size), np.float32)
        maxima = np.empty((num_runs, num_heads), np.float32)
        sums = np.empty((num_runs, num_heads), np.float32)
        work = share_out(num_runs)
        for thread in prange(num_shares(work)):
            share = work, np.int64(thread), first_runs, owners
            attend_share(qkv, pool, layer, block_tables, context_lens, window, share, totals, maxima, sums, out)
        for s in range(num_sequences):
            if first_runs[s + 1] - first_runs[s] > 1:
                _join(totals, maxima, sums, first_runs[s], first_runs[s + 1], out[s])

    compiled: Callable[..., None] = attend_all
    return compiled


NO_WINDOW = 1 << 40


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

    `pool` is `[N, L, 2, K, P, row]`, or some heads of one; `block_tables` `[S, max blocks]`; `context_lens` `[S]` are
    the positions of each sequence, the new one included. With a `window` only the last so many are visible.
    """
    size = head_dim_of(pool)
    attend_all = kernel(size, out.shape[1] // size // pool.shape[3])
    attend_all(qkv, pool, layer, block_tables, context_lens, window or NO_WINDOW, out)
