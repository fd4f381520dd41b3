"""The two inner loops of decode attention, as LLVM vector code: query heads that share a KV head, over one block.

    scores[g, p] = q_g . k_p            totals[g] += sum_p weights[g, p] * v_p

Each key and value is read once for all G heads of a group, in whatever form the pool keeps it (`kv_row`).
"""

from typing import Any

from numba.core import types

from engine.kernels.kv_row import Row
from engine.kernels.native import native
from engine.kernels.vectors import Loop, broadcast, call, constant, pointer_to, reduce

_MAX_SUMS = 24
"""Vectors of sums that stay in AVX-512's 32 registers beside what they are made of."""


@native
def block_scores(_context, query, query_at, pool, pool_at, count, scores, scores_at, stride, group, size):  # type: ignore[no-untyped-def]
    """Scores of the `count` rows of `pool` from flat index `pool_at`, for `group` heads of `size` from
    `query[query_at]`. Head g's go to `scores[scores_at + g * stride]` and following."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        q = pointer_to(context, builder, signature.args[0], args[0], args[1])
        keys = pointer_to(context, builder, signature.args[2], args[2], args[3])
        out = pointer_to(context, builder, signature.args[5], args[5], args[6])
        heads, head_dim = group.literal_value, size.literal_value
        row, of_query = Row(pool.dtype, head_dim), Row(types.float32, head_dim)
        loop = Loop(builder, args[4], [])
        at = builder.gep(keys, [builder.mul(loop.step, constant(row.pitch))])
        key = [row.load(builder, at, vector) for vector in range(row.vectors)]
        scale = row.scale(builder, at)
        for g in range(heads):
            head = builder.gep(q, [constant(g * row.size)])
            total = builder.fmul(of_query.load(builder, head, 0), key[0])
            for vector in range(1, row.vectors):
                total = call(builder, "fma", row.type, of_query.load(builder, head, vector), key[vector], total)
            score = reduce(builder, "fadd", total)
            if scale is not None:
                score = builder.fmul(score, scale)
            builder.store(score, builder.gep(out, [builder.add(builder.mul(args[7], constant(g)), loop.step)]))
        loop.close([])
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
