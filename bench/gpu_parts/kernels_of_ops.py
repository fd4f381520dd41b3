"""Times of the kernels that do not attend, at decode's batch sizes and for a prompt of 8,192 tokens.

A decode step's activations are in the cache when a kernel comes to them, so few rows are timed over one set of inputs;
what does not fit there is timed over several. The limit is the kernel's bytes at copy speed, or the time of the
smallest kernel where that is longer.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F

from bench.gpu_parts.bench import L2_BYTES, Bench, Call, Task
from bench.gpu_parts.checks_of_ops import random_int4, random_product, random_stream
from bench.gpu_parts.checks_of_sampling import VOCAB, peaked, scratch_of_top
from bench.gpu_parts.inputs import rope_table
from bench.gpu_parts.limits import COPY, LAUNCH
from bench.gpu_parts.report import Row
from bench.gpu_parts.shapes import LLAMA_8B as SHAPE
from engine.kernels import eight_bits
from engine.kernels.gpu import (
    adjust_logits,
    copy_blocks,
    copy_summed,
    fp8_linear,
    int4_linear,
    int8_linear,
    norm,
    quantize,
    rope_cache,
    sample,
    silu_mul,
    thin_linear,
    top_logits,
)
from engine.kernels.gpu.candidates import Scratch

BF16 = torch.bfloat16
BATCHES = (1, 64, 256)
PROMPT = 8192
_FILTERS = {"greedy": (0.0, 0, 1.0), "top_p 0.95": (0.8, 0, 0.95), "top_k 50": (0.8, 50, 1.0)}
_THIN = {"narrow": thin_linear.NARROW, "wide": thin_linear.WIDE}
_GATE, _DOWN = "norm and gate", "down and sum"
PRODUCTS = (_GATE, _DOWN)
Made = tuple[Call, float]
"""A call on inputs of its own, and the bytes it moves at least"""


def tasks(bench: Bench) -> Iterator[Task]:
    makers: dict[str, Callable[[Bench, int], Made]] = {"rms_norm": a_norm, "rope_cache": a_rope, "silu_mul": a_silu_mul}
    makers |= {"quantize_rows int8": partial(a_quantize, to=torch.int8)}
    makers |= {"quantize_rows e4m3": partial(a_quantize, to=torch.float8_e4m3fn)}
    batches = BATCHES if not bench.is_dry else (1,)
    for name, maker in makers.items():
        for rows in (*batches, PROMPT) if not bench.is_dry else batches:
            yield Task(f"{name}, {rows} rows", partial(_time, bench, partial(maker, bench, rows)))
    for rows in batches:
        yield Task(f"top_logits, {rows} rows", partial(_time, bench, partial(a_top_logits, bench, rows)))
        yield Task(f"penalise, {rows} rows", partial(_time, bench, partial(a_penalty, bench, rows)))
        for name, filters in _FILTERS.items():
            yield Task(f"sample {name}, {rows} rows", partial(_time, bench, partial(a_sample, bench, rows, filters)))
    yield Task("copy_blocks", partial(_time, bench, partial(a_copy, bench)))
    yield Task("copy_summed, 4 MiB", partial(_time, bench, partial(a_summed_copy, bench)))
    yield Task("gather_heads, half of them", partial(_time, bench, partial(a_gather, bench)))
    for rows in (1, 16, 64, 256) if not bench.is_dry else (1,):
        sizes = f"{SHAPE.hidden_size} to {2 * SHAPE.mlp_size}, {rows} rows"
        yield Task(f"int8_linear {sizes}", partial(_eight_bit, bench, rows, torch.int8))
        yield Task(f"fp8_linear {sizes}", partial(_eight_bit, bench, rows, torch.float8_e4m3fn))
        yield Task(f"int4_linear {sizes}", partial(_int4, bench, rows))
    for rows in (1, 4, 16) if not bench.is_dry else (1,):
        for name, tiles in _THIN.items():
            for what in PRODUCTS:
                yield Task(f"thin_linear {what}, {name}, {rows} rows", partial(_thin, bench, rows, what, tiles))


def calls_over_sets(make: Callable[[], Made]) -> tuple[list[Call], float]:
    """As many as the cache cannot hold, but one where a decode step finds its inputs in the cache."""
    call, num_bytes = make()
    sets = min(8, int(2 * L2_BYTES // num_bytes) + 1) if num_bytes > L2_BYTES / 8 else 1
    return [call, *(make()[0] for _ in range(sets - 1))], num_bytes


def _time(bench: Bench, make: Callable[[], Made]) -> None:
    calls, num_bytes = calls_over_sets(make)
    us = bench.median_ms(calls) * 1e3
    speed, floor = bench.limits.get(COPY), bench.limits.get(LAUNCH, 0.0)
    limit = max(floor, num_bytes / speed / 1e3) if speed else None
    bench.emit(Row(bench.task, us, "us", limit, limit / us if limit else None, note=f"{num_bytes / us / 1e3:.0f} GB/s"))


def a_norm(bench: Bench, rows: int) -> Made:
    size = bench.size(SHAPE.hidden_size, 64)
    hidden, delta, weight = (torch.randn(*shape, dtype=BF16) for shape in ((rows, size), (rows, size), (size,)))
    out = torch.empty_like(hidden)
    return lambda: norm.rms_norm(hidden, delta, weight, 1e-5, out), 4 * hidden.nbytes


def a_rope(bench: Bench, rows: int) -> Made:
    heads, kv_heads, head_dim = (
        (SHAPE.num_heads, SHAPE.num_kv_heads, SHAPE.head_dim) if not bench.is_dry else (4, 2, 64)
    )
    qkv = torch.randn(rows, (heads + 2 * kv_heads) * head_dim, dtype=BF16)
    pool = torch.empty(rows // 16 + 2, 1, 2, kv_heads, 16, head_dim, dtype=BF16)
    slots, positions = torch.randperm(len(pool) * 16)[:rows], torch.arange(rows)
    table = rope_table(max(rows, 16), head_dim)
    return lambda: rope_cache.rope_cache(qkv, table, positions, slots, pool, 0), 2 * qkv.nbytes


def a_silu_mul(bench: Bench, rows: int) -> Made:
    out = torch.empty(rows, bench.size(SHAPE.mlp_size, 64), dtype=BF16)
    gate_up = torch.randn(rows, 2 * out.shape[1], dtype=BF16)
    return lambda: silu_mul.silu_mul(gate_up, out), 3 * out.nbytes


def a_quantize(bench: Bench, rows: int, to: torch.dtype) -> Made:
    x = torch.randn(rows, bench.size(SHAPE.hidden_size, 64), dtype=BF16)
    values, scales = torch.empty(x.shape, dtype=to), torch.empty(rows, dtype=torch.float32)
    return lambda: quantize.quantize_rows(x, values, scales), 1.5 * x.nbytes


def a_top_logits(bench: Bench, rows: int) -> Made:
    size = bench.size(VOCAB, 300)
    logits, chosen = peaked(rows, size, BF16), torch.randint(0, size, (rows,))
    outs = torch.empty(rows), torch.empty(rows, 20), torch.empty(rows, 20, dtype=torch.int64)
    scratch = scratch_of_top(rows, size)
    return lambda: top_logits.top_logits(logits, chosen, scratch, *outs), logits.nbytes


def a_sample(bench: Bench, rows: int, filters: tuple[float, int, float]) -> Made:
    size = bench.size(VOCAB, 300)
    logits = peaked(rows, size, BF16)
    scratch = Scratch.of(rows, size, logits.device)
    temperature, top_k, top_p = filters
    columns = (
        torch.full((rows,), temperature, dtype=torch.float64),
        torch.full((rows,), top_k),
        torch.full((rows,), top_p, dtype=torch.float64),
        torch.zeros(rows, dtype=torch.float64),
        torch.randint(0, 1 << 62, (rows,)),
        torch.randint(0, 1 << 40, (rows,)),
    )
    out = torch.empty(rows, dtype=torch.int64)
    return lambda: sample.sample(logits, *columns, scratch, out), logits.nbytes


def a_penalty(bench: Bench, rows: int) -> Made:
    """Of rows that all have penalties, and a hundred tokens each."""
    size = bench.size(VOCAB, 300)
    logits, history = peaked(rows, size, torch.float32), torch.zeros(rows, size, dtype=torch.int32)
    history.scatter_(1, torch.randint(0, size, (rows, 100)), 2)
    penalties = 1 + torch.rand(rows), torch.rand(rows), torch.rand(rows)
    slots = torch.arange(rows)
    return lambda: adjust_logits.penalise(logits, history, slots, *penalties), 2 * logits.nbytes


def a_copy(bench: Bench) -> Made:
    """Blocks of 2 MiB, as the 8B shape has them."""
    shape = (bench.size(256, 4), bench.size(SHAPE.num_layers, 2), 2, SHAPE.num_kv_heads, 16, SHAPE.head_dim)
    source, target = torch.empty(shape, dtype=BF16).normal_(), torch.empty(shape, dtype=BF16)
    blocks, slots = torch.randperm(shape[0]), torch.randperm(shape[0])
    return lambda: copy_blocks.copy_blocks(source, blocks, target, slots), 2 * source.nbytes


def a_summed_copy(bench: Bench) -> Made:
    """A frame of KV: 16 pieces of 256 KiB."""
    size, count = bench.size(32768, 64), bench.size(16, 2)
    source, target = (torch.zeros(size * count, dtype=torch.int64) for _ in range(2))
    begins, starts, sizes = size * torch.randperm(count), size * torch.arange(count), torch.full((count,), size)
    sums = torch.zeros_like(sizes)
    return lambda: copy_summed.copy_summed(source, begins, target, starts, sizes, sums), 2 * source.nbytes


def a_gather(bench: Bench) -> Made:
    shape = [bench.size(256, 4), bench.size(SHAPE.num_layers, 2), 2, SHAPE.num_kv_heads, 16, SHAPE.head_dim]
    pool = torch.empty(shape, dtype=BF16).normal_()
    shape[3] //= 2
    packed, blocks = torch.empty(shape, dtype=BF16), torch.randperm(len(pool))
    return lambda: copy_blocks.gather_heads(pool, blocks, 0, packed), 2 * packed.nbytes


def a_four_bit_product(bench: Bench, rows: int) -> Made:
    depth, outputs = bench.size(SHAPE.hidden_size, 256), bench.size(2 * SHAPE.mlp_size, 64)
    weight, x = random_int4(depth, outputs, BF16), torch.randn(rows, depth, dtype=BF16)
    y = torch.empty(rows, outputs, dtype=BF16)
    return lambda: int4_linear.int4_linear(x, weight, None, y), depth * outputs / 2


def an_eight_bit_product(bench: Bench, rows: int, kind: torch.dtype) -> Made:
    """Of rows that are quantized already."""
    depth, outputs = bench.size(SHAPE.hidden_size, 256), bench.size(2 * SHAPE.mlp_size, 64)
    x, weight = (eight_bits.quantize_outputs(torch.randn(size, depth), kind) for size in (rows, outputs))
    y = torch.empty(rows, outputs, dtype=BF16)
    multiply = int8_linear.int8_linear if kind is torch.int8 else fp8_linear.fp8_linear
    return lambda: multiply(*x, *weight, None, y), depth * outputs


def a_thin_product(bench: Bench, rows: int, what: str, tiles: thin_linear.Tiles) -> Made:
    """One of a layer's products, and what stands before and behind it."""
    hidden, mlp = bench.size(SHAPE.hidden_size, 64), bench.size(SHAPE.mlp_size, 96)
    if what == _DOWN:
        stream, (x, weight, _) = random_stream(rows, hidden, tiles), random_product(rows, hidden, mlp, BF16)
        return lambda: thin_linear.linear_into(x, weight, None, stream), weight.nbytes
    stream, (x, weight, _) = random_stream(rows, hidden, tiles), random_product(rows, 2 * mlp, hidden, BF16)
    norm, y = thin_linear.Norm(torch.ones(hidden, dtype=BF16), 1e-5), torch.empty(rows, mlp, dtype=BF16)
    return lambda: thin_linear.normed_linear(stream, norm, weight, None, y, gated=True), weight.nbytes


def _thin(bench: Bench, rows: int, what: str, tiles: thin_linear.Tiles) -> None:
    """Beside the kernels that it stands for."""
    ours, num_bytes = calls_over_sets(partial(a_thin_product, bench, rows, what, tiles))
    hidden, mlp = bench.size(SHAPE.hidden_size, 64), bench.size(SHAPE.mlp_size, 96)
    stream, delta, normed = torch.zeros(rows, hidden), *torch.zeros(2, rows, hidden, dtype=BF16)
    gate_up, gated = torch.randn(rows, 2 * mlp, dtype=BF16), torch.randn(rows, mlp, dtype=BF16)
    scale, theirs = torch.ones(hidden, dtype=BF16), []
    for _ in ours:
        weight = random_product(0, hidden if what == _DOWN else 2 * mlp, mlp if what == _DOWN else hidden, BF16)[1]

        def down(weight: torch.Tensor = weight) -> None:
            torch.mm(gated, weight.t(), out=delta)

        def gate(weight: torch.Tensor = weight) -> None:
            norm.rms_norm(stream, delta, scale, 1e-5, normed)
            torch.mm(normed, weight.t(), out=gate_up)
            silu_mul.silu_mul(gate_up, gated)

        theirs.append(down if what == _DOWN else gate)
    us, other_us = bench.median_ms(ours) * 1e3, bench.median_ms(theirs) * 1e3
    note = f"{num_bytes / us / 1e3:.0f} GB/s; limit: torch's product and our kernels about it"
    bench.emit(Row(bench.task, us, "us", other_us, other_us / us, note=note))


def _eight_bit(bench: Bench, rows: int, kind: torch.dtype) -> None:
    if kind is not torch.int8 and (why := fp8_linear.why_not(bench.device)):
        bench.emit(Row(bench.task, "skipped: no float8", note=why[:160]))
        return
    _beside_bf16(bench, rows, partial(an_eight_bit_product, bench, rows, kind))


def _int4(bench: Bench, rows: int) -> None:
    _beside_bf16(bench, rows, partial(a_four_bit_product, bench, rows))


def _beside_bf16(bench: Bench, rows: int, make: Callable[[], Made]) -> None:
    calls, num_bytes = calls_over_sets(make)
    depth, outputs = bench.size(SHAPE.hidden_size, 256), bench.size(2 * SHAPE.mlp_size, 64)
    x = torch.randn(rows, depth, dtype=BF16)
    weights = [torch.randn(outputs, depth, dtype=BF16) for _ in calls]
    ours, theirs = bench.median_ms(calls) * 1e3, bench.median_ms([partial(F.linear, x, one) for one in weights]) * 1e3
    note = f"{num_bytes / ours / 1e3:.0f} GB/s; of bf16's time"
    bench.emit(Row(bench.task, ours, "us", theirs, theirs / ours, note=note))
