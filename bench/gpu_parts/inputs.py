"""Random inputs on the current default device."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Paged:
    """Sequences whose blocks lie anywhere in the pool."""

    pool: torch.Tensor
    """[N, L, 2, K, P, D]"""
    block_tables: torch.Tensor
    """[S, max blocks] int32"""
    context_lens: torch.Tensor
    """[S] int32"""


def random_paged(
    lengths: list[int],
    num_layers: int,
    num_kv_heads: int,
    head_dim: int,
    block_tokens: int,
    dtype: torch.dtype,
    *,
    poisoned: bool = False,
    in_float8: bool = False,
) -> Paged:
    """`poisoned`: what no sequence owns, or is behind its end, is NaN."""
    counts = [-(-length // block_tokens) for length in lengths]
    free = torch.randperm(sum(counts) + 2)
    tables = torch.zeros(len(lengths), max(1, *counts), dtype=torch.int32)
    shape = (len(free), num_layers, 2, num_kv_heads, block_tokens, head_dim)
    pool = torch.empty(shape, dtype=dtype)
    for layer in range(num_layers):  # in place: normal numbers in another type would need the pool twice
        pool[:, layer].normal_()
    for row, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        tables[row, :count], free = free[:count].int(), free[count:]
        if poisoned and length % block_tokens:
            pool[tables[row, count - 1].long(), ..., length % block_tokens :, :] = torch.nan
    if poisoned:
        pool[free] = torch.nan
    pool = pool.to(torch.float8_e4m3fn) if in_float8 else pool
    return Paged(pool, tables, torch.tensor(lengths, dtype=torch.int32))


def queries_of_rows(
    num_rows: int, num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype
) -> torch.Tensor:
    """`[rows, H, D]` as a part of rows that have keys and values behind, as a model's projection leaves them."""
    return torch.randn(num_rows, num_heads + 2 * num_kv_heads, head_dim, dtype=dtype)[:, :num_heads]


def rope_table(max_context: int, head_dim: int) -> torch.Tensor:
    """`[max context, D]` float32: cosines, then sines."""
    frequencies = 500_000.0 ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.arange(max_context, dtype=torch.float64)[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=1).float()
