"""The keys and values of every block on one worker: one tensor, block-major.

One block is one contiguous run of bytes over all layers, so that moving it is one copy. Knows shapes and bytes; does
not know who owns a block. On the CPU the pool holds float32 whatever type the model computes in: kernels read and
write float32, and narrower types are cast where activations enter a kernel.
"""

import hashlib

import torch

from engine.models.spec import ModelSpec

POOL_DTYPE = torch.float32


def block_size_bytes(spec: ModelSpec, block_tokens: int) -> int:
    """Bytes of one block, to decide how many fit."""
    return spec.num_layers * 2 * spec.num_kv_heads * block_tokens * spec.head_dim * POOL_DTYPE.itemsize


class KVCache:
    """The pool, `[N, L, 2, K, P, D]`; made in `buffer` where one is given, for example shared memory."""

    def __init__(
        self,
        spec: ModelSpec,
        num_blocks: int,
        block_tokens: int,
        buffer: memoryview | None = None,
    ) -> None:
        shape = (num_blocks, spec.num_layers, 2, spec.num_kv_heads, block_tokens, spec.head_dim)
        self.num_blocks = num_blocks
        self.block_tokens = block_tokens
        self.block_bytes = block_size_bytes(spec, block_tokens)
        if buffer is None:
            self.pool = torch.zeros(shape, dtype=POOL_DTYPE)  # [N, L, 2, K, P, D]
        else:
            count = num_blocks * self.block_bytes // POOL_DTYPE.itemsize
            self.pool = torch.frombuffer(buffer, dtype=POOL_DTYPE, count=count).view(shape)
        self.array = self.pool.numpy()
        """The same memory for Numba."""
        self._bytes = self.array.reshape(-1).data.cast("B")

    @property
    def size_bytes(self) -> int:
        return self.num_blocks * self.block_bytes

    def block_view(self, block: int) -> memoryview:
        """The bytes of one block, writable, without a copy."""
        assert 0 <= block < self.num_blocks
        return self._bytes[block * self.block_bytes : (block + 1) * self.block_bytes]

    def layer(self, layer: int) -> torch.Tensor:
        """Keys and values of one layer, `[N, 2, K, P, D]`, strided into the pool."""
        return self.pool[:, layer]


def layout_fingerprint(revision: str, spec: ModelSpec, block_tokens: int, tp: int = 1) -> str:
    """Names what two workers must share before a block of one means anything to the other."""
    dtype = str(POOL_DTYPE).removeprefix("torch.")
    layout = (
        f"revision={revision} dtype={dtype} L={spec.num_layers} K={spec.num_kv_heads} "
        f"P={block_tokens} D={spec.head_dim} tp={tp}"
    )
    return hashlib.sha256(layout.encode()).hexdigest()[:16]
