"""XXH3-64 of bytes while they are copied: a block that moves is read once, not once to copy it and once to check it.

    sums = start
    per chunk of 16 stripes of 8 words:  sums[i] += low(d ^ s) high(d ^ s) + d[i ^ 1],   d = data[i], s = secret
                                         then each sum is scrambled
    hash = an avalanche over the products of the sums' pairs, and the length

The xxHash library's hash of inputs of at least `MIN_BYTES`, seed 0; its specification is
https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md. In vectors of eight words it is quicker than memory.
"""

from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import types

from engine.kernels.copy_blocks import store_fence
from engine.kernels.native import native
from engine.kernels.prefetch import emit_prefetch
from engine.kernels.vectors import Loop, constant, past_cache, pointer_to, splat

MIN_BYTES = 1024 + 1
"""Shorter inputs have no whole chunk, and the shortest are hashed in other ways, which are not here."""

_WORDS, _STRIPES = 8, 16
_STRIPE_BYTES = 8 * _WORDS
_CHUNK_BYTES = _STRIPES * _STRIPE_BYTES
_AHEAD_BYTES = 2048

_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
_P32_1, _P32_2, _P32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
_P64_1, _P64_2, _P64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P64_4, _P64_5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
_START = (_P32_3, _P64_1, _P64_2, _P64_3, _P64_4, _P32_2, _P64_5, _P32_1)
_MIX = 0x165667919E3779F9
_SCRAMBLE_AT = len(_SECRET) - _STRIPE_BYTES
_LAST_AT = _SCRAMBLE_AT - 7
_MERGE_AT = 11

_INT, _INT64, _INT128 = ir.IntType(32), ir.IntType(64), ir.IntType(128)
_VECTOR = ir.VectorType(_INT64, _WORDS)
_NEIGHBOURS = ir.Constant(ir.VectorType(_INT, _WORDS), [word ^ 1 for word in range(_WORDS)])


def _word(at: int) -> int:
    return int.from_bytes(_SECRET[at : at + 8], "little")


def _words(at: int) -> ir.Constant:
    """A stripe's worth of the secret."""
    return ir.Constant(_VECTOR, [_word(at + 8 * i) for i in range(_WORDS)])


class _Move:
    """Reads bytes once, in code that is being generated; `target` is where they are copied."""

    def __init__(self, builder: Any, source: Any, target: Any, *, aligned: bool) -> None:
        self._builder, self._source, self._target, self._aligned = builder, source, target, aligned

    def hash(self, size: Any) -> Any:
        """Of all `size` bytes."""
        builder = self._builder
        before_last = builder.sub(size, constant(1))
        num_chunks = builder.udiv(before_last, constant(_CHUNK_BYTES))
        loop = Loop(builder, num_chunks, [ir.Constant(_VECTOR, _START)])
        sums = loop.carried[0]
        chunk = builder.mul(loop.step, constant(_CHUNK_BYTES))
        for stripe in range(_STRIPES):
            at = builder.add(chunk, constant(stripe * _STRIPE_BYTES))
            sums = self._stripe(sums, at, _words(8 * stripe), aligned=self._aligned)
        sums = builder.xor(builder.xor(sums, builder.lshr(sums, splat(_VECTOR, 47))), _words(_SCRAMBLE_AT))
        sums = builder.mul(sums, splat(_VECTOR, _P32_1))
        loop.close([sums])
        sums = self._rest(sums, builder.mul(num_chunks, constant(_CHUNK_BYTES)), before_last)
        sums = self._stripe(sums, builder.sub(size, constant(_STRIPE_BYTES)), _words(_LAST_AT), aligned=False)
        return self._merge(sums, size)

    def _rest(self, sums: Any, begin: Any, before_last: Any) -> Any:
        """The whole stripes after the last chunk: fewer than it has, each with its own part of the secret."""
        builder = self._builder
        count = builder.udiv(builder.sub(before_last, begin), constant(_STRIPE_BYTES))
        done = builder.append_basic_block("rest_done")
        incoming = []
        for stripe in range(_STRIPES - 1):
            incoming.append((sums, builder.block))
            following = builder.append_basic_block("rest")
            builder.cbranch(builder.icmp_signed("<", constant(stripe), count), following, done)
            builder.position_at_end(following)
            at = builder.add(begin, constant(stripe * _STRIPE_BYTES))
            sums = self._stripe(sums, at, _words(8 * stripe), aligned=self._aligned)
        incoming.append((sums, builder.block))
        builder.branch(done)
        builder.position_at_end(done)
        result = builder.phi(_VECTOR)
        for value, block in incoming:
            result.add_incoming(value, block)
        return result

    def _stripe(self, sums: Any, at: Any, secret: Any, *, aligned: bool) -> Any:
        builder = self._builder
        source = builder.gep(self._source, [at])
        emit_prefetch(builder, builder.gep(source, [constant(_AHEAD_BYTES)]))
        data = builder.load(builder.bitcast(source, _VECTOR.as_pointer()), align=1)
        target = builder.bitcast(builder.gep(self._target, [at]), _VECTOR.as_pointer())
        stored = builder.store(data, target, align=_STRIPE_BYTES if aligned else 1)
        if aligned:
            past_cache(builder, stored)
        keyed = builder.xor(data, secret)
        product = builder.mul(builder.and_(keyed, splat(_VECTOR, 0xFFFFFFFF)), builder.lshr(keyed, splat(_VECTOR, 32)))
        return builder.add(builder.add(sums, builder.shuffle_vector(data, data, _NEIGHBOURS)), product)

    def _merge(self, sums: Any, size: Any) -> Any:
        builder = self._builder
        result = builder.mul(size, ir.Constant(_INT64, _P64_1))
        for word in range(0, _WORDS, 2):
            pair = []
            for i in (word, word + 1):
                keyed = builder.xor(
                    builder.extract_element(sums, ir.Constant(_INT, i)), ir.Constant(_INT64, _word(_MERGE_AT + 8 * i))
                )
                pair.append(builder.zext(keyed, _INT128))
            product = builder.mul(*pair)
            high = builder.trunc(builder.lshr(product, ir.Constant(_INT128, 64)), _INT64)
            result = builder.add(result, builder.xor(builder.trunc(product, _INT64), high))
        result = builder.xor(result, builder.lshr(result, constant(37)))
        result = builder.mul(result, ir.Constant(_INT64, _MIX))
        return builder.xor(result, builder.lshr(result, constant(32)))


@native
def _move(_context, source, source_at, target, target_at, size, aligned):  # type: ignore[no-untyped-def]
    """Copy `size` bytes between flat indices; `aligned`: into a target of whole lines, past the cache."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        begin = pointer_to(context, builder, signature.args[0], args[0], args[1])
        to = pointer_to(context, builder, signature.args[2], args[2], args[3])
        return _Move(builder, begin, to, aligned=aligned.literal_value).hash(args[4])

    return types.uint64(source, types.int64, target, types.int64, types.int64, aligned), generate


_READ = types.Array(types.uint8, 1, "C", readonly=True)
_WRITTEN = types.Array(types.uint8, 1, "C")
_NUMBERS = types.Array(types.int64, 1, "C", readonly=True)
_HASHES = types.Array(types.uint64, 1, "C")


@njit(
    types.void(_READ, _NUMBERS, _WRITTEN, _NUMBERS, _NUMBERS, types.boolean, _HASHES),
    nogil=True,
    cache=True,
)
def copy_hashed(source, begins, target, starts, sizes, to_memory, hashes):  # type: ignore[no-untyped-def]
    """Copy `sizes[i]` bytes of `source` from `begins[i]` to `starts[i]` of `target`; `hashes[i]` is their XXH3-64.

    What is shorter than `MIN_BYTES` is left out. The caller vouches for the bounds. With `to_memory`, nobody reads the
    target next: where it begins with a line, it is written past the cache.
    """
    address = target.ctypes.data
    for i in range(len(sizes)):
        if sizes[i] < MIN_BYTES:
            continue
        if to_memory and (address + starts[i]) % _STRIPE_BYTES == 0:
            hashes[i] = _move(source, begins[i], target, starts[i], sizes[i], True)
        else:
            hashes[i] = _move(source, begins[i], target, starts[i], sizes[i], False)
    store_fence()
