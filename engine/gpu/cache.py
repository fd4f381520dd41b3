"""The keys and values of every block on one GPU: one tensor, block-major as the pool of `engine/cache.py`. A rank of
several (`engine/tp`) has those of its own heads.

A row is D numbers of the type that the model computes in, or of float8 e4m3: the kernels that attend take no other.
Where a CPU's pool has the same type, its blocks are the same bytes. Knows shapes and bytes. Does not know who owns a
block, nor how one gets to another worker.
"""

import torch

from engine.models.spec import ModelSpec


def block_size_bytes(spec: ModelSpec, block_tokens: int, dtype: torch.dtype) -> int:
    """Bytes of one block, to decide how many fit."""
    return spec.num_layers * 2 * spec.num_kv_heads * block_tokens * spec.head_dim * dtype.itemsize


class GpuCache:
    """The pool, `[N, L, 2, K, P, D]`."""

    def __init__(
        self,
        spec: ModelSpec,
        num_blocks: int,
        block_tokens: int,
        device: torch.device,
        dtype: torch.dtype,
        num_heads: int | None = None,
    ) -> None:
        """`num_heads` are the KV heads that are here: all of them, but for a rank of several."""
        heads = spec.num_kv_heads if num_heads is None else num_heads
        self.spec = spec
        self.num_blocks = num_blocks
        self.block_tokens = block_tokens
        self.block_bytes = block_size_bytes(spec, block_tokens, dtype)
        """With all heads"""
        self.pool = torch.zeros(
            (num_blocks, spec.num_layers, 2, heads, block_tokens, spec.head_dim), dtype=dtype, device=device
        )

    @property
    def size_bytes(self) -> int:
        return self.pool.nbytes

    def write_ones(self, num_blocks: int) -> None:
        """Make every number of the first blocks 1, for measuring."""
        self.pool[:num_blocks] = 1

    def clear(self, num_blocks: int) -> None:
        """Make every number of the first blocks 0."""
        self.pool[:num_blocks] = 0
