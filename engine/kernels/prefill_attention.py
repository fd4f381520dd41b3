"""Causal attention of a chunk of one sequence's tokens over everything before it.

    a_tp = (q_t . k_p) / sqrt(D) for positions t - window < p <= t,   out_t = sum_p softmax(a_t)_p * v_p

On AMX that is `amx_attention.py`, on AVX-512 `vector_attention.py`. Elsewhere keys and values of the sequence are
gathered from the paged pool into one run, a memory copy; the rest is torch's blocked attention.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit, prange

from engine.kernels import amx, amx_attention, vector_attention
from engine.kernels.decode_attention import NO_WINDOW
from engine.kernels.kv_row import head_dim_of, load_row
from engine.kernels.pool_strides import pool_strides
from engine.kernels.sharing import LOOPS


def prefill_attention_twin(
    queries: torch.Tensor,
    pool: torch.Tensor,
    layer: int,
    block_table: torch.Tensor,
    start: int,
    window: int | None = None,
) -> torch.Tensor:
    """`queries` `[n, H, D]` stand at positions from `start`; their own keys and values are in the pool already."""
    num_rows, num_heads, head_dim = queries.shape
    end = start + num_rows
    kv = pool[block_table.long(), layer].permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :end]  # [2, K, end, D]
    keys, values = kv.repeat_interleave(num_heads // pool.shape[3], dim=1)
    scores = torch.einsum("nhd,hpd->hnp", queries, keys) * head_dim**-0.5
    distance = torch.arange(start, end)[:, None] - torch.arange(end)
    visible = (distance >= 0) & (distance < (window or end))
    return torch.einsum("hnp,hpd->nhd", scores.masked_fill(~visible, -torch.inf).softmax(-1), values)


@dataclass(frozen=True)
class PrefillChunk:
    """One chunk of more than one token; the same for every layer, so made once per step."""

    first_row: int
    end_row: int
    end: int
    """Positions attended to: those before the chunk and its own."""
    block_table: np.ndarray
    window: int | None = None
    """Positions visible to layers that slide."""
    dtype: torch.dtype = torch.float32
    """Of queries, keys and values as they are multiplied; sums are float32."""

    @cached_property
    def mask(self) -> torch.Tensor | None:
        """[n, end] added to the scores of layers that see everything; None where plain causal masking does."""
        distance = self._distance()
        return self._hide(distance < 0) if len(distance) < self.end else None

    @cached_property
    def window_mask(self) -> torch.Tensor | None:
        """[n, end] for layers that slide."""
        distance = self._distance()
        return None if self.window is None else self._hide((distance < 0) | (distance >= self.window))

    def _distance(self) -> torch.Tensor:
        start = self.end - (self.end_row - self.first_row)
        return torch.arange(start, self.end)[:, None] - torch.arange(self.end)

    def _hide(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.zeros(hidden.shape, dtype=self.dtype).masked_fill_(hidden, -torch.inf)


@cache
def _gather(size: int) -> Callable[..., None]:
    """Copies keys and values of a sequence out of the pool; for one head dimension, a constant to the compiler."""

    @njit(parallel=LOOPS, nogil=True, cache=True)
    def kernel(pool, layer, block_table, end, out):  # type: ignore[no-untyped-def]
        num_kv_heads, block_tokens, pitch = pool.shape[3:]
        of_block, of_layer, of_kind = pool_strides(pool)
        for index in prange((end + block_tokens - 1) // block_tokens):
            block = np.int64(block_table[index])
            begin = index * block_tokens
            count = min(block_tokens, end - begin)
            for kind in range(2):
                at = block * of_block + layer * of_layer + kind * of_kind
                for head in range(num_kv_heads):
                    source, target = at + head * block_tokens * pitch, kind * num_kv_heads + head
                    for offset in range(count):
                        to = (target * end + begin + offset) * size
                        load_row(pool, source + offset * pitch, out, to, size)

    compiled: Callable[..., None] = kernel
    return compiled


def rounded_dtype(head_dim: int) -> torch.dtype:
    """The type for products that need not be exact: bfloat16 where heads of this size are multiplied twice as fast or
    more in it."""
    has_tiles = torch.cpu._is_amx_tile_supported()  # torch uses them, for heads of any size
    is_fast = has_tiles or (vector_attention.has_pairs() and vector_attention.takes(head_dim))
    return torch.bfloat16 if is_fast else torch.float32


def _kernel(head_dim: int, *, is_exact: bool) -> Callable[..., None] | None:
    """Our own, for this processor and heads of this size; None where torch's is the better one."""
    if amx.runs_here() and amx_attention.takes(head_dim):
        return amx_attention.kernel(head_dim, is_exact=is_exact)
    if vector_attention.runs_here() and vector_attention.takes(head_dim):
        return vector_attention.kernel(head_dim, is_exact=is_exact)
    return None


def prefill_attention(
    qkv: torch.Tensor,
    pool: np.ndarray,
    layer: int,
    chunk: PrefillChunk,
    out: torch.Tensor,
    slides: bool = False,
) -> None:
    """Attend with the chunk's rows of `qkv` `[T, (H + 2K) * D]` and write the same rows of `out` `[T, H * D]`."""
    num_kv_heads, head_dim = pool.shape[3], head_dim_of(pool)
    window = chunk.window if slides else None
    if (kernel := _kernel(head_dim, is_exact=chunk.dtype is torch.float32)) is not None:
        span, table = (chunk.first_row, chunk.end_row), chunk.block_table
        kernel(qkv.numpy(), *span, pool, layer, table, chunk.end, window or NO_WINDOW, out.numpy())
        return
    rows = slice(chunk.first_row, chunk.end_row)
    heads = qkv[rows].view(chunk.end_row - chunk.first_row, -1, head_dim).transpose(0, 1)  # [H + 2K, n, D]
    num_heads = len(heads) - 2 * num_kv_heads
    if pool.dtype == np.float32 and chunk.end == len(heads[0]):  # nothing came before the chunk
        keys, values = heads[num_heads:].chunk(2)
    else:
        kv = torch.empty(2, num_kv_heads, chunk.end, head_dim)
        _gather(head_dim)(pool, layer, chunk.block_table, chunk.end, kv.numpy())
        keys, values = kv.unbind()
    mask = chunk.window_mask if slides else chunk.mask
    attended = F.scaled_dot_product_attention(
        heads[None, :num_heads].to(chunk.dtype),
        keys[None].to(chunk.dtype),
        values[None].to(chunk.dtype),
        attn_mask=mask,
        is_causal=mask is None,
        enable_gqa=num_heads != num_kv_heads,
    )  # [1, H, n, D]
    out[rows].view(-1, num_heads, head_dim).copy_(attended[0].transpose(0, 1))
