"""One head's key or value at one position, as the pool keeps it: a row of D numbers in one of three forms.

    float32   4 D bytes
    float16   2 D bytes, each number rounded to the nearest
    int8      D bytes and one float32 s = max |x| / 127 behind them: a number is s times its byte

The functions are LLVM vector code that a kernel calls for a row at a time; all arithmetic is in float32. Numba has no
float16 on CPUs, so its pools are seen as arrays of uint16.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from engine.kernels.native import native
from engine.kernels.vectors import broadcast, call, constant, pointer_to, reduce

_INT, _INT64 = ir.IntType(32), ir.IntType(64)
_FLOAT = ir.FloatType()
SCALE_BYTES = 4
_LARGEST = 127.0


def head_dim_of(pool: np.ndarray) -> int:
    """D; the rows of an int8 pool are longer by their scale."""
    length: int = pool.shape[-1]
    return length - (SCALE_BYTES if pool.dtype == np.int8 else 0)


def lanes_of(size: int) -> int:
    """The widest vector that divides a row."""
    return next(lanes for lanes in (16, 8, 4, 2, 1) if size % lanes == 0)


@dataclass(frozen=True, slots=True)
class Row:
    """Generates code for rows of `size` numbers kept as `item`, one of Numba's element types."""

    item: types.Type
    size: int

    @property
    def lanes(self) -> int:
        return lanes_of(self.size)

    @property
    def vectors(self) -> int:
        return self.size // self.lanes

    @property
    def type(self) -> Any:
        return ir.VectorType(_FLOAT, self.lanes)

    @property
    def pitch(self) -> int:
        """Items from one row to the next."""
        return self.size + SCALE_BYTES if self.item == types.int8 else self.size

    def load(self, builder: Any, pointer: Any, vector: int) -> Any:
        """Numbers `vector * lanes` and following of the row at `pointer`; those of int8 still without their scale."""
        at = builder.gep(pointer, [constant(vector * self.lanes)])
        if self.item == types.float32:
            return builder.load(builder.bitcast(at, self.type.as_pointer()), align=4)
        if self.item == types.uint16:
            half = ir.VectorType(ir.HalfType(), self.lanes)
            return builder.fpext(builder.load(builder.bitcast(at, half.as_pointer()), align=2), self.type)
        small = builder.load(builder.bitcast(at, ir.VectorType(ir.IntType(8), self.lanes).as_pointer()), align=1)
        return builder.sitofp(builder.sext(small, ir.VectorType(_INT, self.lanes)), self.type)

    def scale(self, builder: Any, pointer: Any) -> Any | None:
        """What the loaded numbers must be multiplied by; None where that is 1."""
        if self.item != types.int8:
            return None
        at = builder.gep(pointer, [constant(self.size)])
        return builder.load(builder.bitcast(at, _FLOAT.as_pointer()), align=1)

    def store(self, builder: Any, numbers: list[Any], pointer: Any) -> None:
        """Write the vectors of one row."""
        if self.item == types.int8:
            numbers = self._quantize(builder, numbers, pointer)
        for vector, value in enumerate(numbers):
            at = builder.gep(pointer, [constant(vector * self.lanes)])
            if self.item == types.uint16:
                value = builder.fptrunc(value, ir.VectorType(ir.HalfType(), self.lanes))
            align = 4 if self.item == types.float32 else 2 if self.item == types.uint16 else 1
            builder.store(value, builder.bitcast(at, value.type.as_pointer()), align=align)

    def _quantize(self, builder: Any, numbers: list[Any], pointer: Any) -> list[Any]:
        """The row's scale is stored; its numbers come back as bytes."""
        sizes = [call(builder, "fabs", self.type, value) for value in numbers]
        largest = sizes[0]
        for value in sizes[1:]:
            largest = call(builder, "maxnum", self.type, largest, value)
        top = reduce(builder, "fmax", largest)
        scale = builder.fdiv(top, ir.Constant(_FLOAT, _LARGEST))
        at = builder.gep(pointer, [constant(self.size)])
        builder.store(scale, builder.bitcast(at, _FLOAT.as_pointer()), align=1)
        is_zero = builder.fcmp_ordered("==", top, ir.Constant(_FLOAT, 0.0))
        inverse = builder.select(is_zero, ir.Constant(_FLOAT, 0.0), builder.fdiv(ir.Constant(_FLOAT, _LARGEST), top))
        spread = broadcast(builder, inverse, self.lanes)
        rounded = [call(builder, "rint", self.type, builder.fmul(value, spread)) for value in numbers]
        whole = [builder.fptosi(value, ir.VectorType(_INT, self.lanes)) for value in rounded]
        return [builder.trunc(value, ir.VectorType(ir.IntType(8), self.lanes)) for value in whole]


@native
def store_row(_context, numbers, numbers_at, pool, pool_at, size):  # type: ignore[no-untyped-def]
    """Keep `size` float32 from the flat index of `numbers` as the row of `pool` at its flat index."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source = Row(types.float32, size.literal_value)
        at = pointer_to(context, builder, signature.args[0], args[0], args[1])
        to = pointer_to(context, builder, signature.args[2], args[2], args[3])
        values = [source.load(builder, at, vector) for vector in range(source.vectors)]
        Row(pool.dtype, size.literal_value).store(builder, values, to)
        return context.get_dummy_value()

    return types.void(numbers, types.int64, pool, types.int64, size), generate


@native
def load_row(_context, pool, pool_at, numbers, numbers_at, size):  # type: ignore[no-untyped-def]
    """The other way round."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row = Row(pool.dtype, size.literal_value)
        at = pointer_to(context, builder, signature.args[0], args[0], args[1])
        to = pointer_to(context, builder, signature.args[2], args[2], args[3])
        values = [row.load(builder, at, vector) for vector in range(row.vectors)]
        if (scale := row.scale(builder, at)) is not None:
            spread = broadcast(builder, scale, row.lanes)
            values = [builder.fmul(value, spread) for value in values]
        Row(types.float32, size.literal_value).store(builder, values, to)
        return context.get_dummy_value()

    return types.void(pool, types.int64, numbers, types.int64, size), generate
