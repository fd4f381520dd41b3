"""Draw one token per row of logits, without a sort and without a word to the host.

    w_i = exp((x_i - max x) / temperature)

`engine/kernels/sample.py` says what is drawn: the same weights, thresholds and generator are here, in the same order,
so that a seeded request gets the token that it gets there.

Filters are thresholds on w. One pass over the row measures it (how many w, or their sum) above a few fixed pivots,
which gives a floor that no threshold can be below. What is above the floor, a few hundred of V as models go, is packed,
in order of token id, and all else looks at nothing but that. A threshold is found bit by bit: the bits of positive
floats are ordered as the floats are, so at most 30 bisections of integers give the k-th largest w exactly. (That is
selection by radix, as in Alabi et al., "Fast k-selection algorithms for graphics processing units", 2012, one bit at a
time; for top_p with a sum in place of the count.) Sums are in float64. One program has a row, in four passes over V.
"""

import torch
import triton
import triton.language as tl

from engine.kernels.gpu.compiled import Compiled

_BLOCK, _NUM_WARPS = 2048, 16
_GREEDY_BELOW = tl.constexpr(1e-5)
_NOWHERE = tl.constexpr(0x7FFFFFFF)
_ABOVE_ONE = tl.constexpr(0x3F800001)
"""Bits of the first float32 after 1: no weight is larger than 1."""
_PIVOT_0, _PIVOT_1 = tl.constexpr(2.0**-3), tl.constexpr(2.0**-7)
_PIVOT_2, _PIVOT_3 = tl.constexpr(2.0**-12), tl.constexpr(2.0**-20)
_TO_WHOLE = tl.constexpr(12582912.0)
"""1.5 * 2^23: added to a float32 and taken away again, it leaves the nearest whole number."""
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
def _weights(logits, columns, size, maximum, scale):  # type: ignore[no-untyped-def]
    """Of some columns; 0 past the end, and for what has no chance in float32."""
    power = (tl.load(logits + columns, columns < size, float("-inf")).to(tl.float32) - maximum) * scale
    return tl.where(power > -87.0, _exp(tl.maximum(power, -87.0)), 0.0)


@triton.jit
def _largest(logits, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """The largest logit and the lowest column that has it."""
    lanes = tl.arange(0, BLOCK)
    values = tl.full((BLOCK,), float("-inf"), tl.float32)
    columns = lanes
    for start in range(0, size, BLOCK):
        here = tl.load(logits + start + lanes, start + lanes < size, float("-inf")).to(tl.float32)
        columns = tl.where(here > values, start + lanes, columns)
        values = tl.maximum(here, values)
    maximum = tl.max(values, 0)
    return maximum, tl.min(tl.where(values == maximum, columns, _NOWHERE), 0)


@triton.jit
def _uniform(seed, index):  # type: ignore[no-untyped-def]
    """In [0, 1) with 53 bits, from Philox4x32-10."""
    low, high = (index & 0xFFFFFFFF).to(tl.uint32), ((index >> 32) & 0xFFFFFFFF).to(tl.uint32)
    x0, x1, _, _ = tl.philox(seed, low, high, low * 0, low * 0)
    return ((x0.to(tl.uint64) << 21) | (x1.to(tl.uint64) >> 11)).to(tl.float64) * 1.1102230246251565e-16


@triton.jit
def _floor(logits, size, maximum, scale, by_rank, top_k, top_p, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """A weight that top_k, or else top_p, does not go below, and the sum of all weights where it is top_p."""
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float64)
    above_0, above_1, above_2, above_3 = total, total, total, total
    for start in range(0, size, BLOCK):
        weights = _weights(logits, start + lanes, size, maximum, scale)
        measure = tl.where(by_rank, 1.0, weights).to(tl.float64)
        total += measure
        above_0 += tl.where(weights >= _PIVOT_0, measure, 0.0)
        above_1 += tl.where(weights >= _PIVOT_1, measure, 0.0)
        above_2 += tl.where(weights >= _PIVOT_2, measure, 0.0)
        above_3 += tl.where(weights >= _PIVOT_3, measure, 0.0)
    mass = tl.sum(total, 0)
    needed = tl.where(by_rank, top_k.to(tl.float64), top_p * mass)
    floor = tl.where(tl.sum(above_3, 0) >= needed, _PIVOT_3, 0.0)
    floor = tl.where(tl.sum(above_2, 0) >= needed, _PIVOT_2, floor)
    floor = tl.where(tl.sum(above_1, 0) >= needed, _PIVOT_1, floor)
    return tl.where(tl.sum(above_0, 0) >= needed, _PIVOT_0, floor), mass


@triton.jit
def _pack(logits, packed, size, maximum, scale, floor, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Move the positive weights that are not below `floor` together; returns how many there are."""
    lanes = tl.arange(0, BLOCK)
    count = 0
    for start in range(0, size, BLOCK):
        weights = _weights(logits, start + lanes, size, maximum, scale)
        kept = (weights >= floor) & (weights > 0)
        places = tl.cumsum(kept.to(tl.int32), 0)
        tl.store(packed + count + places - 1, weights, kept)
        count += tl.sum(kept.to(tl.int32), 0)
    tl.debug_barrier()  # others of this program read what was stored
    return count


@triton.jit
def _measure(head, packed, count, bits, BY_MASS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
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
        is_enough = _measure(head, packed, count, middle, BY_MASS, BLOCK) >= needed
        low = tl.where(is_enough, middle, low)
        high = tl.where(is_enough, high, middle)
    return low.to(tl.float32, bitcast=True)


@triton.jit
def _kept(packed, start, count, threshold, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    lanes = start + tl.arange(0, BLOCK)
    weights = tl.load(packed + lanes, lanes < count, 0.0)
    return tl.where(weights >= threshold, weights, 0.0).to(tl.float64)


@triton.jit
def _place(packed, count, threshold, uniform, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of the packed weights, the first whose running sum exceeds `uniform` of the sum."""
    total = uniform * 0.0
    for start in range(0, count, BLOCK):
        total += tl.sum(_kept(packed, start, count, threshold, BLOCK), 0)
    target = uniform * total
    running, start = total * 0.0, count * 0
    mass = tl.sum(_kept(packed, start, count, threshold, BLOCK), 0)
    while (running + mass <= target) & (start + BLOCK < count):
        running += mass
        start += BLOCK
        mass = tl.sum(_kept(packed, start, count, threshold, BLOCK), 0)
    weights = _kept(packed, start, count, threshold, BLOCK)
    lanes = start + tl.arange(0, BLOCK)
    is_beyond = (running + tl.cumsum(weights, 0) > target) & (weights > 0)
    first = tl.min(tl.where(is_beyond, lanes, _NOWHERE), 0)
    last = tl.max(tl.where(weights > 0, lanes, 0), 0)
    return tl.where(first == _NOWHERE, last, first)  # its own running sum was rounded the other way


@triton.jit
def _column_of(place, logits, size, maximum, scale, floor, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """The column of the weight that `_pack` put in a place."""
    lanes = tl.arange(0, BLOCK)
    seen, column = place * 0, place * 0
    for start in range(0, size, BLOCK):
        weights = _weights(logits, start + lanes, size, maximum, scale)
        kept = (weights >= floor) & (weights > 0)
        number = tl.sum(kept.to(tl.int32), 0)
        if (seen <= place) & (place < seen + number):
            is_it = kept & (seen + tl.cumsum(kept.to(tl.int32), 0) == place + 1)
            column = tl.max(tl.where(is_it, start + lanes, 0), 0)
        seen += number
    return column


@triton.jit
def _sample(  # type: ignore[no-untyped-def]
    logits, temperatures, top_ks, top_ps, min_ps, seeds, indices, scratch, out, size, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * size
    packed = scratch + row * size
    temperature = tl.load(temperatures + row)
    maximum, column = _largest(logits, size, BLOCK)
    if temperature >= _GREEDY_BELOW:
        scale = (1.0 / temperature).to(tl.float32)
        top_k, top_p, floor = tl.load(top_ks + row), tl.load(top_ps + row), tl.load(min_ps + row).to(tl.float32)
        min_p = floor
        by_rank, by_mass = (top_k > 0) & (top_k < size), top_p < 1.0
        mass = temperature * 0.0
        if by_rank | by_mass:
            floor, mass = _floor(logits, size, maximum, scale, by_rank, top_k, top_p, BLOCK)
        count = _pack(logits, packed, size, maximum, scale, floor, BLOCK)
        head = tl.load(packed + tl.arange(0, BLOCK), tl.arange(0, BLOCK) < count, 0.0)
        threshold = floor
        if by_rank:
            threshold = _threshold(head, packed, count, floor, top_k.to(tl.float64), False, BLOCK)
            if by_mass:
                bits = tl.maximum(threshold.to(tl.int32, bitcast=True), 1)
                mass = _measure(head, packed, count, bits, True, BLOCK)
        if by_mass:
            threshold = _threshold(head, packed, count, threshold, top_p * mass, True, BLOCK)
        uniform = _uniform(tl.load(seeds + row), tl.load(indices + row))
        place = _place(packed, count, tl.maximum(threshold, min_p), uniform, BLOCK)
        column = _column_of(place, logits, size, maximum, scale, floor, BLOCK)
    tl.store(out + row, column.to(tl.int64))


def sample(
    logits: torch.Tensor,
    temperatures: torch.Tensor,
    top_ks: torch.Tensor,
    top_ps: torch.Tensor,
    min_ps: torch.Tensor,
    seeds: torch.Tensor,
    indices: torch.Tensor,
    scratch: torch.Tensor,
    out: torch.Tensor,
) -> None:
    """Token ids of `logits` `[R, V]`, of any float type, into `out` `[R]` int64.

    Temperatures, top_ps and min_ps are float64, top_ks int64, all `[R]`; seeds and indices `[R]` int64 have the bits of
    unsigned numbers. What is in `scratch`, float32 and as large as `logits`, does not matter. All contiguous.
    """
    num_rows, size = logits.shape
    columns = (temperatures, top_ks, top_ps, min_ps, seeds, indices, out)
    assert all(column.shape == (num_rows,) for column in columns)
    assert scratch.numel() >= logits.numel()
    assert all(tensor.is_contiguous() for tensor in (logits, scratch, *columns))
    if num_rows:
        _sample[(num_rows,)](logits, *columns[:-1], scratch, out, size, BLOCK=_BLOCK, num_warps=_NUM_WARPS)


_SIGNATURE = dict.fromkeys(("temperatures", "top_ps", "min_ps"), "*fp64")
_SIGNATURE |= dict.fromkeys(("top_ks", "seeds", "indices", "out"), "*i64") | {"scratch": "*fp32", "size": "i32:16"}
COMPILED = tuple(
    Compiled(_sample, {**_SIGNATURE, "logits": logits}, {"BLOCK": _BLOCK}, _NUM_WARPS) for logits in ("*fp32", "*bf16")
)
