"""The inner loops of our matrix products, as LLVM vector code: no loop of Numba's keeps 24 sums in registers.

    y[m, n] = sum_k x[m, k] w[k, n]   for `rows` m and `COLUMNS` n

Each step of k loads a row of w once, for all m, and multiplies it by one number of x after another. What bounds a
decode step is how fast w comes from memory; asking for it `AHEAD_BYTES` early made 16 rows a third faster than leaving
it to the processor's own prefetcher.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from engine.kernels.native import native
from engine.kernels.prefetch import emit_prefetch
from engine.kernels.vectors import Loop, broadcast, call, constant, load, pointer_to, store

LANES = 16
COLUMNS = 2 * LANES
MAX_ROWS = 12
"""Sums of 12 rows and 32 columns fill 24 of the 32 vector registers of AVX-512; w and x need the rest."""
DEPTH_STEP = 4
"""A depth is a multiple of this: the float loop is unrolled so, the int8 instruction multiplies so many at once."""
AHEAD_BYTES = 4096

_INT, _FLOAT = ir.IntType(32), ir.FloatType()
_FLOATS = ir.VectorType(_FLOAT, LANES)
_INTS = ir.VectorType(_INT, LANES)
_VECTORS = range(COLUMNS // LANES)
Sums = list[list[Any]]
"""Of every row and vector of columns."""
Step = Callable[[Any, Any, Any, Any], Any]
"""(builder, sum, vector of w, number of x) -> sum"""


def _emit(builder: Any, x: Any, w: Any, steps: Any, start: Sums, multiply: Step) -> Sums:
    """The loop over k, from the builder's block to a new one. `x` and `w` are pointers to 32-bit items, `steps` how
    often a row of w is loaded."""
    rows = len(start)
    loop = Loop(builder, steps, [value for row in start for value in row])
    w_here = builder.gep(w, [builder.mul(loop.step, constant(COLUMNS))])
    x_here = builder.gep(x, [builder.mul(loop.step, constant(rows))])
    loaded = [load(builder, w_here, LANES * v, start[0][0].type) for v in _VECTORS]
    for v in _VECTORS:
        emit_prefetch(builder, builder.gep(w_here, [constant(LANES * v + AHEAD_BYTES // 4)]))
    totals = iter(loop.carried)
    sums = []
    for m in range(rows):
        number = builder.load(builder.gep(x_here, [constant(m)]))
        sums.append([multiply(builder, next(totals), loaded[v], number) for v in _VECTORS])
    loop.close([value for row in sums for value in row])
    return sums


def _for_each_count(builder: Any, rows: Any, emit: Callable[[int], None]) -> None:
    """Code for each number of rows, and the jump to the right one."""
    end = builder.append_basic_block("end")
    choice = builder.switch(rows, end)
    for count in range(1, MAX_ROWS + 1):
        block = builder.append_basic_block(f"rows{count}")
        choice.add_case(ir.Constant(rows.type, count), block)
        builder.position_at_end(block)
        emit(count)
        builder.branch(end)
    builder.position_at_end(end)


def _fma(builder: Any, total: Any, weights: Any, number: Any) -> Any:
    return call(builder, "fma", _FLOATS, broadcast(builder, number, LANES), weights, total)


@native
def tile(_context, rows, x, x_at, w, w_at, bias, bias_at, y, y_at):  # type: ignore[no-untyped-def]
    """float32. The `rows` (1 to `MAX_ROWS`) numbers of one k lie together in `x`, from its flat index `x_at`; the
    `COLUMNS` of one k in `w` `[panels, depth, COLUMNS]`, from `w_at`. `y` is `[T, N]`; `bias` is added."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x_to, w_to, bias_to, y_to = (
            pointer_to(context, builder, signature.args[i], args[i], args[i + 1]) for i in (1, 3, 5, 7)
        )
        depth = cgutils.unpack_tuple(builder, context.make_array(w)(context, builder, args[3]).shape)[1]
        stride = cgutils.unpack_tuple(builder, context.make_array(y)(context, builder, args[7]).shape)[1]

        def emit(count: int) -> None:
            start = [[load(builder, bias_to, LANES * v, _FLOATS) for v in _VECTORS] for _ in range(count)]
            for m, row in enumerate(_emit(builder, x_to, w_to, depth, start, _fma)):
                at = builder.gep(y_to, [builder.mul(stride, constant(m))])
                for v in _VECTORS:
                    store(builder, row[v], at, LANES * v)

        _for_each_count(builder, args[0], emit)
        return context.get_dummy_value()

    return types.void(rows, x, x_at, w, w_at, bias, bias_at, y, y_at), generate


def _dot(builder: Any, total: Any, weights: Any, number: Any) -> Any:
    """Four unsigned bytes of w times four signed ones of x, summed, in every lane (VNNI's vpdpbusd)."""
    dot = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_INTS, [_INTS] * 3), "llvm.x86.avx512.vpdpbusd.512"
    )
    return builder.call(dot, [total, weights, broadcast(builder, number, LANES)])


@native
def tile_int8(_context, rows, x, x_at, w, w_at, scales, bias, columns_at, x_scales, x_starts, rows_at, y, y_at):  # type: ignore[no-untyped-def]
    """int8. Four signed bytes of x, those of consecutive k, are one item of int32 array `x`; four bytes of w, 128
    added, one of `w` `[panels, depth / 4, COLUMNS]`. Sums begin at `x_starts[rows_at + m]`, which takes away what the
    128 add; y = sum * x_scales[rows_at + m] * scales[columns_at + n] + bias[columns_at + n]."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def at(array: int, index: int) -> Any:
            return pointer_to(context, builder, signature.args[array], args[array], args[index])

        x_to, w_to, scales_to, bias_to = at(1, 2), at(3, 4), at(5, 7), at(6, 7)
        x_scales_to, starts_to, y_to = at(8, 10), at(9, 10), at(11, 12)
        steps = cgutils.unpack_tuple(builder, context.make_array(w)(context, builder, args[3]).shape)[1]
        stride = cgutils.unpack_tuple(builder, context.make_array(y)(context, builder, args[11]).shape)[1]

        def emit(count: int) -> None:
            numbers = [builder.load(builder.gep(starts_to, [constant(m)])) for m in range(count)]
            start = [[broadcast(builder, number, LANES)] * len(_VECTORS) for number in numbers]
            sums = _emit(builder, x_to, w_to, steps, start, _dot)
            factors = [load(builder, scales_to, LANES * v, _FLOATS) for v in _VECTORS]
            added = [load(builder, bias_to, LANES * v, _FLOATS) for v in _VECTORS]
            for m, row in enumerate(sums):
                y_row = builder.gep(y_to, [builder.mul(stride, constant(m))])
                of_row = broadcast(builder, builder.load(builder.gep(x_scales_to, [constant(m)])), LANES)
                for v in _VECTORS:
                    scaled = builder.fmul(builder.sitofp(row[v], _FLOATS), of_row)
                    store(builder, call(builder, "fma", _FLOATS, scaled, factors[v], added[v]), y_row, LANES * v)

        _for_each_count(builder, args[0], emit)
        return context.get_dummy_value()

    arguments = (rows, x, x_at, w, w_at, scales, bias, columns_at, x_scales, x_starts, rows_at, y, y_at)
    return types.void(*arguments), generate
