"""Each kernel's time, for the shapes of Llama-3.1-8B, beside the card's limits or what torch takes."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from bench.gpu_parts import kernels_of_ops
from bench.gpu_parts.bench import Bench, Call, Task
from bench.gpu_parts.inputs import queries_of_rows, random_paged
from bench.gpu_parts.limits import COPY
from bench.gpu_parts.report import Row
from bench.gpu_parts.sdpa import flash_ms
from bench.gpu_parts.shapes import LLAMA_8B, attention_flops
from engine.kernels.gpu import decode_attention as decode
from engine.kernels.gpu import prefill_attention as prefill
from engine.kernels.gpu.fp8_linear import why_not
from engine.kernels.gpu.runs import Workspace, choose_splits

DECODES = ((64, 4096), (1, 32768), (256, 1024))
"""Sequences, positions of each"""
PREFILLS = ((2048, 0), (8192, 0), (2048, 6144), (2048, 30720))
"""Tokens, cached positions before them"""
BLOCK_TOKENS = 16
_H, _K, _D = LLAMA_8B.num_heads, LLAMA_8B.num_kv_heads, LLAMA_8B.head_dim
_TARGET_SHARE, _TARGET_OF_FLASH = 0.85, 0.60


def tasks(bench: Bench) -> Iterator[Task]:
    for decoding in DECODES:
        yield Task(f"decode attention {decoding[0]} x {decoding[1]}", partial(_decode, bench, *decoding))
    if not why_not(bench.device):
        sequences, context = DECODES[0]
        name = f"decode attention {sequences} x {context}, KV e4m3"
        yield Task(name, partial(_decode, bench, sequences, context, in_float8=True))
    for tokens, prefix in PREFILLS:
        yield Task(name_of_prefill(tokens, prefix), partial(_prefill, bench, tokens, prefix))
    yield from kernels_of_ops.tasks(bench)


def name_of_prefill(tokens: int, prefix: int) -> str:
    return f"prefill attention {tokens}" + (f" behind {prefix}" if prefix else "")


def decode_calls(
    bench: Bench, num_sequences: int, context: int, *, in_float8: bool = False
) -> tuple[list[Call], float]:
    """One call a layer of a pool of several, so that none finds its keys in the cache; and the bytes of one call."""
    sequences, positions = bench.size(num_sequences, min(num_sequences, 2)), bench.size(context, 40)
    call_bytes = 2 * (1 if in_float8 else 2) * sequences * positions * _K * _D
    layers = max(1, min(8, (1 << 30) // call_bytes, bench.free_bytes() // 2 // call_bytes))
    layers = bench.size(max(layers, 2), 2)
    paged = [positions] * sequences, layers, _K, _D, BLOCK_TOKENS, torch.bfloat16
    at = random_paged(*paged, in_float8=in_float8)
    queries = queries_of_rows(sequences, _H, _K, _D, torch.bfloat16)
    out = torch.empty(sequences, _H, _D, dtype=torch.bfloat16)
    splits = choose_splits(sequences, _K, positions, bench.num_cores())
    workspace = Workspace.allocate(sequences * splits, _H, _D, bench.device)

    def call(layer: int) -> None:
        decode.decode_attention(queries, at.pool, layer, at.block_tables, at.context_lens, out, workspace, splits)

    return [partial(call, layer) for layer in range(layers)], call_bytes


def _decode(bench: Bench, num_sequences: int, context: int, *, in_float8: bool = False) -> None:
    calls, call_bytes = decode_calls(bench, num_sequences, context, in_float8=in_float8)
    ms = bench.median_ms(calls)
    speed = call_bytes / ms / 1e6
    limit = bench.limits.get(COPY)
    bench.emit(
        Row(
            bench.task,
            speed,
            "GB/s",
            limit,
            speed / limit if limit else None,
            least_share=_TARGET_SHARE if (num_sequences, context) == DECODES[0] and not in_float8 else None,
            note=f"{ms * 1e3:.1f} us; of copy bandwidth",
        )
    )


def _sizes(bench: Bench, num_tokens: int, prefix: int) -> tuple[int, int]:
    return bench.size(num_tokens, 8), bench.size(prefix, min(prefix, 16))


def prefill_call(bench: Bench, num_tokens: int, prefix: int) -> Call:
    """With the tile that is chosen now."""
    tokens, before = _sizes(bench, num_tokens, prefix)
    at = random_paged([before + tokens], 1, _K, _D, BLOCK_TOKENS, torch.bfloat16)
    queries = queries_of_rows(tokens, _H, _K, _D, torch.bfloat16)
    starts = np.array([0, tokens], np.int32)
    lengths = np.array([before + tokens], np.int32)
    tiles = torch.tensor(prefill.list_tiles(starts, lengths, 0, _H // _K, prefill.choose_tile(at.pool).block_m))
    out, query_starts = torch.empty(tokens, _H, _D, dtype=torch.bfloat16), torch.tensor(starts)

    def call() -> None:
        prefill.prefill_attention(queries, at.pool, 0, at.block_tables, query_starts, at.context_lens, tiles, out)

    return call


def _prefill(bench: Bench, num_tokens: int, prefix: int) -> None:
    ms = bench.median_ms([prefill_call(bench, num_tokens, prefix)])
    flops = attention_flops(_H, _D, *_sizes(bench, num_tokens, prefix))
    theirs, how = flash_ms(bench, _H, _D, *_sizes(bench, num_tokens, prefix))
    bench.emit(
        Row(
            bench.task,
            flops / ms / 1e9,
            "TFLOP/s",
            flops / theirs / 1e9,
            theirs / ms,
            least_share=_TARGET_OF_FLASH,
            note=f"{ms * 1e3:.0f} us; of {how}",
        )
    )
