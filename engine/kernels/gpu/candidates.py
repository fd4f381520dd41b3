"""What can be drawn of rows of logits: the passes over whole rows that come before a draw (`sample.py`).

    w_i = exp((x_i - max x) / temperature)

A row is cut into parts, a program has a part, and three kernels follow each other:

1. the largest logit, which is all that a greedy row needs;
2. how many weights there are above a few fixed pivots, and their sum;
3. from all parts' measures follows a pivot that no threshold can be below; the weights above it, a few hundred of V as
   models go, are packed, in order of token id. A row without top_k and top_p needs none of this.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from engine.kernels.gpu.compiled import Compiled

PART_SIZE, NUM_WARPS = 4096, 8
GREEDY_BELOW = tl.constexpr(1e-5)
"""Temperatures below it take the largest logit."""
NOWHERE = tl.constexpr(0x7FFFFFFF)
LEVELS = tl.constexpr(5)
"""Pivots; the last is 0, above which are all weights that are not 0."""
_LANES = tl.constexpr(8)
"""The power of two that has room for them."""
_TO_WHOLE = tl.constexpr(12582912.0)
"""1.5 * 2^23: added to a float32 and taken away again, it leaves the nearest whole number."""
CONFIGS = tuple(triton.Config({"PART": part}, num_warps=warps) for part in (2048, 4096, 8192) for warps in (4, 8))
"""For the bench to try."""


@dataclass(frozen=True, slots=True)
class Scratch:
    """Where kernels leave word for those that follow, for up to R rows of V logits in parts; what is in it before and
    after a call does not matter."""

    maxima: torch.Tensor
    """[R, parts] float32"""
    columns: torch.Tensor
    """[R, parts] int32, of the maxima"""
    scales: torch.Tensor
    """[R] float32, 1 / temperature"""
    levels: torch.Tensor
    """[R] int32, of the pivot that packed weights are not below"""
    counts: torch.Tensor
    """[R, levels, parts] int32"""
    masses: torch.Tensor
    """[R, levels, parts] float64"""
    weights: torch.Tensor
    """[R, V] float32, packed"""
    ids: torch.Tensor
    """[R, V] int32, of the packed weights"""

    @classmethod
    def of(cls, max_rows: int, size: int, device: torch.device | str) -> "Scratch":
        parts = triton.cdiv(size, PART_SIZE)
        levels = int(LEVELS.value)
        return cls(
            torch.empty(max_rows, parts, device=device),
            torch.empty(max_rows, parts, dtype=torch.int32, device=device),
            torch.empty(max_rows, device=device),
            torch.empty(max_rows, dtype=torch.int32, device=device),
            torch.empty(max_rows, levels, parts, dtype=torch.int32, device=device),
            torch.empty(max_rows, levels, parts, dtype=torch.float64, device=device),
            torch.empty(max_rows, size, device=device),
            torch.empty(max_rows, size, dtype=torch.int32, device=device),
        )


@triton.jit
def _exp(x):  # type: ignore[no-untyped-def]
    """As `engine/kernels/exp.py` has it, in the same steps; for -87 < x <= 0."""
    scaled = tl.minimum(tl.maximum(x * 1.4426950408889634, -126.0), 126.0)
    whole = (scaled + _TO_WHOLE) - _TO_WHOLE
    f = scaled - whole
    power = tl.fma(f, 0.00001525273380405984, 0.0001540353039338161)
    power = tl.fma(power, f, 0.0013333558146428443)
    power = tl.fma(power, f, 0.009618129107628477)
    power = tl.fma(power, f, 0.05550410866482158)
    power = tl.fma(power, f, 0.2402265069591007)
    power = tl.fma(power, f, 0.6931471805599453)
    power = tl.fma(power, f, 1.0)
    return power * ((whole.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def weights_of(logits, columns, size, maximum, scale):  # type: ignore[no-untyped-def]
    """Of some columns; 0 past the end, and for what has no chance in float32."""
    power = (tl.load(logits + columns, columns < size, float("-inf")).to(tl.float32) - maximum) * scale
    return tl.where(power > -87.0, _exp(tl.maximum(power, -87.0)), 0.0)


@triton.jit
def filters_of(top_ks, top_ps, row, size):  # type: ignore[no-untyped-def]
    top_k, top_p = tl.load(top_ks + row), tl.load(top_ps + row)
    return top_k, top_p, (top_k > 0) & (top_k < size), top_p < 1.0


@triton.jit
def floor_of(level):  # type: ignore[no-untyped-def]
    """The pivot of a level: 2^-3, 2^-7, 2^-11, 2^-15 and 0."""
    return tl.where(level == LEVELS - 1, 0, (124 - 4 * level) << 23).to(tl.float32, bitcast=True)


@triton.jit
def maximum_of(maxima, row, num_parts, PARTS: tl.constexpr):  # type: ignore[no-untyped-def]
    parts = tl.arange(0, PARTS)
    return tl.max(tl.load(maxima + row * num_parts + parts, parts < num_parts, float("-inf")), 0)


@triton.jit
def sum_of(measures, row, level, end, num_parts, PARTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of the parts before `end`."""
    parts = tl.arange(0, PARTS)
    return tl.sum(tl.load(measures + (row * LEVELS + level) * num_parts + parts, parts < end, 0), 0)


@triton.jit
def _level_of(counts, masses, row, by_rank, top_k, top_p, num_parts, PARTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """That of the highest pivot that the threshold of top_k, or else that of top_p, is not below."""
    levels, parts = tl.arange(0, _LANES), tl.arange(0, PARTS)[None, :]
    at = (row * LEVELS + levels[:, None]) * num_parts + parts
    there = (levels[:, None] < LEVELS) & (parts < num_parts)
    above = tl.where(by_rank, tl.load(counts + at, there, 0).to(tl.float64), tl.load(masses + at, there, 0.0))
    amounts = tl.sum(above, 1)
    needed = tl.where(by_rank, top_k.to(tl.float64), top_p * tl.max(amounts, 0))
    return tl.min(tl.where((amounts >= needed) & (levels < LEVELS), levels, LEVELS - 1), 0)


@triton.jit
def find_largest(logits, maxima, columns, size, num_parts, PART: tl.constexpr):  # type: ignore[no-untyped-def]
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    here = part * PART + tl.arange(0, PART)
    x = tl.load(logits + row * size + here, here < size, float("-inf")).to(tl.float32)
    x = tl.where(x == x, x, float("-inf"))  # a row without a number must still give an id of the vocabulary
    maximum = tl.max(x, 0)
    tl.store(maxima + row * num_parts + part, maximum)
    tl.store(columns + row * num_parts + part, tl.min(tl.where(x == maximum, here, NOWHERE), 0))


@triton.jit
def measure(  # type: ignore[no-untyped-def]
    logits,
    temperatures,
    top_ks,
    top_ps,
    min_ps,
    maxima,
    scales,
    counts,
    masses,
    size,
    num_parts,
    PART: tl.constexpr,
    PARTS: tl.constexpr,
):
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    temperature = tl.load(temperatures + row)
    if temperature >= GREEDY_BELOW:
        maximum = maximum_of(maxima, row, num_parts, PARTS)
        here = part * PART + tl.arange(0, PART)
        scale = (1.0 / temperature).to(tl.float32)
        tl.store(scales + row, scale)  # every part finds the same
        weights = weights_of(logits + row * size, here, size, maximum, scale)
        _, _, by_rank, by_mass = filters_of(top_ks, top_ps, row, size)
        at = row * LEVELS * num_parts + part
        if by_rank | by_mass:
            for level in tl.static_range(LEVELS):
                above = (weights >= floor_of(part * 0 + level)) & (weights > 0)
                tl.store(counts + at + level * num_parts, tl.sum(above.to(tl.int32), 0))
                mass = tl.sum(tl.where(above, weights, 0.0).to(tl.float64), 0)
                tl.store(masses + at + level * num_parts, mass)
        else:
            kept = tl.where(weights >= tl.load(min_ps + row).to(tl.float32), weights, 0.0)
            tl.store(masses + at + (LEVELS - 1) * num_parts, tl.sum(kept.to(tl.float64), 0))


@triton.jit
def pack(  # type: ignore[no-untyped-def]
    logits,
    temperatures,
    top_ks,
    top_ps,
    maxima,
    scales,
    levels,
    counts,
    masses,
    packed,
    ids,
    size,
    num_parts,
    PART: tl.constexpr,
    PARTS: tl.constexpr,
):
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    temperature = tl.load(temperatures + row)
    top_k, top_p, by_rank, by_mass = filters_of(top_ks, top_ps, row, size)
    if (temperature >= GREEDY_BELOW) & (by_rank | by_mass):
        maximum = maximum_of(maxima, row, num_parts, PARTS)
        here = part * PART + tl.arange(0, PART)
        weights = weights_of(logits + row * size, here, size, maximum, tl.load(scales + row))
        level = _level_of(counts, masses, row, by_rank, top_k, top_p, num_parts, PARTS)
        tl.store(levels + row, level)  # every part finds the same
        kept = (weights >= floor_of(level)) & (weights > 0)
        to = row * size + sum_of(counts, row, level, part, num_parts, PARTS) + tl.cumsum(kept.to(tl.int32), 0) - 1
        tl.store(packed + to, weights, kept)
        tl.store(ids + to, here, kept)


_TYPES = {"temperatures": "*fp64", "top_ks": "*i64", "top_ps": "*fp64", "min_ps": "*fp64"}
_TYPES |= {"seeds": "*i64", "indices": "*i64", "out": "*i64", "size": "i32:16"}
_TYPES |= {"maxima": "*fp32", "scales": "*fp32", "packed": "*fp32", "masses": "*fp64"}
_TYPES |= dict.fromkeys(("columns", "levels", "counts", "ids"), "*i32")


def compiled_for(kernel: Any, constants: Mapping[str, object], num_warps: int) -> tuple[Compiled, ...]:
    """A kernel of a draw, for 128k logits in float32 and for 150k in bfloat16."""
    names: list[str] = kernel.arg_names
    types = {name: kind for name, kind in _TYPES.items() if name in names}
    return tuple(
        Compiled(
            kernel,
            types | {"logits": logits, "num_parts": num_parts},
            {name: value for name, value in {"PART": PART_SIZE, "PARTS": parts, **constants}.items() if name in names},
            num_warps,
        )
        for logits, num_parts, parts in (("*fp32", "i32:16", 32), ("*bf16", "i32", 64))
    )


COMPILED = tuple(case for kernel in (find_largest, measure, pack) for case in compiled_for(kernel, {}, NUM_WARPS))
