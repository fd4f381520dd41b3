"""The keys and values of every block on one worker: one tensor, block-major.

One block is one contiguous run of bytes over all layers, so that moving it is one copy. Knows shapes and bytes; does
not know who owns a block. What a row of the pool is, one head's key or value at one position, depends on the type it
is kept in (`kernels/kv_row.py`); whatever that is, and whatever the model computes in, kernels compute in float32.
"""

import hashlib

import numpy as np
import torch

from engine.kernels.kv_row import SCALE_BYTES
from engine.models.spec import ModelSpec

_ITEMS = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
DTYPES = tuple(_ITEMS)
"""In which keys and values can be kept."""


def _row_items(spec: ModelSpec, dtype: str) -> int:
    return spec.head_dim + SCALE_BYTES if dtype == "int8" else spec.head_dim


def block_size_bytes(spec: ModelSpec, block_tokens: int, dtype: str = "float32") -> int:
    """Bytes of one block, to decide how many fit."""
    rows = spec.num_layers * 2 * spec.num_kv_heads * block_tokens
    return rows * _row_items(spec, dtype) * _ITEMS[dtype].itemsize


class KVCache:
    """The pool, `[N, L, 2, K, P, row]`; made in `buffer` where one is given, for example shared memory.

    A row is D items, or D + 4 of int8.
    """

    def __init__(
        self,
        spec: ModelSpec,
        num_blocks: int,
        block_tokens: int,
        buffer: memoryview | None = None,
        dtype: str = "float32",
        heads: slice = slice(None),
    ) -> None:
        """`heads` are the KV heads that this process computes: all, but for a rank of several (`engine/tp`)."""
        shape = (num_blocks, spec.num_layers, 2, spec.num_kv_heads, block_tokens, _row_items(spec, dtype))
        item = _ITEMS[dtype]
        self.num_blocks = num_blocks
        self.block_tokens = block_tokens
        self.block_bytes = block_size_bytes(spec, block_tokens, dtype)
        if buffer is None:
            self.pool = torch.zeros(shape, dtype=item)
        else:
            count = num_blocks * self.block_bytes // item.itemsize
            self.pool = torch.frombuffer(buffer, dtype=item, count=count).view(shape)
        array = self.pool.numpy()
        self.array = array.view(np.uint16) if dtype == "float16" else array
        """The same memory for Numba, which has no float16."""
        self.own_heads = self.array[:, :, :, heads]
        """What kernels here read and write of it."""
        self._bytes = self.array.reshape(-1).data.cast("B")

    @property
    def size_bytes(self) -> int:
        return self.num_blocks * self.block_bytes

    @property
    def memory(self) -> memoryview:
        """The bytes of all blocks, writable, without a copy: block i lies at i times `block_bytes`."""
        return self._bytes

    def block_view(self, block: int) -> memoryview:
        """The bytes of one block, writable, without a copy."""
        assert 0 <= block < self.num_blocks
        return self._bytes[block * self.block_bytes : (block + 1) * self.block_bytes]

    def write_ones(self, num_blocks: int) -> None:
        """Make every number of the first blocks 1, for measuring: memory never written is one page of zeros, which
        costs nothing to read, and other bytes may be numbers that are slow to compute with."""
        self.pool[:num_blocks] = 1
        if self.pool.dtype == torch.int8:
            self.pool[:num_blocks, ..., -SCALE_BYTES:] = torch.ones(1).view(torch.int8)  # behind each row, a float32

    def clear(self, num_blocks: int) -> None:
        """Make every number of the first blocks 0."""
        self.array[:num_blocks] = 0

    def layer(self, layer: int) -> torch.Tensor:
        """Keys and values of one layer, `[N, 2, K, P, row]`, strided into the pool."""
        return self.pool[:, layer]


def layout_fingerprint(revision: str, spec: ModelSpec, block_tokens: int, *, dtype: str = "float32") -> str:
    """Names what two workers must share before a block of one means anything to the other. Over how many ranks a
    worker spreads the heads is not part of it: they share one pool."""
    layout = (
        f"revision={revision} dtype={dtype} L={spec.num_layers} K={spec.num_kv_heads} "
        f"P={block_tokens} D={spec.head_dim}"
    )
    return hashlib.sha256(layout.encode()).hexdigest()[:16]
