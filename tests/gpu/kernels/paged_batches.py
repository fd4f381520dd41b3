"""Random paged batches for the kernels that attend: every sequence's blocks lie anywhere in the pool."""

import torch

LAYERS, LAYER = 2, 1


def random_pool(
    context_lens: list[int], num_kv_heads: int, head_dim: int, block_tokens: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """A pool `[N, L, 2, K, P, D]` and block tables `[S, max blocks]`; what no sequence owns or has written is NaN."""
    num_blocks = [-(-length // block_tokens) for length in context_lens]
    pool = torch.full((sum(num_blocks) + 2, LAYERS, 2, num_kv_heads, block_tokens, head_dim), torch.nan, dtype=dtype)
    free = torch.randperm(sum(num_blocks)) + 2
    tables = torch.zeros(len(context_lens), max(1, *num_blocks), dtype=torch.int32)
    for row, (length, count) in enumerate(zip(context_lens, num_blocks, strict=True)):
        tables[row, :count], free = free[:count].int(), free[count:]
        for position in range(length):
            block = tables[row, position // block_tokens]
            pool[block, LAYER, :, :, position % block_tokens] = torch.randn(2, num_kv_heads, head_dim).to(dtype)
    return pool, tables


def random_rows(num_rows: int, num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> torch.Tensor:
    """Queries `[rows, H, D]` as a part of rows that hold keys and values too, as the model's projection leaves them."""
    qkv = torch.randn(num_rows, num_heads + 2 * num_kv_heads, head_dim).to(dtype)
    return qkv[:, :num_heads]
