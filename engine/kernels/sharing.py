"""Work shared among threads, and taken over from those that are late, for loops that last as long as reading memory.

Numba's `prange` gives each thread its part, and the loop then waits for whichever thread was interrupted: by the
frontend, a client, the kernel. Here a thread takes its part a piece at a time, and then what others have left:

    work = share_out(size)
    for thread in prange(num_shares(work)):
        begin, end = take(work, thread)
        while begin < end:
            ...
            begin, end = take(work, thread)

Who is not interrupted reads one run of memory from front to back, which one queue for all would break up. Who computes
a piece does not change what is computed.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import get_num_threads, njit
from numba.core import cgutils, types
from numba.core.cpu_options import ParallelOptions

from engine.kernels.native import native
from engine.kernels.vectors import pointer_to

LOOPS: Any = ParallelOptions(  # which the types of `njit` do not know
    dict.fromkeys(("comprehension", "reduction", "inplace_binop", "setitem", "numpy", "stencil", "fusion"), False)
)
"""What of a kernel is shared: its `prange` loops. Numba's `True` makes a loop of every fill of an array, too, and each
is one more function to compile and threads to wake.

In a `prange` loop the index is unsigned, and signed where it is looked at first: what is called with it as it comes is
compiled for both.
"""

_PIECES = 8
"""Of a thread's share: as much as one of them is waited for at the end."""
_LINE = 8
"""Numbers of a cache line: each share is on one of its own. It holds what is next, the share's end, and a piece."""


@native
def _num_threads(_context):  # type: ignore[no-untyped-def]
    """Threads that a `prange` would use; as a function of Numba's own this keeps code out of the cache."""

    def generate(_context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        get_num_threads()  # makes the function that is called here known to the linker, which ends the process else
        signature = ir.FunctionType(ir.IntType(64), [])
        return builder.call(cgutils.get_or_insert_function(builder.module, signature, "get_num_threads"), [])

    return types.int64(), generate


@native
def _fetch_add(_context, array, index, amount):  # type: ignore[no-untyped-def]
    """What was there before."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = pointer_to(context, builder, signature.args[0], args[0], args[1])
        return builder.atomic_rmw("add", address, args[2], "monotonic")

    return types.int64(array, types.int64, types.int64), generate


@njit(nogil=True)
def share_out(size):  # type: ignore[no-untyped-def]
    """A share of `size` things for each thread."""
    threads = min(_num_threads(), size)
    work = np.empty(threads * _LINE, np.int64)
    for thread in range(threads):
        begin, end = size * thread // threads, size * (thread + 1) // threads
        at = thread * _LINE
        work[at], work[at + 1], work[at + 2] = begin, end, (end - begin + _PIECES - 1) // _PIECES
    return work


@njit(nogil=True)
def num_shares(work):  # type: ignore[no-untyped-def]
    return work.shape[0] // _LINE


@njit(nogil=True)
def take(work, thread):  # type: ignore[no-untyped-def]
    """Begin and end of a piece that nobody else gets, of the thread's own share while it lasts; equal at the end."""
    shares = num_shares(work)
    for i in range(shares):
        at = (thread + i) % shares * _LINE
        if work[at] < work[at + 1]:
            begin = _fetch_add(work, at, work[at + 2])
            if begin < work[at + 1]:
                return begin, min(begin + work[at + 2], work[at + 1])
    return np.int64(0), np.int64(0)
