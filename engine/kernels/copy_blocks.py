"""Copying whole blocks from one pool to another.

    target[slots[i]] = source[blocks[i]]

A block is copied in runs of four pages, the pages side by side: the processor's prefetcher follows each of them, and
more of memory is at work than for one stream of bytes. Stores go past the cache, where nobody reads a block next: what
they overwrite is not read first. Together that makes it half as fast again as memcpy.
"""

from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import cgutils, types

from engine.kernels.native import native
from engine.kernels.prefetch import emit_prefetch
from engine.kernels.vectors import Loop, constant, past_cache, pointer_to

_PAGE_BYTES, _PAGES = 4096, 4
_RUN_BYTES = _PAGE_BYTES * _PAGES
_LINE_BYTES = 64
_STEP_BYTES = 2 * _LINE_BYTES
_AHEAD_BYTES = 512

_LINE = ir.VectorType(ir.IntType(64), _LINE_BYTES // 8)


def _copy_step(builder: Any, source: Any, target: Any, at: Any) -> None:
    """Two lines of each page, `at` bytes into it."""
    for page in range(_PAGES):
        offset = builder.add(at, constant(page * _PAGE_BYTES))
        start = builder.gep(source, [offset])
        to = builder.bitcast(builder.gep(target, [offset]), _LINE.as_pointer())
        begin = builder.bitcast(start, _LINE.as_pointer())
        lines = [builder.load(builder.gep(begin, [constant(line)]), align=1) for line in range(2)]
        for line in range(2):
            emit_prefetch(builder, builder.gep(start, [constant(_AHEAD_BYTES + line * _LINE_BYTES)]))
        for line, data in enumerate(lines):
            past_cache(builder, builder.store(data, builder.gep(to, [constant(line)]), align=_LINE_BYTES))


@native
def _copy_runs(_context, source, source_at, target, target_at, count):  # type: ignore[no-untyped-def]
    """`count` > 0 runs, into a target that begins with a line."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        begin = pointer_to(context, builder, signature.args[0], args[0], args[1])
        to = pointer_to(context, builder, signature.args[2], args[2], args[3])
        runs = Loop(builder, args[4])
        run = builder.mul(runs.step, constant(_RUN_BYTES))
        steps = Loop(builder, constant(_PAGE_BYTES // _STEP_BYTES))
        _copy_step(builder, begin, to, builder.add(run, builder.mul(steps.step, constant(_STEP_BYTES))))
        steps.close()
        runs.close()
        return context.get_dummy_value()

    return types.void(source, types.int64, target, types.int64, types.int64), generate


@native
def _copy_plainly(_context, source, source_at, target, target_at, size):  # type: ignore[no-untyped-def]
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        begin = pointer_to(context, builder, signature.args[0], args[0], args[1])
        to = pointer_to(context, builder, signature.args[2], args[2], args[3])
        cgutils.raw_memcpy(builder, to, begin, args[4], 1)
        return context.get_dummy_value()

    return types.void(source, types.int64, target, types.int64, types.int64), generate


@native
def store_fence(_context):  # type: ignore[no-untyped-def]
    """Other threads see what went past the cache before anything that is written after this."""

    def generate(context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


_READ = types.Array(types.uint8, 2, "C", readonly=True)
_WRITTEN = types.Array(types.uint8, 2, "C")
_NUMBERS = types.Array(types.int64, 1, "C", readonly=True)


@njit(types.void(_READ, _NUMBERS, _WRITTEN, _NUMBERS), nogil=True, cache=True)
def copy_blocks(source, blocks, target, slots):  # type: ignore[no-untyped-def]
    """Blocks of `source` `[N, B]` into those of `target` `[M, B]`; the caller vouches that there are such blocks."""
    size = target.shape[1]
    runs = 0 if (target.ctypes.data | size) % _LINE_BYTES else size // _RUN_BYTES
    streamed = runs * _RUN_BYTES
    for i in range(len(blocks)):
        begin, to = blocks[i] * size, slots[i] * size
        if runs:
            _copy_runs(source, begin, target, to, runs)
        if streamed < size:
            _copy_plainly(source, begin + streamed, target, to + streamed, size - streamed)
    store_fence()
