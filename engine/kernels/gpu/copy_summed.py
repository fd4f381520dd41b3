"""Copying runs of eight-byte words while they are summed up: what moves between GPUs is checked where it lies.

    target[starts[i] + j] = source[begins[i] + j] = w_j,    0 <= j < sizes[i]
    sums[i] = sum of mix(w_j xor (j + 1) KEY) modulo 2^64
    mix(h) = g xor (g >> 29),    g = (h xor (h >> 32)) MIX

As `engine/kernels/xxh3.py` on a CPU, in one pass over the bytes; not XXH3 itself, whose steps follow one another, but a
sum, whose terms come in any order. The key is another one in each place and the mix is no linear function: words that
are changed, exchanged or left over from another copy give another sum, but for one case in 2^64. It is no protection
against somebody who means to deceive.
"""

import torch
import triton
import triton.language as tl

from engine.kernels.gpu.compiled import Compiled

_KEY = tl.constexpr(0x1E3779B97F4A7C15)
_MIX = tl.constexpr(0x2545F4914F6CDD1D)
_BLOCK, _NUM_WARPS = 4096, 16
CONFIGS = tuple(triton.Config({"BLOCK": block}, num_warps=warps) for block in (2048, 4096) for warps in (8, 16))
"""For the bench to try."""


def copy_summed_reference(
    source: torch.Tensor,
    begins: torch.Tensor,
    target: torch.Tensor,
    starts: torch.Tensor,
    sizes: torch.Tensor,
    sums: torch.Tensor,
) -> None:
    for i, (begin, start, size) in enumerate(zip(begins.tolist(), starts.tolist(), sizes.tolist(), strict=True)):
        words = source[begin : begin + size]
        target[start : start + size] = words
        mixed = words ^ (torch.arange(1, size + 1, device=words.device) * _KEY.value)
        mixed = (mixed ^ _shifted(mixed, 32)) * _MIX.value
        sums[i] = (mixed ^ _shifted(mixed, 29)).sum()


def _shifted(words: torch.Tensor, count: int) -> torch.Tensor:
    """To the right, with zeros from the left."""
    return (words >> count) & ((1 << (64 - count)) - 1)


@triton.jit
def _copy_summed(source, begins, target, starts, sizes, sums, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    run = tl.program_id(0)
    begin, start, size = tl.load(begins + run), tl.load(starts + run), tl.load(sizes + run)
    total = tl.zeros([BLOCK], tl.uint64)
    for first in range(0, size, BLOCK):
        at = first + tl.arange(0, BLOCK)
        moved = at < size
        words = tl.load(source + begin + at, moved, 0)
        tl.store(target + start + at, words, moved)
        mixed = words.to(tl.uint64, bitcast=True) ^ ((at + 1).to(tl.uint64) * _KEY)
        mixed = (mixed ^ (mixed >> 32)) * _MIX
        total += tl.where(moved, mixed ^ (mixed >> 29), 0)
    tl.store(sums + run, tl.sum(total, 0).to(tl.int64, bitcast=True))


def copy_summed(
    source: torch.Tensor,
    begins: torch.Tensor,
    target: torch.Tensor,
    starts: torch.Tensor,
    sizes: torch.Tensor,
    sums: torch.Tensor,
) -> None:
    """Runs of words of `source` `[n]` into `target` `[m]`, both int64.

    `begins`, `starts` and `sizes` `[B]`, in words, and `sums` `[B]` are int64, all on the device. The caller vouches
    for the bounds, and that nothing is both read and written.
    """
    assert source.dtype == target.dtype == sums.dtype == torch.int64
    assert begins.shape == starts.shape == sizes.shape == sums.shape
    if len(sums):
        _copy_summed[(len(sums),)](source, begins, target, starts, sizes, sums, BLOCK=_BLOCK, num_warps=_NUM_WARPS)


COMPILED = (
    Compiled(
        _copy_summed,
        dict.fromkeys(("source", "begins", "target", "starts", "sizes", "sums"), "*i64"),
        {"BLOCK": _BLOCK},
        num_warps=_NUM_WARPS,
    ),
)
