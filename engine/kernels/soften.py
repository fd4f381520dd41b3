"""The softmax of `flash.py`, as LLVM vector code. A query is a column: `COLUMNS` queries are two vectors.

    m' = max(m, max_p s_p)    w_p = exp(c (s_p - m'))    l' = exp(c (m - m')) l + sum_p w_p

The weights go where the next product wants them, in parts; the scores are read twice and not written.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types

from engine.kernels.amx import TILE_ROWS, TILE_WORDS, parts_at, split, transposed
from engine.kernels.exp import emit_exp
from engine.kernels.native import native
from engine.kernels.tile import COLUMNS, LANES
from engine.kernels.vectors import Loop, broadcast, call, constant, load, pointer_to, splat, store

_INT64 = ir.IntType(64)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INT64S = ir.VectorType(_INT64, LANES)
_HALVES = range(0, COLUMNS, LANES)
_Put = Callable[[Any, int, list[Any]], None]
"""(number of the pair, first column, weights of its positions)"""
HIDDEN = -1e30
"""The score of what is not seen, and the first maximum: its weight beside any other is 2^-126."""


@native
def hide(_context, scores, at, num_positions, distance, window):  # type: ignore[no-untyped-def]
    """Of scores `[num_positions, COLUMNS]`, those that a query must not see. `distance` is how far the first query is
    behind the first position."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scores_to = pointer_to(context, builder, signature.args[0], args[0], args[1])
        loop = Loop(builder, args[2])
        row = builder.gep(scores_to, [builder.mul(loop.step, constant(COLUMNS))])
        first = broadcast(builder, builder.sub(args[3], loop.step), LANES)
        visible = broadcast(builder, args[4], LANES)
        for half in _HALVES:
            distances = builder.add(first, ir.Constant(_INT64S, [half + lane for lane in range(LANES)]))
            is_seen = builder.and_(
                builder.icmp_signed(">=", distances, splat(_INT64S, 0)), builder.icmp_signed("<", distances, visible)
            )
            score = load(builder, row, half, _FLOATS)
            store(builder, builder.select(is_seen, score, splat(_FLOATS, HIDDEN)), row, half)
        loop.close()
        return context.get_dummy_value()

    return types.void(scores, at, num_positions, distance, window), generate


def _soften(
    builder: Any, scores_to: Any, count: Any, scale: Any, maxima_to: Any, sums_to: Any, shrink_to: Any, put: _Put
) -> None:
    """Code for the softmax of `count` positions, an even number. `put` is given their weights by twos."""
    by = broadcast(builder, scale, LANES)
    old = [load(builder, maxima_to, half, _FLOATS) for half in _HALVES]
    loop = Loop(builder, count, old)
    row = builder.gep(scores_to, [builder.mul(loop.step, constant(COLUMNS))])
    here = [load(builder, row, half, _FLOATS) for half in _HALVES]
    highest = [call(builder, "maxnum", _FLOATS, *pair) for pair in zip(loop.carried, here, strict=True)]
    loop.close(highest)

    factors = [emit_exp(builder, builder.fmul(builder.fsub(*pair), by)) for pair in zip(old, highest, strict=True)]
    totals = [load(builder, sums_to, half, _FLOATS) for half in _HALVES]
    totals = [builder.fmul(*pair) for pair in zip(totals, factors, strict=True)]

    loop = Loop(builder, builder.lshr(count, constant(1)), totals)
    pair_at = builder.gep(scores_to, [builder.mul(loop.step, constant(2 * COLUMNS))])
    totals = []
    for column, half in enumerate(_HALVES):
        pair = [load(builder, pair_at, odd * COLUMNS + half, _FLOATS) for odd in (0, 1)]
        found = [emit_exp(builder, builder.fmul(builder.fsub(score, highest[column]), by)) for score in pair]
        totals.append(builder.fadd(loop.carried[column], builder.fadd(*found)))
        put(loop.step, half, found)
    loop.close(totals)

    for column, half in enumerate(_HALVES):
        for value, to in ((highest, maxima_to), (totals, sums_to), (factors, shrink_to)):
            store(builder, value[column], to, half)


@native
def soften(_context, num_parts, scores, at, num_positions, scale, maxima, sums, shrink, weights, weights_at):  # type: ignore[no-untyped-def]
    """Of scores still to be multiplied by `scale`, the weights of `num_positions` positions, a multiple of 32, as steps
    of w in tiles. `maxima` and `sums`, `[COLUMNS]`, are brought up to date; `shrink` is what the totals of earlier
    positions are worth beside them."""
    count = num_parts.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def start(array: int, index: Any) -> Any:
            return pointer_to(context, builder, signature.args[array], args[array], index)

        scores_to, weights_to = start(1, args[2]), start(8, args[9])

        def put(pair: Any, half: int, found: list[Any]) -> None:
            step, row_of_tile = builder.lshr(pair, constant(4)), builder.and_(pair, constant(TILE_ROWS - 1))
            offset = builder.add(
                builder.mul(step, constant(count * 2 * TILE_WORDS)), builder.mul(row_of_tile, constant(LANES))
            )
            to = builder.gep(weights_to, [builder.add(offset, constant(half // LANES * TILE_WORDS))])
            split(builder, found, parts_at(builder, to, count))

        maxima_to, sums_to, shrink_to = (start(array, constant(0)) for array in (5, 6, 7))
        _soften(builder, scores_to, args[3], args[4], maxima_to, sums_to, shrink_to, put)
        return context.get_dummy_value()

    arguments = (num_parts, scores, at, num_positions, scale, maxima, sums, shrink, weights, weights_at)
    return types.void(*arguments), generate


@native
def soften_in_place(_context, paired, scores, at, num_positions, scale, maxima, sums, shrink):  # type: ignore[no-untyped-def]
    """The same for vectors: the weights take the place of the scores, `[num_positions, COLUMNS]`. If `paired`, those of
    two positions are a row of words of two bfloat16, `[num_positions / 2, COLUMNS]`, and `at` begins a cache line."""
    has_pairs = paired.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def start(array: int, index: Any) -> Any:
            return pointer_to(context, builder, signature.args[array], args[array], index)

        scores_to = start(1, args[2])

        def put(pair: Any, half: int, found: list[Any]) -> None:
            row = builder.gep(scores_to, [builder.mul(pair, constant((1 if has_pairs else 2) * COLUMNS))])
            if has_pairs:
                split(builder, found, [builder.gep(row, [constant(half)])])
            else:
                for odd, weights in enumerate(found):
                    store(builder, weights, row, odd * COLUMNS + half)

        maxima_to, sums_to, shrink_to = (start(array, constant(0)) for array in (5, 6, 7))
        _soften(builder, scores_to, args[3], args[4], maxima_to, sums_to, shrink_to, put)
        return context.get_dummy_value()

    return types.void(paired, scores, at, num_positions, scale, maxima, sums, shrink), generate


@native
def scale_rows(_context, rows, at, num_rows, factors):  # type: ignore[no-untyped-def]
    """Multiply every row of `[num_rows, COLUMNS]` by `factors` `[COLUMNS]`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows_to = pointer_to(context, builder, signature.args[0], args[0], args[1])
        factors_to = pointer_to(context, builder, signature.args[3], args[3], constant(0))
        by = [load(builder, factors_to, half, _FLOATS) for half in _HALVES]
        loop = Loop(builder, args[2])
        row = builder.gep(rows_to, [builder.mul(loop.step, constant(COLUMNS))])
        for half, factor in zip(_HALVES, by, strict=True):
            store(builder, builder.fmul(load(builder, row, half, _FLOATS), factor), row, half)
        loop.close()
        return context.get_dummy_value()

    return types.void(rows, at, num_rows, factors), generate


@native
def rows_of_queries(_context, totals, at, size, sums, num_queries, out, out_at, pitch):  # type: ignore[no-untyped-def]
    """`totals` `[size, COLUMNS]`, divided by `sums`, of the first `num_queries` to rows of `out` `pitch` items apart.
    `size` is a constant."""
    length = size.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        totals_to, sums_to, out_to = (
            pointer_to(context, builder, signature.args[array], args[array], index)
            for array, index in ((0, args[1]), (3, constant(0)), (5, args[6]))
        )
        for half in _HALVES:
            by = builder.fdiv(splat(_FLOATS, 1), load(builder, sums_to, half, _FLOATS))
            for first in range(0, length, LANES):
                columns = [load(builder, totals_to, (first + d) * COLUMNS + half, _FLOATS) for d in range(LANES)]
                rows = transposed(builder, [builder.fmul(of, by) for of in columns])
                for query, row in enumerate(rows, half):
                    with builder.if_then(builder.icmp_signed("<", constant(query), args[4])):
                        store(builder, row, builder.gep(out_to, [builder.mul(args[7], constant(query))]), first)
        return context.get_dummy_value()

    return types.void(totals, at, size, sums, num_queries, out, out_at, pitch), generate
