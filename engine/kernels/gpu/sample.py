"""Draw one token per row of logits, without a sort and without a word to the host.

    w_i = exp((x_i - max x) / temperature)

`engine/kernels/sample.py` says what is drawn: the same weights, thresholds and generator are here, in the same order,
so that a seeded request gets the token that it gets there. `candidates.py` cuts rows into parts, measures them, and
packs what can be drawn. Here a program has a row: the thresholds among its packed weights, and the draw; without
thresholds the sums of the parts say which of them it falls into.

A threshold is found bit by bit: the bits of positive floats are ordered as the floats are, so at most 30 bisections of
integers give the k-th largest w exactly. (That is selection by radix, as in Alabi et al., "Fast k-selection algorithms
for graphics processing units", 2012, one bit at a time; for top_p with a sum in place of the count.) Sums are in
float64 and in a fixed order: a row's token does not depend on the rows beside it.
"""

import torch
import triton
import triton.language as tl

from engine.kernels.gpu.candidates import (
    GREEDY_BELOW,
    LEVELS,
    NOWHERE,
    NUM_WARPS,
    PART_SIZE,
    Scratch,
    compiled_for,
    filters_of,
    find_largest,
    floor_of,
    maximum_of,
    measure,
    pack,
    sum_of,
    weights_of,
)

_BLOCK, _NUM_WARPS = 2048, 16
"""Packed weights that are held in registers; more are read again for each bisection."""
_ABOVE_ONE = tl.constexpr(0x3F800001)
"""Bits of the first float32 after 1: no weight is larger than 1."""
CONFIGS = tuple(triton.Config({"BLOCK": block}, num_warps=warps) for block in (1024, 2048, 4096) for warps in (8, 16))
"""For the bench to try."""


def sample_reference(
    logits: torch.Tensor, temperature: float, top_k: int, top_p: float, min_p: float, uniform: float
) -> int:
    """One row `[V]`, in float64 and with sorts; `uniform` in [0, 1)."""
    if temperature < 1e-5:
        return int(logits.argmax())
    weights = ((logits.double() - logits.max()) / temperature).exp()
    descending = weights.sort(descending=True).values
    rank = float(descending[top_k - 1]) if 0 < top_k < len(weights) else 0.0
    threshold = max(min_p, rank)
    if top_p < 1:
        running = descending[descending >= rank].cumsum(0)
        last = min(int((running < top_p * running[-1]).sum()), len(running) - 1)
        threshold = max(threshold, float(descending[last]))
    running = torch.where(weights >= threshold, weights, 0.0).cumsum(0)
    return int((running <= uniform * running[-1]).sum())


@triton.jit
def _uniform(seed, index):  # type: ignore[no-untyped-def]
    """In [0, 1) with 53 bits, from Philox4x32-10."""
    low, high = (index & 0xFFFFFFFF).to(tl.uint32), ((index >> 32) & 0xFFFFFFFF).to(tl.uint32)
    x0, x1, _, _ = tl.philox(seed, low, high, low * 0, low * 0)
    return ((x0.to(tl.uint64) << 21) | (x1.to(tl.uint64) >> 11)).to(tl.float64) * 1.1102230246251565e-16


@triton.jit
def _amount(head, packed, count, bits, BY_MASS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """How many packed weights, or the sum of those, that are not below the float32 of these bits (positive)."""
    lanes = tl.arange(0, BLOCK)
    amount = tl.where(head.to(tl.int32, bitcast=True) >= bits, head if BY_MASS else 1.0, 0.0).to(tl.float64)
    for start in range(BLOCK, count, BLOCK):
        here = tl.load(packed + start + lanes, start + lanes < count, 0.0)
        amount += tl.where(here.to(tl.int32, bitcast=True) >= bits, here if BY_MASS else 1.0, 0.0).to(tl.float64)
    return tl.sum(amount, 0)


@triton.jit
def _threshold(head, packed, count, floor, needed, BY_MASS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """The largest weight above which, itself included, there is as much as needed; `floor` is known to be no larger."""
    low = floor.to(tl.int32, bitcast=True)
    high = low * 0 + _ABOVE_ONE
    while high - low > 1:
        middle = low + (high - low) // 2
        is_enough = _amount(head, packed, count, middle, BY_MASS, BLOCK) >= needed
        low = tl.where(is_enough, middle, low)
        high = tl.where(is_enough, high, middle)
    return low.to(tl.float32, bitcast=True)


@triton.jit
def _first_beyond(weights, lanes, before, target):  # type: ignore[no-untyped-def]
    """The first lane whose running sum, from `before` on, exceeds `target`."""
    is_beyond = (before + tl.cumsum(weights.to(tl.float64), 0) > target) & (weights > 0)
    first = tl.min(tl.where(is_beyond, lanes, NOWHERE), 0)
    last = tl.max(tl.where(weights > 0, lanes, 0), 0)
    return tl.where(first == NOWHERE, last, first)  # the sum that led here was rounded the other way


@triton.jit
def _kept(packed, start, count, threshold, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    lanes = start + tl.arange(0, BLOCK)
    weights = tl.load(packed + lanes, lanes < count, 0.0)
    return tl.where(weights >= threshold, weights, 0.0)


@triton.jit
def _mass(packed, start, count, threshold, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    return tl.sum(_kept(packed, start, count, threshold, BLOCK).to(tl.float64), 0)


@triton.jit
def _place(packed, count, threshold, uniform, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of the packed weights, the first whose running sum exceeds `uniform` of the sum."""
    total = uniform * 0.0
    for start in range(0, count, BLOCK):
        total += _mass(packed, start, count, threshold, BLOCK)
    target = uniform * total
    running, start = total * 0.0, count * 0
    mass = _mass(packed, start, count, threshold, BLOCK)
    while (running + mass <= target) & (start + BLOCK < count):
        running += mass
        start += BLOCK
        mass = _mass(packed, start, count, threshold, BLOCK)
    weights = _kept(packed, start, count, threshold, BLOCK)
    return _first_beyond(weights, start + tl.arange(0, BLOCK), running, target)


@triton.jit
def _by_parts(  # type: ignore[no-untyped-def]
    logits, masses, row, size, maximum, scale, min_p, uniform, num_parts, PART: tl.constexpr, PARTS: tl.constexpr
):
    """The column of a row in which nothing but min_p is to be kept."""
    parts = tl.arange(0, PARTS)
    mass = tl.load(masses + (row * LEVELS + LEVELS - 1) * num_parts + parts, parts < num_parts, 0.0)
    running = tl.cumsum(mass, 0)
    target = uniform * tl.max(running, 0)
    part = tl.min(tl.where((running > target) & (mass > 0), parts, num_parts - 1), 0)
    before = tl.max(tl.where(parts < part, running, 0.0), 0)
    here = part * PART + tl.arange(0, PART)
    weights = weights_of(logits + row * size, here, size, maximum, scale)
    return _first_beyond(tl.where(weights >= min_p, weights, 0.0), here, before, target)


@triton.jit
def _draw(  # type: ignore[no-untyped-def]
    logits,
    temperatures,
    top_ks,
    top_ps,
    min_ps,
    seeds,
    indices,
    columns,
    maxima,
    scales,
    levels,
    counts,
    masses,
    packed,
    ids,
    out,
    size,
    num_parts,
    BLOCK: tl.constexpr,
    PART: tl.constexpr,
    PARTS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    maximum = maximum_of(maxima, row, num_parts, PARTS)
    temperature = tl.load(temperatures + row)
    top_k, top_p, by_rank, by_mass = filters_of(top_ks, top_ps, row, size)
    min_p = tl.load(min_ps + row).to(tl.float32)
    if temperature < GREEDY_BELOW:
        parts = tl.arange(0, PARTS)
        at = row * num_parts + parts
        is_largest = tl.load(maxima + at, parts < num_parts, float("-inf")) == maximum
        column = tl.min(tl.where(is_largest, tl.load(columns + at, parts < num_parts, NOWHERE), NOWHERE), 0)
    elif by_rank | by_mass:
        level = tl.load(levels + row)
        count = sum_of(counts, row, level, num_parts, num_parts, PARTS)
        packed += row * size
        head = tl.load(packed + tl.arange(0, BLOCK), tl.arange(0, BLOCK) < count, 0.0)
        threshold = floor_of(level)
        mass = sum_of(masses, row, LEVELS - 1, num_parts, num_parts, PARTS)
        if by_rank:
            threshold = _threshold(head, packed, count, threshold, top_k.to(tl.float64), False, BLOCK)
            if by_mass:
                bits = tl.maximum(threshold.to(tl.int32, bitcast=True), 1)
                mass = _amount(head, packed, count, bits, True, BLOCK)
        if by_mass:
            threshold = _threshold(head, packed, count, threshold, top_p * mass, True, BLOCK)
        uniform = _uniform(tl.load(seeds + row), tl.load(indices + row))
        place = _place(packed, count, tl.maximum(threshold, min_p), uniform, BLOCK)
        column = tl.load(ids + row * size + place, place < count, 0)
    else:
        uniform = _uniform(tl.load(seeds + row), tl.load(indices + row))
        scale = tl.load(scales + row)
        column = _by_parts(logits, masses, row, size, maximum, scale, min_p, uniform, num_parts, PART, PARTS)
    tl.store(out + row, column.to(tl.int64))


def sample(
    logits: torch.Tensor,
    temperatures: torch.Tensor,
    top_ks: torch.Tensor,
    top_ps: torch.Tensor,
    min_ps: torch.Tensor,
    seeds: torch.Tensor,
    indices: torch.Tensor,
    scratch: Scratch,
    out: torch.Tensor,
) -> None:
    """Token ids of `logits` `[R, V]`, of any float type, into `out` `[R]` int64.

    Temperatures, top_ps and min_ps are float64, top_ks int64, all `[R]`; seeds and indices `[R]` int64 have the bits of
    unsigned numbers. `scratch` is for R rows or more of V logits. All contiguous.
    """
    num_rows, size = logits.shape
    columns = (temperatures, top_ks, top_ps, min_ps, seeds, indices, out)
    assert all(column.shape == (num_rows,) for column in columns)
    assert all(tensor.is_contiguous() for tensor in (logits, *columns))
    assert scratch.weights.shape[1] == size
    assert scratch.weights.shape[0] >= num_rows
    if not num_rows:
        return
    parts = scratch.maxima.shape[1]
    sizes = {"PART": PART_SIZE, "PARTS": triton.next_power_of_2(parts)}
    filters = (temperatures, top_ks, top_ps)
    measures = (scratch.maxima, scratch.scales, scratch.counts, scratch.masses)
    packed = (scratch.levels, scratch.counts, scratch.masses, scratch.weights, scratch.ids)
    found = (scratch.maxima, scratch.scales, *packed)
    grid = (num_rows, parts)
    find_largest[grid](logits, scratch.maxima, scratch.columns, size, parts, PART=PART_SIZE, num_warps=NUM_WARPS)
    measure[grid](logits, *filters, min_ps, *measures, size, parts, **sizes, num_warps=NUM_WARPS)
    pack[grid](logits, *filters, *found, size, parts, **sizes, num_warps=NUM_WARPS)
    drawn = (min_ps, seeds, indices, scratch.columns, *found, out)
    _draw[(num_rows,)](logits, *filters, *drawn, size, parts, BLOCK=_BLOCK, **sizes, num_warps=_NUM_WARPS)


COMPILED = compiled_for(_draw, {"BLOCK": _BLOCK}, _NUM_WARPS)
