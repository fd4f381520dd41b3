"""The inner loops of our matrix products on AMX: eight tile registers of 16 rows of 64 bytes, multiplied as matrices.

    C [16 x 16] += A [16 x 64 bytes] B [64 bytes x 16]

A block is up to 32 rows of x by the 32 columns of a panel: four tiles of sums, two of x, two of w.

float32 has no tiles, but every float32 is a sum of three bfloat16 exactly, x = x0 + x1 + x2, each less than 2^-7 of the
one before. Of the nine products of parts six are computed; those left out are below 2^-21 of the whole at worst, and
the sums are float32. A product of many rows is so as exact as by float32 instructions, in about half the time
(Henry, Tang and Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations",
2019).

What is done here is common to attention and to products with weights, which have more of their own (`amx_weights.py`).

Every tile must begin at a multiple of 64 bytes: loads that cross cache lines take six times as long.
"""

import ctypes
import platform
from collections.abc import Callable
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from engine.kernels.native import native
from engine.kernels.tile import COLUMNS, LANES
from engine.kernels.vectors import Loop, constant, load, pointer_to, splat, store

TILE_ROWS = 16
TILE_WORDS = 256
"""32-bit items of a tile."""
LINE_WORDS = 16
"""Of a cache line, and of a row of a tile."""
TALL = 2
"""Tiles of rows in a block, at most."""
PARTS = 3
FLOAT_DEPTH = 32
"""Depth of a step of float32: a tile of bfloat16 holds pairs, of consecutive k."""
INT8_DEPTH = 64
WIDE = COLUMNS // LANES
"""Tiles of columns in a block."""
FIRST_X, FIRST_W = 4, 6
"""Tile registers; the sums are before them."""

_PRODUCTS = ((2, 0), (1, 0), (1, 1), (0, 1), (0, 0), (0, 2))
"""Parts of x and of w, in an order in which as few as can be are loaded again."""
_TOP_BITS = -(1 << 16)

_BYTE, _INT, _INT64, _FLOAT = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
_BYTES = _BYTE.as_pointer()
_FLOATS, _INTS = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INT, LANES)
_NEXT_LINE = constant(64)
NEXT_ROW = constant(COLUMNS * 4)
"""How far apart the rows of a tile are in a panel, and in sums."""

Meanwhile = Callable[[float], None]
"""(share of a step's products that are done) -> instructions"""

_PERMISSION = 158, 0x1023, 18
"""Linux on x86-64: arch_prctl, ARCH_REQ_XCOMP_PERM, the state of tiles."""


@cache
def runs_here() -> bool:
    """Whether this processor has tiles for both types, and the system lets this process use them."""
    features = llvm.get_host_cpu_features()
    if not all(features.get(name) for name in ("amx-tile", "amx-bf16", "amx-int8", "avx512f")):
        return False
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return False
    granted: int = ctypes.CDLL(None).syscall(*_PERMISSION)
    return granted == 0


def _shapes() -> np.ndarray:
    """How tiles are configured for blocks of 0 to 32 rows, `[33, 64]`: palette 1, the bytes of a row, then the rows.

    Time and traffic go with the rows; those of w are always all there.
    """
    found = np.zeros((2 * TILE_ROWS + 1, 64), np.uint8)
    found[:, 0] = 1
    found[:, 16:32].view(np.uint16)[:] = 64
    found[:, 48:56] = TILE_ROWS
    for num_rows in range(1, len(found)):
        upper = min(num_rows, TILE_ROWS)
        lower = (num_rows - upper) or TILE_ROWS
        for registers, rows in (((0, 1, FIRST_X), upper), ((2, 3, FIRST_X + 1), lower)):
            found[num_rows, [48 + register for register in registers]] = rows
    return found


SHAPES = _shapes()


@native
def begin_tiles(_context, shapes, num_rows):  # type: ignore[no-untyped-def]
    """Before the first tile of a thread's work, on blocks of `num_rows`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = pointer_to(context, builder, signature.args[0], args[0], builder.mul(args[1], constant(64)))
        _instruct(builder, "ldtilecfg", builder.bitcast(address, _BYTES))
        return context.get_dummy_value()

    return types.void(shapes, num_rows), generate


@native
def end_tiles(_context):  # type: ignore[no-untyped-def]
    """After the last: threads that hold tiles are slower to switch between."""

    def generate(context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        _instruct(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), generate


@native
def offset_to_line(_context, array):  # type: ignore[no-untyped-def]
    """The first 32-bit item of `array` that begins a cache line."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = builder.ptrtoint(pointer_to(context, builder, signature.args[0], args[0], constant(0)), _INT64)
        return builder.and_(builder.lshr(builder.neg(address), constant(2)), constant(15))

    return types.int64(array), generate


def _instruct(builder: Any, name: str, *args: Any) -> None:
    kinds = [arg.type for arg in args]
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), kinds), f"llvm.x86.{name}")
    builder.call(function, args)


def _register(number: int) -> ir.Constant:
    return ir.Constant(_BYTE, number)


def load_tile(builder: Any, register: int, address: Any, pitch: Any = _NEXT_LINE) -> None:
    _instruct(builder, "tileloadd64", _register(register), builder.bitcast(address, _BYTES), pitch)


def _store_tile(builder: Any, register: int, address: Any) -> None:
    _instruct(builder, "tilestored64", _register(register), builder.bitcast(address, _BYTES), NEXT_ROW)


class SumTiles:
    """The tiles of sums of a block `tall` tiles high; in memory `[16 * tall, COLUMNS]`, from `address`."""

    def __init__(self, builder: Any, tall: int, address: Any) -> None:
        self._builder = builder
        self._tiles = [(row, column) for row in range(tall) for column in range(WIDE)]
        self._address = address

    def _at(self, row: int, column: int) -> Any:
        return self._builder.gep(self._address, [constant(row * TILE_ROWS * COLUMNS + column * LANES)])

    def load(self) -> None:
        for row, column in self._tiles:
            load_tile(self._builder, WIDE * row + column, self._at(row, column), NEXT_ROW)

    def clear(self) -> None:
        for row, column in self._tiles:
            _instruct(self._builder, "tilezero", _register(WIDE * row + column))

    def store(self) -> None:
        for row, column in self._tiles:
            _store_tile(self._builder, WIDE * row + column, self._at(row, column))

    def multiply(self, instruction: str, after_each: Callable[[], None] = lambda: None) -> None:
        for row, column in self._tiles:
            numbers = WIDE * row + column, FIRST_X + row, FIRST_W + column
            _instruct(self._builder, instruction, *map(_register, numbers))
            after_each()


def nearest_pairs(builder: Any, bits: list[Any]) -> Any:
    """Two vectors of float32, as their bits, to words of two bfloat16: the lower halves and the upper ones."""
    low, high = (builder.add(of, splat(_INTS, 1 << 15)) for of in bits)
    return builder.or_(builder.lshr(low, splat(_INTS, 16)), builder.and_(high, splat(_INTS, _TOP_BITS)))


def split(builder: Any, numbers: list[Any], to: list[Any]) -> None:
    """The parts of two vectors, one for each of `to`; those of a lane share a word, its lower half and its upper."""
    if len(to) == 1:  # a part without the others is the nearest
        words = nearest_pairs(builder, [builder.bitcast(number, _INTS) for number in numbers])
        builder.store(words, builder.bitcast(to[0], _INTS.as_pointer()), align=64)
        return
    for part, address in enumerate(to):
        bits = [builder.bitcast(number, _INTS) for number in numbers]
        # Cut off, not rounded: so the rest is exact, and has eight bits less.
        tops = [builder.and_(of, splat(_INTS, _TOP_BITS)) for of in bits]
        words = builder.or_(builder.lshr(bits[0], splat(_INTS, 16)), tops[1])
        builder.store(words, builder.bitcast(address, _INTS.as_pointer()), align=64)
        if part + 1 < len(to):
            pairs = zip(numbers, tops, strict=True)
            numbers = [builder.fsub(number, builder.bitcast(top, _FLOATS)) for number, top in pairs]


def parts_at(builder: Any, address: Any, num_parts: int) -> list[Any]:
    """Where the parts of a row of a tile go: to the same row of tiles `TALL` apart."""
    return [builder.gep(address, [constant(part * TALL * TILE_WORDS)]) for part in range(num_parts)]


@native
def split_row(_context, num_parts, x, x_at, out, out_at):  # type: ignore[no-untyped-def]
    """A row of a tile of x, of `FLOAT_DEPTH` numbers from the flat index `x_at`: so much of their sum as `num_parts`
    (1 or `PARTS`) hold, into the row at `out_at` of a step.
    """
    count = num_parts.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source = pointer_to(context, builder, signature.args[1], args[1], args[2])
        to = pointer_to(context, builder, signature.args[3], args[3], args[4])
        halves = [load(builder, source, half * LANES, _FLOATS) for half in (0, 1)]
        picked = [ir.Constant(_INTS, [2 * lane + odd for lane in range(LANES)]) for odd in (0, 1)]
        numbers = [builder.shuffle_vector(*halves, mask) for mask in picked]
        split(builder, numbers, parts_at(builder, to, count))
        return context.get_dummy_value()

    return types.void(num_parts, x, x_at, out, out_at), generate


@native
def split_pair(_context, num_parts, x, even_at, odd_at, out, out_at):  # type: ignore[no-untyped-def]
    """A row of a tile of w: `LANES` numbers of an even k and those of the next."""
    count = num_parts.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pair = [pointer_to(context, builder, signature.args[1], args[1], args[i]) for i in (2, 3)]
        to = pointer_to(context, builder, signature.args[4], args[4], args[5])
        split(builder, [load(builder, address, 0, _FLOATS) for address in pair], parts_at(builder, to, count))
        return context.get_dummy_value()

    return types.void(num_parts, x, even_at, odd_at, out, out_at), generate


def transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """`LANES` vectors of `LANES`, rows for columns: blocks of 1, 2, 4 and 8 change places across the diagonal."""
    rows = list(rows)
    for size in (1, 2, 4, 8):
        lanes = range(LANES)
        upper = ir.Constant(_INTS, [LANES + (lane ^ size) if lane & size else lane for lane in lanes])
        lower = ir.Constant(_INTS, [LANES + lane if lane & size else lane ^ size for lane in lanes])
        for row in (row for row in range(TILE_ROWS) if not row & size):
            pair = rows[row], rows[row | size]
            rows[row], rows[row | size] = (builder.shuffle_vector(*pair, mask) for mask in (upper, lower))
    return rows


@native
def transpose_tile(_context, words, at):  # type: ignore[no-untyped-def]
    """A tile's words, rows for columns: what was packed as rows of x are columns of w then, and the other way."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        tile = pointer_to(context, builder, signature.args[0], args[0], args[1])
        rows = [load(builder, tile, row * LANES, _INTS) for row in range(TILE_ROWS)]
        for row, value in enumerate(transposed(builder, rows)):
            store(builder, value, tile, row * LANES)
        return context.get_dummy_value()

    return types.void(words, at), generate


def multiply_parts(
    builder: Any, sums: SumTiles, num_parts: int, tall: int, x: Any, w: Any, meanwhile: Meanwhile = lambda _: None
) -> None:
    """One step of a block. Its products keep only the tiles busy: after each comes what `meanwhile` adds."""
    products = [pair for pair in _PRODUCTS if max(pair) < num_parts]
    total, done = len(products) * tall * WIDE, 0

    def after_each() -> None:
        nonlocal done
        done += 1
        meanwhile(done / total)

    loaded_x, loaded_w = -1, -1
    for part_x, part_w in products:
        if part_x != loaded_x:
            for row in range(tall):
                load_tile(builder, FIRST_X + row, builder.gep(x, [constant((part_x * TALL + row) * TILE_WORDS)]))
        if part_w != loaded_w:
            for column in range(WIDE):
                at = builder.gep(w, [constant((part_w * WIDE + column) * TILE_WORDS)])
                load_tile(builder, FIRST_W + column, at)
        loaded_x, loaded_w = part_x, part_w
        sums.multiply("tdpbf16ps", after_each)


@native
def float_block(_context, num_parts, tall, is_first, steps, x, x_at, w, w_at, sums, sums_at):  # type: ignore[no-untyped-def]
    """Add the products of `steps` steps to the sums of a block `tall` (1 or 2) tiles high, or begin with them.

    `x` is `[steps, num_parts, TALL, tile]`, `w` `[steps, num_parts, 2, tile]`. The first three are constants.
    """
    count, high, begins = num_parts.literal_value, tall.literal_value, is_first.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x_to, w_to, sums_to = (pointer_to(context, builder, signature.args[i], args[i], args[i + 1]) for i in (4, 6, 8))
        tiles = SumTiles(builder, high, sums_to)
        if begins:
            tiles.clear()
        else:
            tiles.load()
        loop = Loop(builder, args[3])
        words = builder.mul(loop.step, constant(count * TALL * TILE_WORDS))
        x_here, w_here = (builder.gep(to, [words]) for to in (x_to, w_to))
        multiply_parts(builder, tiles, count, high, x_here, w_here)
        loop.close()
        tiles.store()
        return context.get_dummy_value()

    return types.void(num_parts, tall, is_first, steps, x, x_at, w, w_at, sums, sums_at), generate
