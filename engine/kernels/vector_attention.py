"""The blocks of `flash.py` on AVX-512's vectors, where there is no AMX.

Scores of `_ROWS` positions, or totals of as many d, by 32 queries are sums that stay in registers. In float32; or,
where that need not be exact, of pairs of bfloat16 that one instruction multiplies and adds, twice as many at once.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import cgutils, types

from engine.kernels.amx import LINE_WORDS, nearest_pairs, offset_to_line, transposed
from engine.kernels.flash import POSITIONS, QUERIES, in_blocks
from engine.kernels.native import native
from engine.kernels.soften import HIDDEN, hide, rows_of_queries, scale_rows, soften_in_place
from engine.kernels.tile import COLUMNS, LANES
from engine.kernels.vectors import Loop, broadcast, call, constant, load, pointer_to, splat, store

_ROWS = 8
"""Their sums by 32 queries are 16 vectors, enough that none is waited for. What is packed of them lies together."""
_FLOAT, _INT = ir.FloatType(), ir.IntType(32)
_FLOATS, _INTS = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INT, LANES)
_HALVES = range(0, COLUMNS, LANES)


class _Bfloat16(ir.Type):  # type: ignore[misc]
    """LLVM's, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bfloat16)

    def __hash__(self) -> int:
        return hash(_Bfloat16)


_PAIRS = ir.VectorType(_Bfloat16(), 2 * LANES)


def runs_here() -> bool:
    return bool(llvm.get_host_cpu_features().get("avx512f"))


def has_pairs() -> bool:
    """Whether this processor multiplies pairs of bfloat16."""
    return runs_here() and bool(llvm.get_host_cpu_features().get("avx512bf16"))


def takes(head_dim: int) -> bool:
    """Whether heads of this size are whole vectors, of pairs too. Smaller ones are not worth what compiling takes."""
    return head_dim % (2 * LANES) == 0


def _multiply(builder: Any, paired: bool, total: Any, numbers: Any, number: Any) -> Any:
    """`number` is a word of 32 bits, for every lane."""
    if not paired:
        spread = broadcast(builder, builder.bitcast(number, _FLOAT), LANES)
        return call(builder, "fma", _FLOATS, spread, numbers, total)
    signature = ir.FunctionType(_FLOATS, [_FLOATS, _PAIRS, _PAIRS])
    dot = cgutils.get_or_insert_function(builder.module, signature, "llvm.x86.avx512bf16.dpbf16ps.512")
    pairs = (builder.bitcast(words, _PAIRS) for words in (numbers, broadcast(builder, number, LANES)))
    return builder.call(dot, [total, *pairs])


@native
def _add_products(_context, paired, is_first, steps, x, x_at, w, w_at, sums, sums_at):  # type: ignore[no-untyped-def]
    """`sums[m, n] += sum_k x[k, m] w[k, n]` for `_ROWS` m and `COLUMNS` n, or begin with them. If `paired`, a word of x
    or w is two bfloat16, of consecutive k. The first two are constants."""
    has_pairs, begins = bool(paired.literal_value), bool(is_first.literal_value)
    kind = _INTS if has_pairs else _FLOATS

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x_to, w_to, sums_to = (
            pointer_to(context, builder, signature.args[i], args[i], args[at]) for i, at in ((3, 4), (5, 6), (7, 8))
        )
        places = [m * COLUMNS + half for m in range(_ROWS) for half in _HALVES]
        start = [splat(_FLOATS, 0) if begins else load(builder, sums_to, place, _FLOATS) for place in places]
        loop = Loop(builder, args[2], start)
        x_here = builder.gep(x_to, [builder.mul(loop.step, constant(_ROWS))])
        w_here = builder.gep(w_to, [builder.mul(loop.step, constant(COLUMNS))])
        loaded = [load(builder, w_here, half, kind) for half in _HALVES]
        totals = iter(loop.carried)
        found = []
        for m in range(_ROWS):
            number = builder.load(builder.gep(x_here, [constant(m)]))
            found += [_multiply(builder, has_pairs, next(totals), numbers, number) for numbers in loaded]
        loop.close(found)
        for place, total in zip(places, found, strict=True):
            store(builder, total, sums_to, place)
        return context.get_dummy_value()

    return types.void(paired, is_first, steps, x, x_at, w, w_at, sums, sums_at), generate


def _lanes(builder: Any, vector: Any, first: int, count: int) -> Any:
    mask = ir.Constant(ir.VectorType(_INT, count), [first + lane for lane in range(count)])
    return builder.shuffle_vector(vector, vector, mask)


@native
def _pack_columns(_context, paired, x, x_at, pitch, out, out_at, width, out_pitch, group_pitch):  # type: ignore[no-untyped-def]
    """`LANES` rows of x, `pitch` words apart, as columns: `LANES` words of each, of twice as many numbers if `paired`.
    Out come rows `out_pitch` words apart, cut into groups of `width` that are `group_pitch` apart. Constants are the
    first and the width."""
    has_pairs, columns = bool(paired.literal_value), width.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x_to, out_to = (pointer_to(context, builder, signature.args[i], args[i], args[i + 1]) for i in (1, 4))
        rows = []
        for lane in range(LANES):
            row = builder.gep(x_to, [builder.mul(args[3], constant(lane))])
            words = load(builder, row, 0, _INTS)
            if has_pairs:
                both = words, load(builder, row, LANES, _INTS)
                picked = [ir.Constant(_INTS, [2 * lane + odd for lane in range(LANES)]) for odd in (0, 1)]
                words = nearest_pairs(builder, [builder.shuffle_vector(*both, mask) for mask in picked])
            rows.append(words)
        for number, column in enumerate(transposed(builder, rows)):
            row = builder.gep(out_to, [builder.mul(args[7], constant(number))])
            for group in range(LANES // columns):
                to = builder.gep(row, [builder.mul(args[8], constant(group))])
                store(builder, _lanes(builder, column, group * columns, columns), to, 0)
        return context.get_dummy_value()

    return types.void(paired, x, x_at, pitch, out, out_at, width, out_pitch, group_pitch), generate


@native
def _pack_rows(_context, paired, x, x_at, next_at, out, out_at, out_pitch, size):  # type: ignore[no-untyped-def]
    """A row of x of `size` words, in groups of `_ROWS` that are `out_pitch` words apart; if `paired`, with the next
    one, in words of two. Constants are the first and the last."""
    has_pairs = bool(paired.literal_value)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        first, second, to = (
            pointer_to(context, builder, signature.args[i], args[i], args[at]) for i, at in ((1, 2), (1, 3), (4, 5))
        )
        for number in range(0, size.literal_value, LANES):
            words = load(builder, first, number, _INTS)
            if has_pairs:
                words = nearest_pairs(builder, [words, load(builder, second, number, _INTS)])
            for group in range(LANES // _ROWS):
                at = builder.gep(to, [builder.mul(args[6], constant(number // _ROWS + group))])
                store(builder, _lanes(builder, words, group * _ROWS, _ROWS), at, 0)
        return context.get_dummy_value()

    return types.void(paired, x, x_at, next_at, out, out_at, out_pitch, size), generate


@cache
def kernel(size: int, *, is_exact: bool) -> Callable[..., None]:
    """For one head dimension and one precision: what `flash.py` says."""
    paired = 0 if is_exact or not has_pairs() else 1
    depth, steps = size >> paired, POSITIONS >> paired
    half, words = POSITIONS * size, size * steps
    scale = np.float32(size**-0.5)

    @njit(nogil=True)
    def pack(rows, keys, values, at):  # type: ignore[no-untyped-def]
        """Keys by d and position, values by position and d, each in groups of `_ROWS`."""
        for p in range(0, POSITIONS, LANES):
            for word in range(0, depth, LANES):
                to = at + p * depth + word * _ROWS
                _pack_columns(paired, rows, p * size + (word << paired), size, keys, to, _ROWS, _ROWS, depth * _ROWS)
        for step in range(steps):
            row = half + (step << paired) * size
            _pack_rows(paired, rows, row, row + size, values, at + step * _ROWS, steps * _ROWS, size)

    @njit(nogil=True)
    def pack_queries(qkv, first_row, end_row, head, packed, at):  # type: ignore[no-untyped-def]
        """As columns; those of rows that are missing are zeros."""
        rows, source, pitch = qkv, first_row * qkv.shape[1] + head * size, qkv.shape[1]
        if end_row - first_row < QUERIES:
            rows, source, pitch = np.zeros((QUERIES, size), np.float32), 0, size
            for row in range(end_row - first_row):  # as slices, compiling would take twice as long
                for i in range(size):
                    rows[row, i] = qkv[first_row + row, head * size + i]
        for query in range(0, QUERIES, LANES):
            for word in range(0, depth, LANES):
                row, to = source + query * pitch + (word << paired), at + query + word * QUERIES
                _pack_columns(paired, rows, row, pitch, packed, to, LANES, QUERIES, 0)

    @njit(nogil=True)
    def attend(qkv, first_row, end_row, head, query, keys, values, at, begin, window, out):  # type: ignore[no-untyped-def]
        queries = np.empty(depth * QUERIES + LINE_WORDS, np.int32)
        scores = np.empty(POSITIONS * QUERIES + LINE_WORDS, np.float32)
        totals = np.zeros(size * QUERIES + LINE_WORDS, np.float32)
        queries_at, scores_at, totals_at = offset_to_line(queries), offset_to_line(scores), offset_to_line(totals)
        maxima, sums = np.full(QUERIES, np.float32(HIDDEN)), np.zeros(QUERIES, np.float32)
        shrink = np.empty(QUERIES, np.float32)
        pack_queries(qkv, first_row, end_row, head, queries, queries_at)
        num_queries = min(QUERIES, end_row - first_row)
        last = query + num_queries
        first = (max(query - window + 1, begin) - begin) // POSITIONS
        for block in range(first, (last - begin - 1) // POSITIONS + 1):
            block_at, position = at + block * words, begin + block * POSITIONS
            for p in range(0, POSITIONS, _ROWS):
                to = scores_at + p * QUERIES
                _add_products(paired, 1, depth, keys, block_at + p * depth, queries, queries_at, scores, to)
            if position + POSITIONS > query or last - position > window:
                hide(scores, scores_at, POSITIONS, query - position, window)
            soften_in_place(paired, scores, scores_at, POSITIONS, scale, maxima, sums, shrink)
            scale_rows(totals, totals_at, size, shrink)
            for d in range(0, size, _ROWS):
                to = totals_at + d * QUERIES
                _add_products(paired, 0, steps, values, block_at + d * steps, scores, scores_at, totals, to)
        out_at = first_row * out.shape[1] + head * size
        rows_of_queries(totals, totals_at, size, sums, num_queries, out, out_at, out.shape[1])

    return in_blocks(size, words, pack, attend)
