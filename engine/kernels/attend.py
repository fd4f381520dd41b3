"""The two inner loops of decode attention, as LLVM vector code: query heads that share a KV head, over one block.

    scores[g, p] = q_g . k_p            totals[g] += sum_p weights[g, p] * v_p

Each key and value is read once for all G heads of a group, in whatever form the pool keeps it (`kv_row`).
"""

from typing import Any

from numba.core import cgutils, types

from engine.kernels.kv_row import Row
from engine.kernels.native import native
from engine.kernels.vectors import Loop, broadcast, call, constant, pointer_to, reduce, store, sums_of_each

_MAX_SUMS = 24
"""Vectors of sums that stay in AVX-512's 32 registers beside what they are made of."""


class _Scores:
    """Code for the scores of one position after another; `scores` is where those of the first head begin."""

    def __init__(self, builder: Any, row: Row, query: Any, heads: int, scores: Any, stride: Any) -> None:
        self._builder, self._row, self._heads = builder, row, heads
        self._query, self._of_query = query, Row(types.float32, row.size)
        self._scores, self._stride = scores, stride

    def _products(self, key_at: Any) -> list[Any]:
        """For each head a vector whose sum is the score."""
        builder, row = self._builder, self._row
        key = [row.load(builder, key_at, vector) for vector in range(row.vectors)]
        scale = row.scale(builder, key_at)
        found = []
        for g in range(self._heads):
            head = builder.gep(self._query, [constant(g * row.size)])
            total = builder.fmul(self._of_query.load(builder, head, 0), key[0])
            for vector in range(1, row.vectors):
                total = call(builder, "fma", row.type, self._of_query.load(builder, head, vector), key[vector], total)
            found.append(total if scale is None else builder.fmul(total, broadcast(builder, scale, row.lanes)))
        return found

    def _at(self, head: int, position: Any) -> Any:
        offset = self._builder.add(self._builder.mul(self._stride, constant(head)), position)
        return self._builder.gep(self._scores, [offset])

    def one(self, key_at: Any, position: Any) -> None:
        for g, products in enumerate(self._products(key_at)):
            self._builder.store(reduce(self._builder, "fadd", products), self._at(g, position))

    def as_many_as_lanes(self, keys_at: Any, position: Any, room: Any) -> None:
        """Of that many positions at once. `room` is for their vectors, those of a head together."""
        builder, row = self._builder, self._row
        loop = Loop(builder, constant(row.lanes))
        key_at = builder.gep(keys_at, [builder.mul(loop.step, constant(row.pitch))])
        for g, products in enumerate(self._products(key_at)):
            builder.store(products, builder.gep(room, [builder.add(loop.step, constant(g * row.lanes))]))
        loop.close()
        for g in range(self._heads):
            vectors = [builder.load(builder.gep(room, [constant(g * row.lanes + lane)])) for lane in range(row.lanes)]
            store(builder, sums_of_each(builder, vectors), self._at(g, position), 0)


@native
def block_scores(_context, query, query_at, pool, pool_at, count, scores, scores_at, stride, group, size):  # type: ignore[no-untyped-def]
    """Scores of the `count` rows of `pool` from flat index `pool_at`, for `group` heads of `size` from
    `query[query_at]`. Head g's go to `scores[scores_at + g * stride]` and following."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        q = pointer_to(context, builder, signature.args[0], args[0], args[1])
        keys = pointer_to(context, builder, signature.args[2], args[2], args[3])
        out = pointer_to(context, builder, signature.args[5], args[5], args[6])
        heads, row = group.literal_value, Row(pool.dtype, size.literal_value)
        code = _Scores(builder, row, q, heads, out, args[7])
        room = cgutils.alloca_once(builder, row.type, size=heads * row.lanes)

        def key_at(position: Any) -> Any:
            return builder.gep(keys, [builder.mul(position, constant(row.pitch))])

        runs = builder.udiv(args[4], constant(row.lanes))
        done = builder.mul(runs, constant(row.lanes))
        rest = builder.sub(args[4], done)
        with builder.if_then(builder.icmp_signed(">", runs, constant(0))):
            loop = Loop(builder, runs)
            position = builder.mul(loop.step, constant(row.lanes))
            code.as_many_as_lanes(key_at(position), position, room)
            loop.close()
        with builder.if_then(builder.icmp_signed(">", rest, constant(0))):
            loop = Loop(builder, rest)
            position = builder.add(done, loop.step)
            code.one(key_at(position), position)
            loop.close()
        return context.get_dummy_value()

    int64 = types.int64
    return types.void(query, int64, pool, int64, int64, scores, int64, int64, group, size), generate


@native
def block_totals(_context, weights, weights_at, stride, pool, pool_at, count, totals, totals_at, group, size):  # type: ignore[no-untyped-def]
    """Add the `count` rows of `pool` from flat index `pool_at`, times `weights[weights_at + g * stride + p]`, to the
    `group` rows of `size` numbers at `totals[totals_at]`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        w = pointer_to(context, builder, signature.args[0], args[0], args[1])
        values = pointer_to(context, builder, signature.args[3], args[3], args[4])
        out = pointer_to(context, builder, signature.args[6], args[6], args[7])
        heads, head_dim = group.literal_value, size.literal_value
        row, of_total = Row(pool.dtype, head_dim), Row(types.float32, head_dim)
        at_once = max(1, _MAX_SUMS // row.vectors)
        for first in range(0, heads, at_once):
            some = range(first, min(first + at_once, heads))
            rows = {g: builder.gep(out, [constant(g * row.size)]) for g in some}
            initial = [of_total.load(builder, rows[g], vector) for g in some for vector in range(row.vectors)]
            loop = Loop(builder, args[5], initial)
            at = builder.gep(values, [builder.mul(loop.step, constant(row.pitch))])
            value = [row.load(builder, at, vector) for vector in range(row.vectors)]
            scale = row.scale(builder, at)
            sums = []
            for index, g in enumerate(some):
                of_head = builder.add(builder.mul(args[2], constant(g)), loop.step)
                weight = builder.load(builder.gep(w, [of_head]))
                spread = broadcast(builder, weight if scale is None else builder.fmul(weight, scale), row.lanes)
                for vector in range(row.vectors):
                    total = loop.carried[index * row.vectors + vector]
                    sums.append(call(builder, "fma", row.type, spread, value[vector], total))
            loop.close(sums)
            for index, g in enumerate(some):
                of_total.store(builder, sums[index * row.vectors : (index + 1) * row.vectors], rows[g])
        return context.get_dummy_value()

    int64 = types.int64
    return types.void(weights, int64, int64, pool, int64, int64, totals, int64, group, size), generate
