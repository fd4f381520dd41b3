"""Blocks of products with a packed weight, on AMX; what they share with attention is in `amx.py`.

float32 weights stay float32 in memory and are split on the way, each step while the one before is multiplied: six bytes
are more than four, and a decode step is as fast as memory. int8 weights are multiplied as they are.
"""

from typing import Any

from llvmlite import ir
from numba.core import types

from engine.kernels.amx import (
    FIRST_W,
    FIRST_X,
    FLOAT_DEPTH,
    NEXT_ROW,
    PARTS,
    TALL,
    TILE_ROWS,
    TILE_WORDS,
    WIDE,
    SumTiles,
    load_tile,
    multiply_parts,
    parts_at,
    split,
)
from engine.kernels.native import native
from engine.kernels.prefetch import emit_prefetch
from engine.kernels.tile import COLUMNS, LANES
from engine.kernels.vectors import Loop, broadcast, call, constant, load, pointer_to, store

STEP_WORDS = PARTS * TALL * TILE_WORDS
"""Of the parts of rows or of weights, a step of a block."""
SLOTS = 2
"""Steps of weights, split, that stay in the first cache beside the rows that they meet. A power of two."""

_AHEAD_FLOATS = 2048
"""How early a weight is asked for, as in `tile.py`."""

_FLOATS, _INTS = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(ir.IntType(32), LANES)


class _Splitting:
    """Puts the parts of a step of weights into its slot, `[PARTS, 2, tile]`, a few vectors at a time."""

    def __init__(self, builder: Any, weights: Any, step: Any, slot: Any) -> None:
        self._builder = builder
        self._from = builder.gep(weights, [builder.mul(step, constant(FLOAT_DEPTH * COLUMNS))])
        self._slot = slot
        self._pairs = [(row, column) for row in range(TILE_ROWS) for column in range(WIDE)]
        self._done = 0

    def advance(self, share: float) -> None:
        """Until `share` of the step is done."""
        builder = self._builder
        end = round(share * len(self._pairs))
        for row, column in self._pairs[self._done : end]:
            pair = [builder.gep(self._from, [constant((2 * row + odd) * COLUMNS + column * LANES)]) for odd in (0, 1)]
            for address in pair:
                emit_prefetch(builder, builder.gep(address, [constant(_AHEAD_FLOATS)]))
            numbers = [load(builder, address, 0, _FLOATS) for address in pair]
            to = builder.gep(self._slot, [constant(column * TILE_WORDS + row * LANES)])
            split(builder, numbers, parts_at(builder, to, PARTS))
        self._done = max(end, self._done)


@native
def float_block_of_weights(_context, tall, steps, x, x_at, weight, weight_at, parts, parts_at, sums, sums_at):  # type: ignore[no-untyped-def]
    """Add products in float32 with a panel's weights, not split yet: step after step of them is, into `parts`, which
    keeps the last `SLOTS` of them.
    """
    high = tall.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x_to, weight_to, parts_to = (
            pointer_to(context, builder, signature.args[i], args[i], args[i + 1]) for i in (2, 4, 6)
        )
        tiles = SumTiles(builder, high, pointer_to(context, builder, signature.args[8], args[8], args[9]))

        def slot(step: Any) -> Any:
            number = builder.and_(step, constant(SLOTS - 1))
            return builder.gep(parts_to, [builder.mul(number, constant(STEP_WORDS))])

        tiles.load()
        _Splitting(builder, weight_to, constant(0), slot(constant(0))).advance(1)
        loop = Loop(builder, args[1])
        # The last step has no next one, and is split again: the same numbers into the same place.
        following = builder.select(loop.is_last, loop.step, loop.following)
        splitting = _Splitting(builder, weight_to, following, slot(following))
        x_here = builder.gep(x_to, [builder.mul(loop.step, constant(STEP_WORDS))])
        multiply_parts(builder, tiles, PARTS, high, x_here, slot(loop.step), splitting.advance)
        loop.close()
        tiles.store()
        return context.get_dummy_value()

    return types.void(tall, steps, x, x_at, weight, weight_at, parts, parts_at, sums, sums_at), generate


@native
def int8_block(_context, tall, steps, x, x_at, weight, weight_at, sums, sums_at):  # type: ignore[no-untyped-def]
    """The sums of a block. `x` is `[tall, steps, tile]` of signed bytes, `weight` a panel (`gemm.Panels`)."""
    high = tall.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x_to, weight_to, sums_to = (
            pointer_to(context, builder, signature.args[i], args[i], args[i + 1]) for i in (2, 4, 6)
        )
        tiles = SumTiles(builder, high, sums_to)
        tiles.clear()
        loop = Loop(builder, args[1])
        weight_here = builder.gep(weight_to, [builder.mul(loop.step, constant(TILE_ROWS * COLUMNS))])
        for row in range(high):
            tile = builder.add(builder.mul(args[1], constant(row)), loop.step)
            load_tile(builder, FIRST_X + row, builder.gep(x_to, [builder.mul(tile, constant(TILE_WORDS))]))
        for column in range(WIDE):
            load_tile(builder, FIRST_W + column, builder.gep(weight_here, [constant(column * LANES)]), NEXT_ROW)
        for row in range(TILE_ROWS):
            for column in range(WIDE):
                at = constant(row * COLUMNS + column * LANES + _AHEAD_FLOATS)
                emit_prefetch(builder, builder.gep(weight_here, [at]))
        tiles.multiply("tdpbsud")
        loop.close()
        tiles.store()
        return context.get_dummy_value()

    return types.void(tall, steps, x, x_at, weight, weight_at, sums, sums_at), generate


@native
def add_row(_context, one, one_at, other, other_at, to, to_at):  # type: ignore[no-untyped-def]
    """`to = one + other`, of a row of `COLUMNS`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        first, second, out = (pointer_to(context, builder, signature.args[i], args[i], args[i + 1]) for i in (0, 2, 4))
        for column in range(WIDE):
            store(
                builder,
                builder.fadd(
                    load(builder, first, column * LANES, _FLOATS), load(builder, second, column * LANES, _FLOATS)
                ),
                out,
                column * LANES,
            )
        return context.get_dummy_value()

    return types.void(one, one_at, other, other_at, to, to_at), generate


@native
def scale_row(_context, sums, sums_at, start, x_scale, scales, bias, columns_at, y, y_at):  # type: ignore[no-untyped-def]
    """`y = (sums + start) * x_scale * scales + bias`, of a row of `COLUMNS` int32 sums."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def at(array: int, index: int) -> Any:
            return pointer_to(context, builder, signature.args[array], args[array], args[index])

        sums_to, scales_to, bias_to, y_to = at(0, 1), at(4, 6), at(5, 6), at(7, 8)
        begin, factor = (broadcast(builder, args[i], LANES) for i in (2, 3))
        for column in range(0, COLUMNS, LANES):
            total = builder.sitofp(builder.add(load(builder, sums_to, column, _INTS), begin), _FLOATS)
            scaled = builder.fmul(total, factor)
            of, added = (load(builder, address, column, _FLOATS) for address in (scales_to, bias_to))
            store(builder, call(builder, "fma", _FLOATS, scaled, of, added), y_to, column)
        return context.get_dummy_value()

    return types.void(sums, sums_at, start, x_scale, scales, bias, columns_at, y, y_at), generate
