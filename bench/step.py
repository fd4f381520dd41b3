"""A decode step beside its parts: the whole step, its matrix products alone, and what reading its memory must take.

    python -m bench.step [--model DIR] [--batch 1 16] [--context 160 2048] [--runs 15] [--out FILE]

For every type of weights and of KV cache. `products` are the same matrix products one after another through the same
kernels, with nothing between them. `memory` is the bytes of weights and of KV that the step reads, by how fast both
cores read: no step is faster. Medians; the parts are interleaved with the step.
"""

import argparse
import json
import statistics
import tempfile
import time
from array import array
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from bench.model import make_model
from engine.batch import Batch, Chunk
from engine.cache import KVCache
from engine.checkpoint import ModelFolder
from engine.kernels.threads import share_cores
from engine.models.decoder import Decoder
from engine.models.spec import ModelSpec
from engine.runner import Runner, load_decoder
from engine.sequence import SamplingParams, Sequence, SequenceId

BLOCK_TOKENS = 16
SETTINGS = ((False, "float32"), (False, "float16"), (False, "int8"), (True, "float32"), (True, "int8"))
"""Whether weights are int8, and the type of KV."""
Row = dict[str, str | float]


def step_rows(model: Path, *, quantize: bool, kv: str, cases: list[tuple[int, int]], runs: int) -> list[Row]:
    """One row for each `(batch, context)`. Times in ms."""
    decoder = load_decoder(ModelFolder.open(model), quantize=quantize)
    spec = decoder.spec
    num_blocks = max(batch * -(-context // BLOCK_TOKENS) for batch, context in cases)
    cache = KVCache(spec, num_blocks, BLOCK_TOKENS, dtype=kv)
    runner = Runner(decoder, cache)
    runner.warm_up()
    share_cores()
    weight_bytes = _weight_bytes(spec, quantize=quantize)
    rows: list[Row] = []
    for batch, context in cases:
        sequences = _sequences(batch, context)
        chunks = [Chunk(sequence, context - 1, context) for sequence in sequences]
        whole, parts = _interleaved(partial(_step, runner, chunks), partial(_products, decoder, batch), runs)
        kv_bytes = batch * context * cache.size_bytes / (num_blocks * BLOCK_TOKENS)
        memory = (weight_bytes + kv_bytes) / _read_speed() * 1e3
        rows.append(
            {
                "weights": "int8" if quantize else "float32",
                "KV": kv,
                "batch": batch,
                "context": context,
                "step ms": whole,
                "products ms": parts,
                "step / products": whole / parts,
                "memory ms": memory,
                "step / memory": whole / memory,
            }
        )
    return rows


def _step(runner: Runner, chunks: list[Chunk]) -> None:
    runner(Batch.build(chunks, BLOCK_TOKENS, runner.device))


def _products(decoder: Decoder, batch: int) -> None:
    spec = decoder.spec
    hidden, query, mlp = (torch.ones(batch, n) for n in (spec.hidden_size, spec.query_size, spec.mlp_size))
    for layer in decoder.layers:
        layer.qkv(hidden)
        layer.output(query)
        layer.gate_up(hidden)
        layer.down(mlp)
    decoder.head(hidden)


def _sequences(batch: int, context: int) -> list[Sequence]:
    per_sequence = -(-context // BLOCK_TOKENS)
    found = []
    for number in range(batch):
        ids = [(number * 7 + i) % 30_000 for i in range(context)]
        sequence = Sequence.of(SequenceId(str(number)), ids, SamplingParams(max_tokens=1, seed=0))
        sequence.blocks = array("i", range(number * per_sequence, (number + 1) * per_sequence))
        found.append(sequence)
    return found


def _weight_bytes(spec: ModelSpec, *, quantize: bool) -> int:
    """Of everything that is multiplied with."""
    hidden, query, kv, mlp = spec.hidden_size, spec.query_size, spec.kv_size, spec.mlp_size
    layer = (query + 2 * kv) * hidden + hidden * query + 3 * mlp * hidden
    return (spec.num_layers * layer + spec.vocab_size * hidden) * (1 if quantize else 4)


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


def _read_speed() -> float:
    """Bytes per second: the best of several matrix-vector products over 256 MiB."""
    memory, vector, best = torch.ones(1 << 16, 1024), torch.ones(1024), float("inf")
    for _ in range(6):
        began = time.perf_counter()
        torch.mv(memory, vector)
        best = min(best, time.perf_counter() - began)
    return memory.nbytes / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder; default: random weights of the 160m shape")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--context", type=int, nargs="+", default=[160, 2048])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    args = parser.parse_args()
    cases = [(batch, context) for batch in args.batch for context in args.context]
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
        model = args.model or make_model(Path(folder) / "160m", "160m")
        rows: list[Row] = []
        for quantize, kv in SETTINGS:
            found = step_rows(model, quantize=quantize, kv=kv, cases=cases, runs=args.runs)
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
