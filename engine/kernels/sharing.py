"""Work shared among threads as they get to it, for loops that take as long as reading memory does.

Numba's `prange` gives each thread its part beforehand, and the loop then waits for whichever thread was interrupted: by
the frontend, a client, the kernel. Here a thread that has time takes the next part:

    work = share_out(size)
    for _ in prange(num_parts(work)):
        begin, end = take(work)
        while begin < end:
            ...
            begin, end = take(work)

A thread's first turn goes on until nothing is left, so the others find nothing. Who computes a part does not change
what is computed.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import cgutils, types

from engine.kernels.native import native
from engine.kernels.vectors import constant, pointer_to

_FIRST, _MOST = 2, 8
"""The first parts are half of what each thread would get, the last an eighth: long runs of memory, and something left
to level out at the end."""


@native
def _num_threads(_context):  # type: ignore[no-untyped-def]
    """Threads that a `prange` would use; as a function of Numba's own this keeps code out of the cache."""

    def generate(_context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        signature = ir.FunctionType(ir.IntType(64), [])
        return builder.call(cgutils.get_or_insert_function(builder.module, signature, "get_num_threads"), [])

    return types.int64(), generate


@native
def _count(_context, counter):  # type: ignore[no-untyped-def]
    """One more; what was there before."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = pointer_to(context, builder, signature.args[0], args[0], constant(0))
        return builder.atomic_rmw("add", address, constant(1), "monotonic")

    return types.int64(counter), generate


@njit(nogil=True)
def share_out(size):  # type: ignore[no-untyped-def]
    """Parts of `size` things, larger ones first: how many were taken, and where each begins.

    After Polychronopoulos and Kuck, "Guided Self-Scheduling", 1987.
    """
    work = np.zeros(size + 2, np.int64)
    threads = _num_threads()
    least = (size + _MOST * threads - 1) // (_MOST * threads)
    begin, end = np.int64(0), np.int64(1)
    while begin < size:
        work[end] = begin
        end += 1
        begin += size if threads == 1 else max(least, (size - begin) // (_FIRST * threads))
    work[end] = size
    return work[: end + 1]


@njit(nogil=True)
def num_parts(work):  # type: ignore[no-untyped-def]
    return work.shape[0] - 2


@njit(nogil=True)
def take(work):  # type: ignore[no-untyped-def]
    """The begin and end of a part that nobody else gets; none is left where they are equal."""
    part = _count(work) + 1
    if part + 1 < work.shape[0]:
        return work[part], work[part + 1]
    return np.int64(0), np.int64(0)
