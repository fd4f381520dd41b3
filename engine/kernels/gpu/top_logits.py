"""Log-probabilities of one chosen token per row and of the most likely ones.

    logprob_i = x_i - log(sum_j exp(x_j - max x)) - max x

A row is cut into parts. A program has one part in registers and takes its largest out, one after another; a second
kernel takes the largest of what the parts gave, and adds up their sums. A logit and its column are one integer, ordered
as the logits are and, among equals, lowest column first.
"""

import torch
import triton
import triton.language as tl

from engine.kernels.gpu.compiled import Compiled

MAX_COUNT = 32
"""Of the most likely tokens."""
_PART = 4096
_TAKEN = tl.constexpr(-(1 << 63))
CONFIGS = tuple(triton.Config({"PART": part}, num_warps=warps) for part in (2048, 4096, 8192) for warps in (4, 8))
"""For the bench to try."""


def top_logits_reference(
    logits: torch.Tensor, chosen: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities of the tokens `chosen` `[R]`, of the `count` most likely `[R, count]`, and the ids of those."""
    values = logits.double().log_softmax(-1)
    ids = values.argsort(dim=-1, descending=True, stable=True)[:, :count]
    return values.gather(1, chosen[:, None])[:, 0], values.gather(1, ids), ids


@triton.jit
def _keys(x, columns):  # type: ignore[no-untyped-def]
    """Integers that are ordered as x, and among equals against the order of the columns."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)  # -0 is 0
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64)
    return (ordered << 32) | (0x7FFFFFFF - columns).to(tl.int64)


@triton.jit(do_not_specialize=["count"])
def _of_parts(  # type: ignore[no-untyped-def]
    logits, keys, maxima, sums, size, num_parts, count, MAX_COUNT: tl.constexpr, PART: tl.constexpr
):
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = part * PART + tl.arange(0, PART)
    x = tl.load(logits + row * size + columns, columns < size, float("-inf")).to(tl.float32)
    maximum = tl.max(x, 0)
    shift = tl.where(maximum == float("-inf"), 0.0, maximum)
    tl.store(maxima + row * num_parts + part, maximum)
    tl.store(sums + row * num_parts + part, tl.sum(tl.exp(x - shift).to(tl.float64), 0))
    left = tl.where(columns < size, _keys(x, columns), _TAKEN)
    for index in range(0, count):
        best = tl.max(left, 0)
        tl.store(keys + (row * num_parts + part) * MAX_COUNT + index, best)
        left = tl.where(left == best, _TAKEN, left)


@triton.jit(do_not_specialize=["count"])
def _of_rows(  # type: ignore[no-untyped-def]
    logits,
    chosen,
    keys,
    maxima,
    sums,
    chosen_logprobs,
    logprobs,
    ids,
    size,
    num_parts,
    count,
    MAX_COUNT: tl.constexpr,
    PARTS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    parts = tl.arange(0, PARTS)
    highest = tl.load(maxima + row * num_parts + parts, parts < num_parts, float("-inf"))
    maximum = tl.max(highest, 0)
    masses = tl.load(sums + row * num_parts + parts, parts < num_parts, 0.0)
    total = tl.sum(tl.where(highest > float("-inf"), masses * tl.exp(highest - maximum), 0.0), 0)
    log_total = maximum + tl.log(total.to(tl.float32))
    column = tl.load(chosen + row)
    tl.store(chosen_logprobs + row, tl.load(logits + row * size + column).to(tl.float32) - log_total)

    lanes = tl.arange(0, PARTS * MAX_COUNT)
    there = (lanes < num_parts * MAX_COUNT) & (lanes % MAX_COUNT < count)
    left = tl.load(keys + row * num_parts * MAX_COUNT + lanes, there, _TAKEN)
    for index in range(0, count):
        best = tl.max(left, 0)
        left = tl.where(left == best, _TAKEN, left)
        ordered = (best >> 32).to(tl.int32)
        value = tl.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered).to(tl.float32, bitcast=True)
        tl.store(logprobs + row * count + index, value - log_total)
        tl.store(ids + row * count + index, 0x7FFFFFFF - (best & 0x7FFFFFFF))


def num_parts(size: int) -> int:
    """Into which a row of `size` logits is cut."""
    return triton.cdiv(size, _PART)  # type: ignore[no-any-return]


def top_logits(
    logits: torch.Tensor,
    chosen: torch.Tensor,
    scratch: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    chosen_logprobs: torch.Tensor,
    logprobs: torch.Tensor,
    ids: torch.Tensor,
) -> None:
    """Of `logits` `[R, V]`, before anything was done to them, the log-probabilities of the tokens `chosen` `[R]` int64
    into `chosen_logprobs` `[R]` float32, and the most likely tokens, largest first, the lowest id first among equals,
    into `logprobs` `[R, n]` float32 and `ids` `[R, n]` int64; n is at most `MAX_COUNT` and V.

    `scratch` is int64 `[R, parts, MAX_COUNT]`, float32 `[R, parts]` and float64 `[R, parts]`, for `num_parts(V)` parts.
    All contiguous.
    """
    num_rows, size = logits.shape
    count, parts = ids.shape[1], num_parts(size)
    keys, maxima, sums = scratch
    assert count <= min(MAX_COUNT, size), f"{count} most likely tokens: {min(MAX_COUNT, size)} at most"
    assert chosen.shape == chosen_logprobs.shape == (num_rows,)
    assert logprobs.shape == ids.shape == (num_rows, count)
    assert keys.shape == (num_rows, parts, MAX_COUNT)
    assert maxima.shape == sums.shape == (num_rows, parts)
    tensors = (logits, chosen, keys, maxima, sums, chosen_logprobs, logprobs, ids)
    assert all(tensor.is_contiguous() for tensor in tensors)
    if num_rows:
        _of_parts[(num_rows, parts)](
            logits, keys, maxima, sums, size, parts, count, MAX_COUNT=MAX_COUNT, PART=_PART, num_warps=8
        )
        _of_rows[(num_rows,)](
            *tensors, size, parts, count, MAX_COUNT=MAX_COUNT, PARTS=triton.next_power_of_2(parts), num_warps=8
        )


_SCRATCH = {"keys": "*i64", "maxima": "*fp32", "sums": "*fp64"}
_SIZES = {"size": "i32:16", "num_parts": "i32", "count": "i32"}
_OUTS = {"chosen": "*i64", "chosen_logprobs": "*fp32", "logprobs": "*fp32", "ids": "*i64"}
_SIGNATURE = {**_SCRATCH, **_SIZES, "logits": "*fp32"}
COMPILED = (
    Compiled(_of_parts, _SIGNATURE, {"MAX_COUNT": MAX_COUNT, "PART": _PART}, num_warps=8),
    Compiled(_of_rows, {**_SIGNATURE, **_OUTS}, {"MAX_COUNT": MAX_COUNT, "PARTS": 8}, num_warps=8),
    Compiled(_of_rows, {**_SIGNATURE, **_OUTS}, {"MAX_COUNT": MAX_COUNT, "PARTS": 64}, num_warps=8),
)
