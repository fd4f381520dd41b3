"""Checks of the kernels that neither attend nor look at logits."""

from collections.abc import Callable, Iterator
from functools import partial

import torch

from bench.gpu_parts.bench import Bench, Task
from bench.gpu_parts.errors import SHORT, TOLERANCE, judge, share_unequal, worst_row_error
from bench.gpu_parts.inputs import rope_table
from bench.gpu_parts.report import Row
from bench.gpu_parts.shapes import LLAMA_8B
from engine.kernels import eight_bits
from engine.kernels.gpu import (
    copy_blocks,
    copy_summed,
    fp8_linear,
    int4_linear,
    int8_linear,
    norm,
    quantize,
    rope_cache,
    silu_mul,
    thin_linear,
)

Check = Callable[[Bench, str, torch.dtype], None]
ROUNDED = {torch.bfloat16: 5e-3, torch.float16: 1e-3, torch.float32: 1e-5}
"""Of results that were rounded once."""
_SUMMED = 1e-4
"""Of sums in float32 by a matrix unit, which cuts off where it should round."""
FAST_SUMS = 5e-2
"""Of float8 products whose sums stay in the tensor cores: some 14 bits, cut off with each 32 of thousands of inputs."""
_EPS = 1e-5


def tasks(bench: Bench, dtypes: tuple[torch.dtype, ...]) -> Iterator[Task]:
    checks: dict[str, Check] = {
        "rms_norm": _norm,
        "rms_norm with residual": partial(_norm, with_delta=True),
        "rope_cache": _rope,
        "rope_cache with head norms": partial(_rope, with_norms=True),
        "silu_mul": _silu_mul,
        "quantize_rows int8": partial(_quantize, to=torch.int8),
        "quantize_rows e4m3": partial(_quantize, to=torch.float8_e4m3fn),
        "copy_blocks": _copy,
        "gather_heads, scatter_heads": _heads,
        "int4_linear, 1 row": partial(_int4, num_rows=1),
        "int4_linear, 33 rows": partial(_int4, num_rows=33),
        "int4_linear, 200 rows": partial(_int4, num_rows=200),
        "int4_linear in groups of 32, 33 rows": partial(_int4, num_rows=33, group=32),
        "int8_linear, 1 row": partial(_eight_bit, num_rows=1),
        "int8_linear, 33 rows": partial(_eight_bit, num_rows=33),
        "int8_linear, 200 rows": partial(_eight_bit, num_rows=200),
        "thin_linear, 1 row": partial(_thin, num_rows=1),
        "thin_linear, 13 rows": partial(_thin, num_rows=13),
    }
    yield Task("copy_summed", partial(_copy_summed, bench, "copy_summed"))
    for name, check in checks.items():
        for dtype in dtypes:
            full = f"{name} {SHORT[dtype]}"
            yield Task(full, partial(check, bench, full, dtype))
    to = torch.float32 if bench.device.type == "cpu" else torch.bfloat16  # the one that a GPU has
    for rows, depth in ((1, 2048), (33, 2048), (200, 2048), (1, LLAMA_8B.mlp_size), (64, LLAMA_8B.mlp_size)):
        name = f"fp8_linear, {rows} row{'' if rows == 1 else 's'} of {depth}"
        yield Task(name, partial(_eight_bit, bench, name, to, num_rows=rows, depth=depth, kind=torch.float8_e4m3fn))


def _norm(bench: Bench, name: str, dtype: torch.dtype, *, with_delta: bool = False) -> None:
    for size in (4096, 2304) if not bench.is_dry else (96,):
        hidden, weight = torch.randn(bench.size(300, 3), size, dtype=dtype), torch.randn(size, dtype=dtype)
        delta = torch.randn_like(hidden) if with_delta else None
        exact, out = hidden.clone(), torch.full_like(hidden, torch.nan)
        norm.rms_norm(hidden, delta, weight, _EPS, out)
        expected = norm.rms_norm_reference(exact, delta, weight, _EPS)
        judge(bench, f"{name}, {size} wide", worst_row_error(out, expected), ROUNDED[dtype])
        if with_delta:
            judge(bench, f"{name}, {size} wide: the sum", worst_row_error(hidden, exact), ROUNDED[dtype])


def _rope(bench: Bench, name: str, dtype: torch.dtype, *, with_norms: bool = False) -> None:
    for num_rows, num_heads, kv_heads, head_dim in ((7, 32, 8, 128), (300, 14, 2, 64), (300, 32, 8, 96)):
        rows = bench.size(num_rows, 3)
        qkv = torch.randn(rows, (num_heads + 2 * kv_heads) * head_dim, dtype=dtype)
        pool = torch.full((rows // 16 + 3, 2, 2, kv_heads, 16, head_dim), 7.0, dtype=dtype)
        slots = torch.randperm(len(pool) * 16)[:rows]
        slots[0] = -1
        table, positions = rope_table(2000, head_dim), torch.randint(0, 2000, (rows,))
        norms = torch.randn(2, head_dim, dtype=dtype) if with_norms else None
        exact, exact_pool = qkv.clone(), pool.clone()
        rope_cache.rope_cache(qkv, table, positions, slots, pool, 1, norms, _EPS)
        rope_cache.rope_cache_reference(exact, table, positions, slots, exact_pool, 1, norms, _EPS)
        heads = (rows, num_heads + 2 * kv_heads, head_dim)
        error = max(worst_row_error(qkv.view(heads), exact.view(heads)), worst_row_error(pool, exact_pool))
        judge(bench, f"{name}, {num_heads} + {kv_heads} heads of {head_dim}", error, TOLERANCE[dtype])


def _silu_mul(bench: Bench, name: str, dtype: torch.dtype) -> None:
    gate_up = 3 * torch.randn(bench.size(300, 3), 2 * bench.size(14336, 96), dtype=dtype)
    out = torch.full((len(gate_up), gate_up.shape[1] // 2), torch.nan, dtype=dtype)
    silu_mul.silu_mul(gate_up, out)
    judge(bench, name, worst_row_error(out, silu_mul.silu_mul_reference(gate_up)), ROUNDED[dtype])


def _quantize(bench: Bench, name: str, dtype: torch.dtype, *, to: torch.dtype) -> None:
    x = torch.randn(bench.size(300, 4), bench.size(14336, 100), dtype=dtype)
    x[1] = 0
    values, scales = torch.full(x.shape, 77, dtype=torch.int8).view(to), torch.full((len(x),), torch.nan)
    quantize.quantize_rows(x, values, scales)
    expected, expected_scales = quantize.quantize_rows_reference(x, to)
    unequal = share_unequal(values.float(), expected.float())
    judge(bench, name, unequal, 1e-5, "share of values unequal")
    judge(bench, f"{name}: scales", worst_row_error(scales[:, None], expected_scales[:, None]), 1e-6)


def _copy(bench: Bench, name: str, dtype: torch.dtype) -> None:
    shape = (bench.size(40, 4), 3, 2, 4, 16, 64)
    source, target = torch.randn(shape, dtype=dtype), torch.full(shape, 7.0, dtype=dtype)
    blocks, slots = torch.randperm(shape[0])[: shape[0] // 2], torch.randperm(shape[0])[: shape[0] // 2]
    slots[0] = -1
    expected = target.clone()
    copy_blocks.copy_blocks(source, blocks, target, slots)
    copy_blocks.copy_blocks_reference(source, blocks, expected, slots)
    judge(bench, name, share_unequal(target, expected), 0.0, "share of values unequal")


def _copy_summed(bench: Bench, name: str) -> None:
    size, count = bench.size(32768, 100), bench.size(16, 2)
    source, target = torch.randint(-(2**63), 2**63 - 1, (2 * size * count,)), torch.full((size * count,), 7)
    begins, starts = 2 * size * torch.randperm(count), size * torch.randperm(count)
    sizes = torch.randint(0, size, (count,))
    sums, expected, expected_sums = torch.zeros(count, dtype=torch.int64), target.clone(), torch.ones(count).long()
    copy_summed.copy_summed(source, begins, target, starts, sizes, sums)
    copy_summed.copy_summed_reference(source, begins, expected, starts, sizes, expected_sums)
    judge(bench, name, share_unequal(target, expected), 0.0, "share of words unequal")
    judge(bench, f"{name}: sums", share_unequal(sums, expected_sums), 0.0, "share of sums unequal")


def _heads(bench: Bench, name: str, dtype: torch.dtype) -> None:
    pool = torch.randn(bench.size(40, 4), 3, 2, 8, 16, 64, dtype=dtype)
    blocks = torch.randperm(len(pool))[: len(pool) // 2]
    packed = torch.full((len(blocks), 3, 2, 4, 16, 64), torch.nan, dtype=dtype)
    expected = packed.clone()
    copy_blocks.gather_heads(pool, blocks, 4, packed)
    copy_blocks.gather_heads_reference(pool, blocks, 4, expected)
    judge(bench, f"{name}: gathered", share_unequal(packed, expected), 0.0, "share of values unequal")
    scattered, expected = torch.zeros_like(pool), torch.zeros_like(pool)
    copy_blocks.scatter_heads(packed, scattered, blocks, 2)
    copy_blocks.scatter_heads_reference(packed, expected, blocks, 2)
    judge(bench, f"{name}: scattered", share_unequal(scattered, expected), 0.0, "share of values unequal")


def _int4(bench: Bench, name: str, dtype: torch.dtype, *, num_rows: int, group: int = int4_linear.GROUP) -> None:
    depth, outputs, rows = bench.size(2048, 256), bench.size(1000, 40), bench.size(num_rows, min(num_rows, 3))
    weight = random_int4(depth, outputs, dtype, group)
    x, bias = torch.randn(rows, depth, dtype=dtype), torch.randn(outputs, dtype=dtype)
    y = torch.full((rows, outputs), torch.nan, dtype=dtype)
    int4_linear.int4_linear(x, weight, bias, y)
    judge(bench, name, worst_row_error(y, int4_linear.int4_linear_reference(x, weight, bias)), TOLERANCE[dtype])


def _eight_bit(
    bench: Bench, name: str, dtype: torch.dtype, *, num_rows: int, depth: int = 2048, kind: torch.dtype = torch.int8
) -> None:
    """Products of numbers that are rounded already, with and without a bias."""
    if kind is not torch.int8 and (why := fp8_linear.why_not(bench.device)):
        bench.emit(Row(name, "skipped: no float8", note=why[:160]))
        return
    size, outputs, rows = bench.size(depth, 256), bench.size(1008, 48), bench.size(num_rows, min(num_rows, 3))
    x, weight = (eight_bits.quantize_outputs(torch.randn(count, size), kind) for count in (rows, outputs))
    bias = torch.randn(outputs, dtype=dtype)
    is_int8 = kind is torch.int8
    multiply = int8_linear.int8_linear if is_int8 else fp8_linear.fp8_linear
    for one in (None, bias):
        y = torch.full((rows, outputs), torch.nan, dtype=dtype)
        multiply(*x, *weight, one, y)
        tolerance = ROUNDED[dtype] if is_int8 else FAST_SUMS
        expected = eight_bits.product_reference(*x, *weight, one, dtype)
        with_bias = "" if one is None else ", with a bias"
        judge(bench, f"{name}{with_bias}", worst_row_error(y, expected), tolerance)
        if not is_int8 and bench.device.type == "cuda":
            _ways_of_fp8(bench, f"{name}{with_bias}", (*x, *weight, one), expected)


def _ways_of_fp8(
    bench: Bench,
    name: str,
    product: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None],
    expected: torch.Tensor,
) -> None:
    """Whether cuBLAS scales a product of this size, and whether what takes its place is right."""
    y = torch.full_like(expected, torch.nan)
    try:
        fp8_linear.scaled_within(*product, y)
    except RuntimeError as error:
        bench.emit(Row(f"{name}: scaled by cuBLAS", "refused", note=str(error).splitlines()[0][:160]))
    fp8_linear.scaled_behind(*product, y.fill_(torch.nan))
    judge(bench, f"{name}: scaled behind it", worst_row_error(y, expected), FAST_SUMS)


def _thin(bench: Bench, name: str, dtype: torch.dtype, *, num_rows: int) -> None:
    """Products, what they add to the residual stream, and those of its norm."""
    size, outputs, rows = bench.size(4096, 96), bench.size(1000, 40), bench.size(num_rows, min(num_rows, 3))
    for tiles, where in ((thin_linear.NARROW, name), (thin_linear.WIDE, f"{name}, wide")):
        product = random_product(rows, outputs, size, dtype)
        y = torch.full((rows, outputs), torch.nan)
        thin_linear.thin_linear(*product, y, tiles.plain)
        expected = thin_linear.thin_linear_reference(*product)
        judge(bench, where, worst_row_error(y, expected), _SUMMED)

        stream, product = random_stream(rows, size, tiles), random_product(rows, size, bench.size(512, 40), dtype)
        expected = stream.hidden + thin_linear.thin_linear_reference(*product)
        thin_linear.linear_into(*product, stream)
        judge(bench, f"{where}: added", worst_row_error(stream.hidden, expected), _SUMMED)

        norm = thin_linear.Norm(torch.randn(size, dtype=dtype), _EPS)
        _, weight, bias = random_product(rows, outputs, size, dtype)
        for gated in (False, True):
            y = torch.full((rows, outputs // (2 if gated else 1)), torch.nan, dtype=dtype)
            thin_linear.normed_linear(stream, norm, weight, bias, y, gated=gated)
            expected = thin_linear.thin_linear_reference(stream.hidden, weight, bias, norm, gated=gated)
            what = f"{where}: of a norm{', gated' if gated else ''}"
            judge(bench, what, worst_row_error(y, expected), TOLERANCE[dtype])


def random_product(
    rows: int, outputs: int, depth: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, weights and a bias; the products are about as large as their rows."""
    weight = (torch.randn(outputs, depth) * depth**-0.5).to(dtype)
    return torch.randn(rows, depth, dtype=dtype), weight, torch.randn(outputs, dtype=dtype)


def random_stream(rows: int, size: int, tiles: thin_linear.Tiles) -> thin_linear.Stream:
    """A residual stream whose squares are known, because something was added to it: nothing."""
    squares = torch.full((thin_linear.MOST_ROWS * tiles.num_parts(size),), torch.nan)
    stream = thin_linear.Stream(torch.randn(rows, size), squares, tiles)
    nothing = torch.zeros(rows, 64, dtype=torch.float16), torch.zeros(size, 64, dtype=torch.float16)
    thin_linear.linear_into(*nothing, None, stream)
    return stream


def random_int4(depth: int, outputs: int, dtype: torch.dtype, group: int = int4_linear.GROUP) -> int4_linear.Int4Weight:
    groups = depth // group
    q = torch.randint(0, 16, (depth, outputs), dtype=torch.uint8)
    zeros = torch.randint(0, 16, (groups, outputs), dtype=torch.uint8)
    return int4_linear.pack(q, (torch.rand(groups, outputs) * 0.01 + 1e-3).to(dtype), zeros)
