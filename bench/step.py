"""A decode step beside its parts: the whole step, its matrix products alone, and what reading its memory must take.

    python -m bench.step [--model DIR] [--batch 1 16] [--context 160 2048] [--runs 15] [--out FILE]

For every type of weights and of KV cache. `products` are the same matrix products one after another through the same
kernels, with nothing between them. `memory` is the bytes of weights and of KV that the step reads, by how fast both
cores read: no step is faster. Medians; the parts are interleaved with the step. The whole pool is written beforehand.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from bench.memory import read_speed, weight_bytes
from bench.model import make_model
from engine.batch import Batch, Chunk
from engine.cache import KVCache
from engine.checkpoint import ModelFolder
from engine.kernels.threads import share_cores
from engine.models.decoder import Decoder
from engine.profile import Kind, made_up
from engine.runner import Runner, load_decoder

BLOCK_TOKENS = 16
SETTINGS = ((False, "float32"), (False, "float16"), (False, "int8"), (True, "float32"), (True, "int8"))
"""Whether weights are int8, and the type of KV."""
Row = dict[str, str | float]


def step_rows(model: Path, *, quantize: bool, kv: str, kinds: list[Kind], runs: int) -> list[Row]:
    """One row for each kind, all of them of one token a sequence. Times in ms."""
    runner = _runner(model, quantize=quantize, kv=kv, num_blocks=max(_num_blocks(kind) for kind in kinds))
    step_bytes = weight_bytes(runner.decoder.spec, bytes_per_weight=1 if quantize else 4)
    position_bytes = runner.cache.block_bytes / BLOCK_TOKENS
    memory = torch.ones(1 << 16, 1024)  # 256 MiB
    rows: list[Row] = []
    for kind in kinds:
        batch, context = kind.num_sequences, kind.context + 1
        step = partial(_step, runner, made_up(kind, BLOCK_TOKENS))
        whole_ms, products_ms = _interleaved(step, partial(_products, runner.decoder, batch), runs)
        memory_ms = (step_bytes + batch * context * position_bytes) / read_speed(memory) * 1e3
        rows.append(
            {
                "weights": "int8" if quantize else "float32",
                "KV": kv,
                "batch": batch,
                "context": context,
                "step ms": whole_ms,
                "products ms": products_ms,
                "step / products": whole_ms / products_ms,
                "memory ms": memory_ms,
                "step / memory": whole_ms / memory_ms,
            }
        )
    return rows


def _runner(model: Path, *, quantize: bool, kv: str, num_blocks: int) -> Runner:
    """Compiled, with a pool that was written, and with the machine's cores."""
    decoder = load_decoder(ModelFolder.open(model), quantize=quantize)
    runner = Runner(decoder, KVCache(decoder.spec, num_blocks, BLOCK_TOKENS, dtype=kv))
    runner.warm_up()
    share_cores()
    runner.cache.write_ones(num_blocks)
    return runner


def _num_blocks(kind: Kind) -> int:
    """Of all its sequences."""
    return kind.num_sequences * kind.num_blocks(BLOCK_TOKENS)


def _step(runner: Runner, chunks: list[Chunk]) -> None:
    runner(Batch.build(chunks, BLOCK_TOKENS))


def _products(decoder: Decoder, batch: int) -> None:
    spec = decoder.spec
    hidden, query, mlp = (torch.ones(batch, n) for n in (spec.hidden_size, spec.query_size, spec.mlp_size))
    for layer in decoder.layers:
        layer.qkv(hidden)
        layer.output(query)
        layer.gate_up(hidden)
        layer.down(mlp)
    decoder.head(hidden)


def _interleaved(first: Callable[[], None], second: Callable[[], None], runs: int) -> tuple[float, float]:
    """Median times in ms."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(runs + 3):
        for function, found in zip((first, second), times, strict=True):
            began = time.perf_counter()
            function()
            if number >= 3:
                found.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times[0]), statistics.median(times[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder; default: random weights of the 160m shape")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--context", type=int, nargs="+", default=[160, 2048])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    args = parser.parse_args()
    kinds = [Kind(1, context - 1, batch) for batch in args.batch for context in args.context]
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
        model = args.model or make_model(Path(folder) / "160m", "160m")
        rows: list[Row] = []
        for quantize, kv in SETTINGS:
            found = step_rows(model, quantize=quantize, kv=kv, kinds=kinds, runs=args.runs)
            if not rows:
                print(f"| {' | '.join(found[0])} |\n{'|---' * len(found[0])}|")
            for row in found:
                cells = (f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values())
                print(f"| {' | '.join(cells)} |", flush=True)
            rows += found
    if args.out is not None:
        args.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
