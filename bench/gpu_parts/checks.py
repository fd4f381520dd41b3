"""Every kernel against its torch twin in float64, on random inputs; outputs and memory of nobody are NaN before.

In a dry run nothing is multiplied in bfloat16: Triton's interpreter multiplies its bits as integers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from bench.gpu_parts import checks_of_ops, checks_of_sampling
from bench.gpu_parts.bench import Bench, Task
from bench.gpu_parts.errors import SHORT, TOLERANCE, judge, worst_row_error
from bench.gpu_parts.inputs import Paged, queries_of_rows, random_paged
from engine.kernels.gpu import decode_attention as decode
from engine.kernels.gpu import prefill_attention as prefill
from engine.kernels.gpu.fp8_linear import why_not
from engine.kernels.gpu.runs import Workspace, choose_splits

LAYERS, LAYER = 2, 1


@dataclass(frozen=True, slots=True)
class _Shape:
    head_dim: int = 128
    group: int = 4
    num_kv_heads: int = 8
    block_tokens: int = 16
    window: int | None = None
    splits: int | None = None
    """None: as many as are chosen"""
    in_float8: bool = False
    """Whether keys and values are"""

    def __str__(self) -> str:
        window = f", window {self.window}" if self.window else ""
        splits = "" if self.splits is None else f", {self.splits} splits"
        heads = f"{self.group} x {self.num_kv_heads} heads"
        kept = ", KV e4m3" if self.in_float8 else ""
        return f"D {self.head_dim}, {heads}, blocks of {self.block_tokens}{window}{splits}{kept}"


_SHAPES = (
    _Shape(),
    _Shape(splits=1),
    _Shape(in_float8=True),
    _Shape(64, 4, 8, 32, 300, 5),
    _Shape(96, 3, 2, 8),
    _Shape(256, 8, 1, 16, 1000),
)
_CONTEXTS = [1, 0, 16, 700, 1500, 5000, 129]
_CHUNKS = [(0, 1), (0, 513), (1024, 1500), (255, 257), (3000, 3600), (7, 150)]
_TINY_CONTEXTS = [1, 0, 150]
_TINY_CHUNKS = [(0, 1), (30, 70)]


def tasks(bench: Bench) -> Iterator[Task]:
    dtypes = (torch.float16,) if bench.is_dry else (torch.bfloat16, torch.float16)
    why = why_not(bench.device)
    for shape in _SHAPES[: bench.size(len(_SHAPES), 4)]:
        if shape.in_float8 and why:
            continue  # said by the checks of its products
        for dtype in dtypes:
            name = f"{SHORT[dtype]} {shape}"
            yield _task(f"decode_attention {name}", _decode, bench, shape, dtype)
            if shape.splits != 1:
                yield _task(f"prefill_attention {name}", _prefill, bench, shape, dtype)
    yield from checks_of_ops.tasks(bench, dtypes)
    yield from checks_of_sampling.tasks(bench)


def _task(name: str, check, bench: Bench, shape: _Shape, dtype: torch.dtype) -> Task:  # type: ignore[no-untyped-def]
    return Task(name, lambda: check(bench, name, shape, dtype))


def _paged(shape: _Shape, lengths: list[int], dtype: torch.dtype) -> Paged:
    sizes = shape.num_kv_heads, shape.head_dim, shape.block_tokens
    return random_paged(lengths, LAYERS, *sizes, dtype, poisoned=True, in_float8=shape.in_float8)


def _decode(bench: Bench, name: str, shape: _Shape, dtype: torch.dtype) -> None:
    lengths = _TINY_CONTEXTS if bench.is_dry else _CONTEXTS
    at = _paged(shape, lengths, dtype)
    num_heads = shape.num_kv_heads * shape.group
    queries = queries_of_rows(len(lengths), num_heads, shape.num_kv_heads, shape.head_dim, dtype)
    splits = shape.splits or choose_splits(len(lengths), shape.num_kv_heads, max(lengths), bench.num_cores())
    workspace = Workspace.allocate(len(lengths) * splits, num_heads, shape.head_dim, bench.device)
    for partial in (workspace.totals, workspace.peaks, workspace.weights):
        partial.fill_(torch.nan)
    out = torch.full(queries.shape, torch.nan, dtype=dtype)
    decode.decode_attention(
        queries, at.pool, LAYER, at.block_tables, at.context_lens, out, workspace, splits, shape.window
    )
    expected = decode.decode_attention_reference(
        queries, at.pool.to(dtype), LAYER, at.block_tables, at.context_lens, shape.window
    )
    judge(bench, name, worst_row_error(out, expected), TOLERANCE[dtype])


def _prefill(bench: Bench, name: str, shape: _Shape, dtype: torch.dtype) -> None:
    chunks = _TINY_CHUNKS if bench.is_dry else _CHUNKS
    lengths = [end for _, end in chunks]
    at = _paged(shape, lengths, dtype)
    starts = np.cumsum([0, *(end - start for start, end in chunks)]).astype(np.int32)
    num_heads = shape.num_kv_heads * shape.group
    queries = queries_of_rows(int(starts[-1]), num_heads, shape.num_kv_heads, shape.head_dim, dtype)
    block_m = prefill.choose_tile(at.pool).block_m
    tiles = prefill.list_tiles(starts, np.array(lengths, np.int32), 0, shape.group, block_m)
    out = torch.full(queries.shape, torch.nan, dtype=dtype)
    rows = torch.tensor(starts), at.context_lens
    prefill.prefill_attention(queries, at.pool, LAYER, at.block_tables, *rows, torch.tensor(tiles), out, shape.window)
    exact = at.pool.to(dtype).nan_to_num(0.0)  # the reference multiplies what is hidden by 0
    expected = prefill.prefill_attention_reference(queries, exact, LAYER, at.block_tables, *rows, shape.window)
    judge(bench, name, worst_row_error(out, expected), TOLERANCE[dtype])
