"""Copying blocks from pool to pool, and ranges of their heads out of a pool and back.

    copy_blocks     target[slots[i]] = source[blocks[i]]
    gather_heads    packed[i] = pool[blocks[i], :, :, first : first + k]
    scatter_heads   pool[blocks[i], :, :, first : first + k] = packed[i]

A block is made of runs of bytes: one when it is copied whole, one for each layer and kind (key, value) when only some
heads are, as between pools of unequal numbers of heads on one GPU or on peers. Nothing is rounded: numbers are moved
eight bytes at a time, whatever they are. The engine's transports copy a rank's blocks whole (`engine/tp/copies.py`).
"""

import torch
import triton
import triton.language as tl

from engine.kernels.gpu.compiled import Compiled

_BLOCK = 1024
CONFIGS = tuple(triton.Config({"BLOCK": block}, num_warps=warps) for block in (512, 1024, 2048) for warps in (4, 8))
"""For the bench to try."""


def copy_blocks_reference(
    source: torch.Tensor, blocks: torch.Tensor, target: torch.Tensor, slots: torch.Tensor
) -> None:
    kept = (blocks >= 0) & (slots >= 0)
    target[slots[kept]] = source[blocks[kept]]


def gather_heads_reference(pool: torch.Tensor, blocks: torch.Tensor, first: int, packed: torch.Tensor) -> None:
    kept = blocks >= 0
    packed[kept] = pool[blocks[kept], :, :, first : first + packed.shape[3]]


def scatter_heads_reference(packed: torch.Tensor, pool: torch.Tensor, blocks: torch.Tensor, first: int) -> None:
    kept = blocks >= 0
    heads = pool[:, :, :, first : first + packed.shape[3]]
    heads[blocks[kept]] = packed[kept]


@triton.jit
def _copy_runs(  # type: ignore[no-untyped-def]
    source,
    source_blocks,
    source_block_size,
    source_run_size,
    source_start,
    target,
    target_blocks,
    target_block_size,
    target_run_size,
    target_start,
    num_runs,
    size,
    BLOCK: tl.constexpr,
):
    index = (tl.program_id(0) // num_runs).to(tl.int64)
    run = (tl.program_id(0) % num_runs).to(tl.int64)
    source_block, target_block = index, index
    if source_blocks is not None:
        source_block = tl.load(source_blocks + index).to(tl.int64)
    if target_blocks is not None:
        target_block = tl.load(target_blocks + index).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    moved = columns < tl.where((source_block >= 0) & (target_block >= 0), size, 0)
    begin = source + source_block * source_block_size + run * source_run_size + source_start
    to = target + target_block * target_block_size + run * target_run_size + target_start
    tl.store(to + columns, tl.load(begin + columns, moved, 0), moved)


def copy_blocks(source: torch.Tensor, blocks: torch.Tensor, target: torch.Tensor, slots: torch.Tensor) -> None:
    """Blocks of `source` `[N, ...]` into those of `target` `[M, ...]`, which is of the same type and shape but for M.

    `blocks` and `slots` `[B]` are integers on the device; where either is below 0 nothing is copied. The caller vouches
    that there are such blocks, and that none is both read and written.
    """
    assert source.shape[1:] == target.shape[1:]
    assert blocks.shape == slots.shape
    source, target = _words(source), _words(target)
    size = source[0].numel()
    _launch((source, blocks, 0, 0), (target, slots, 0, 0), len(blocks), 1, size)


def gather_heads(pool: torch.Tensor, blocks: torch.Tensor, first: int, packed: torch.Tensor) -> None:
    """Heads `first` to `first` + k of blocks of `pool` `[N, L, 2, K, P, D]` into `packed` `[B, L, 2, k, P, D]`.

    `blocks` `[B]` as for `copy_blocks`.
    """
    whole, part = _words(pool), _words(packed)
    run, start = _run_of(whole, part, first)
    source, target = (whole, blocks, whole.stride(2), start), (part, None, part.stride(2), 0)
    _launch(source, target, len(packed), 2 * whole.shape[1], run)


def scatter_heads(packed: torch.Tensor, pool: torch.Tensor, blocks: torch.Tensor, first: int) -> None:
    """The way back of `gather_heads`; the other heads of the blocks stay as they are."""
    whole, part = _words(pool), _words(packed)
    run, start = _run_of(whole, part, first)
    source, target = (part, None, part.stride(2), 0), (whole, blocks, whole.stride(2), start)
    _launch(source, target, len(packed), 2 * whole.shape[1], run)


def _words(blocks: torch.Tensor) -> torch.Tensor:
    assert blocks.is_contiguous()
    return blocks.view(torch.int64)


def _run_of(pool: torch.Tensor, packed: torch.Tensor, first: int) -> tuple[int, int]:
    """Words of a run, and where the first begins in a block of the pool."""
    assert pool.shape[1:3] + pool.shape[4:] == packed.shape[1:3] + packed.shape[4:]
    assert 0 <= first <= first + packed.shape[3] <= pool.shape[3]
    return packed.shape[3] * packed.stride(3), first * pool.stride(3)


_Side = tuple[torch.Tensor, torch.Tensor | None, int, int]
"""Words, the blocks to take (None: one after another), words from run to run and before the first"""


def _launch(source: _Side, target: _Side, num_blocks: int, num_runs: int, size: int) -> None:
    if num_blocks and size:
        _copy_runs[(num_blocks * num_runs, triton.cdiv(size, _BLOCK))](
            *_arguments(source), *_arguments(target), num_runs, size, BLOCK=_BLOCK, num_warps=4
        )


def _arguments(side: _Side) -> tuple[object, ...]:
    words, blocks, run_size, start = side
    return words, blocks, words.stride(0), run_size, start


_SIZES = ("source_block_size", "source_run_size", "source_start")
_SIGNATURE = {"source": "*i64", "target": "*i64", "num_runs": "i32", "size": "i32:16"} | {
    name.replace("source", side): "i32:16" for name in _SIZES for side in ("source", "target")
}
COMPILED = (
    Compiled(_copy_runs, {**_SIGNATURE, "source_blocks": "*i64", "target_blocks": "*i64"}, {"BLOCK": _BLOCK}),
    Compiled(_copy_runs, {**_SIGNATURE, "source_blocks": "*i64"}, {"BLOCK": _BLOCK, "target_blocks": None}),
    Compiled(_copy_runs, {**_SIGNATURE, "target_blocks": "*i64"}, {"BLOCK": _BLOCK, "source_blocks": None}),
)
