"""Asks for memory before it is read: paged blocks lie apart, where the processor's own prefetcher does not follow."""

from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import cgutils, types

from engine.kernels.native import native

_INT = ir.IntType(32)
_BYTES = ir.IntType(8).as_pointer()
_TO_L2 = 2
_LINE_BYTES = 64


def emit_prefetch(builder: Any, pointer: Any) -> None:
    """The instruction, in code that is being generated; an address that is not mapped does no harm."""
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [_BYTES, _INT, _INT, _INT]), "llvm.prefetch.p0"
    )
    hints = [ir.Constant(_INT, hint) for hint in (0, _TO_L2, 1)]  # a read, to L2, of data
    builder.call(function, [builder.bitcast(pointer, _BYTES), *hints])


@native
def _line(_context, array, index):  # type: ignore[no-untyped-def]
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        emit_prefetch(builder, builder.gep(data, [args[1]]))
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


@njit(inline="always", nogil=True)
def prefetch(array, begin, count):  # type: ignore[no-untyped-def]
    """`count` items of a contiguous array from flat index `begin`."""
    for index in range(begin, begin + count, _LINE_BYTES // array.itemsize):
        _line(array, index)
