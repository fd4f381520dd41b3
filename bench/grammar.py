"""What grammars add to a decode step: masks for every sequence, their application to the logits, and taking tokens in.

    python -m bench.grammar [--tokenizer FILE] [--batch 16] [--context 160] [--steps 300] [--out FILE]

Every sequence of the batch writes a random answer in the grammar, and begins another when it is complete. `mask` is
computing the masks, `keep` applying them, `take` telling the grammars which tokens were drawn; medians, and the 99th
percentile of all three together. `step` is the median of a step of the 160m shape in float32 beside them, its sampler
included, with nobody held to anything. The tokenizer decides how long a mask takes: the demonstration model's has 4,096
tokens, and another tokenizer.json (or .json.gz) of up to 32,000 can be given.
"""

import argparse
import gzip
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from bench.model import make_model
from engine.batch import Batch
from engine.cache import KVCache
from engine.checkpoint import ModelFolder
from engine.grammar import Grammars, GrammarState
from engine.kernels.keep import keep
from engine.kernels.threads import share_cores
from engine.masks import Masks
from engine.profile import Kind, made_up
from engine.runner import Runner, load_decoder
from engine.sampler import Sampler
from engine.sequence import SamplingParams, Sequence, SequenceId
from frontend.schemas.places import no_documents
from frontend.schemas.writer import write
from frontend.tags import WHITE_SPACE

BLOCK_TOKENS = 16
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "email": {"type": "string", "format": "email"},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 8},
        "address": {
            "type": "object",
            "properties": {
                "street": {"type": "string"},
                "city": {"type": "string"},
                "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
            },
            "required": ["street", "city"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "email", "tags", "address"],
    "additionalProperties": False,
}
GRAMMARS = {
    "schema": write(PERSON, WHITE_SPACE, no_documents),
    "any JSON object": write({"type": "object"}, WHITE_SPACE, no_documents),
    "regex": "start: /([a-z]{1,12} ){3,30}[a-z]+[.]/",
    "free text": r"start: /(.|\n)*/",
}
Row = dict[str, str | float]


class Answers:
    """A batch of answers that are written at random."""

    def __init__(self, grammars: Grammars, text: str, batch: int) -> None:
        self._grammars = grammars
        self._text = text
        self._rng = random.Random(0)
        params = SamplingParams(max_tokens=1 << 20, seed=0)
        self.sequences = [Sequence.of(SequenceId(str(row)), [0], params) for row in range(batch)]
        for sequence in self.sequences:
            sequence.constraint = grammars.start(text)

    def draw(self, masks: np.ndarray) -> list[int]:
        """A token for each, of those that may follow."""
        bits = np.unpackbits(masks.view(np.uint8), axis=1, bitorder="little")
        return [int(self._rng.choice(np.flatnonzero(row))) for row in bits]

    def take(self, tokens: list[int]) -> list[int]:
        """Tell the grammars; the rows whose answers are complete."""
        ended = []
        for row, (sequence, token) in enumerate(zip(self.sequences, tokens, strict=True)):
            assert isinstance(sequence.constraint, GrammarState)
            if sequence.constraint.take(token):
                ended.append(row)
        return ended

    def begin_again(self, rows: list[int]) -> None:
        for row in rows:
            self.sequences[row].constraint = self._grammars.start(self._text)


def grammar_row(grammars: Grammars, name: str, text: str, *, batch: int, steps: int, vocab_size: int) -> Row:
    """Times in ms."""
    answers, masks = Answers(grammars, text, batch), Masks()
    logits = np.random.default_rng(0).normal(size=(batch, vocab_size)).astype(np.float32)
    times: list[tuple[float, float, float]] = []
    for step in range(steps + 20):
        began = time.perf_counter()
        allowed = masks(answers.sequences)
        assert allowed is not None
        assert not allowed.dead_ends, allowed.dead_ends
        masked = time.perf_counter()
        keep(logits, allowed.rows, allowed.masks)
        kept = time.perf_counter()
        tokens = answers.draw(allowed.masks)
        drawn = time.perf_counter()
        ended = answers.take(tokens)
        taken = time.perf_counter()
        answers.begin_again(ended)
        if step >= 20:
            times.append((masked - began, kept - masked, taken - drawn))
    columns = [statistics.median(column) * 1e3 for column in zip(*times, strict=True)]
    whole = sorted(sum(parts) * 1e3 for parts in times)
    return {
        "grammar": name,
        "mask ms": columns[0],
        "keep ms": columns[1],
        "take ms": columns[2],
        "all ms": statistics.median(whole),
        "p99 ms": whole[int(len(whole) * 0.99)],
    }


def step_ms(folder: Path, *, batch: int, context: int, runs: int) -> float:
    """The median of a step with its sampler."""
    decoder = load_decoder(ModelFolder.open(folder))
    kind = Kind(1, context - 1, batch)
    num_blocks = kind.num_sequences * kind.num_blocks(BLOCK_TOKENS)
    runner, sampler = Runner(decoder, KVCache(decoder.spec, num_blocks, BLOCK_TOKENS)), Sampler()
    runner.warm_up()
    sampler.warm_up()
    runner.cache.write_ones(num_blocks)
    chunks = made_up(kind, BLOCK_TOKENS)
    times = []
    for _ in range(runs + 3):
        began = time.perf_counter()
        made = Batch.build(chunks, BLOCK_TOKENS)
        sampler(runner(made), made.sampled)
        times.append(time.perf_counter() - began)
    return statistics.median(times[3:]) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json or .json.gz; default: the demonstration model's")
    parser.add_argument("--eos", type=int, nargs="+", default=[2], help="its end-of-text ids")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--context", type=int, default=160)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    args = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as temporary:
        folder = make_model(Path(temporary) / "160m", "160m")
        if args.tokenizer is not None:
            data = args.tokenizer.read_bytes()
            data = gzip.decompress(data) if args.tokenizer.suffix == ".gz" else data
            (folder / "tokenizer.json").write_bytes(data)
        share_cores()
        step = step_ms(folder, batch=args.batch, context=args.context, runs=15)
        vocab_size = load_vocab_size(folder)
        grammars = Grammars(folder, vocab_size, args.eos)
        threads = torch.get_num_threads()
        print(f"{grammars.tokenizer.vocab_size} tokens, batch {args.batch}, {threads} threads; step {step:.1f} ms")
        for name, text in GRAMMARS.items():
            row = grammar_row(grammars, name, text, batch=args.batch, steps=args.steps, vocab_size=vocab_size)
            row |= {"step ms": step, "of a step": float(row["all ms"]) / step}
            if not rows:
                print(f"| {' | '.join(row)} |\n{'|---' * len(row)}|")
            cells = (f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values())
            print(f"| {' | '.join(cells)} |", flush=True)
            rows.append(row)
    if args.out is not None:
        args.out.write_text(json.dumps(rows, indent=1))


def load_vocab_size(folder: Path) -> int:
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    assert isinstance(size, int)
    return size


if __name__ == "__main__":
    main()
