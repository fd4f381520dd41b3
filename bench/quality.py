"""What int8 weights and a smaller KV cache cost in quality, on real text: perplexity, and agreement with float32.

    python -m bench.quality TEXT --model DIR [--model DIR ...] [--llama-perplexity PROGRAM --gguf F32 Q8_0 ...]

The measure is llama.cpp's: TEXT in pieces of `--context` tokens, each beginning with the model's first token; the
second half of a piece is scored, every token given all that lie before it in the piece. Here the first half is computed
as a prompt and the second token by token, as served text is. Beside perplexity: how often the likeliest token is
float32's, and the mean Kullback-Leibler divergence from float32's distribution.

With `--llama-perplexity`, the same text and pieces through llama.cpp's own program, once for each GGUF file, the first
of which is what the others are compared with.
"""

import argparse
import json
import re
import subprocess
import tempfile
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from cli.load.prompts import open_text
from engine.batch import Batch, Chunk
from engine.cache import KVCache
from engine.checkpoint import ModelFolder
from engine.runner import Runner, load_decoder
from engine.sequence import SamplingParams, Sequence, SequenceId

BLOCK_TOKENS = 16
TOGETHER = 16
"""Pieces whose tokens are computed in one step."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How a model is served."""

    quantize: bool = False
    kv_cache_dtype: str = "float32"

    @property
    def name(self) -> str:
        return f"{'int8' if self.quantize else 'float32'} weights, {self.kv_cache_dtype} KV"


REFERENCE = Setting()
SETTINGS = (
    REFERENCE,
    Setting(kv_cache_dtype="float16"),
    Setting(kv_cache_dtype="int8"),
    Setting(quantize=True),
    Setting(quantize=True, kv_cache_dtype="float16"),
    Setting(quantize=True, kv_cache_dtype="int8"),
)


@dataclass(frozen=True, slots=True)
class Quality:
    perplexity: float
    agreement: float
    """Share of the scored tokens whose likeliest token is the reference's."""
    divergence: float
    """Mean over the scored tokens, in nats."""


def forced_logits(folder: Path, setting: Setting, pieces: list[list[int]], first: int) -> np.ndarray:
    """Logits `[piece, tokens - first, V]` float32 at positions `first` - 1 to the last but one of pieces of one length.

    Positions before `first` are computed as a prompt, the rest one by one, many pieces together.
    """
    model = ModelFolder.open(folder)
    decoder = load_decoder(model, quantize=setting.quantize)
    length = len(pieces[0])
    num_blocks = -(-length // BLOCK_TOKENS)
    cache = KVCache(decoder.spec, TOGETHER * num_blocks, BLOCK_TOKENS, dtype=setting.kv_cache_dtype)
    runner = Runner(decoder, cache)
    found = np.empty((len(pieces), length - first, decoder.spec.vocab_size), np.float32)
    for begin in range(0, len(pieces), TOGETHER):
        some = pieces[begin : begin + TOGETHER]
        sequences = []
        for row, piece in enumerate(some):
            sequence = Sequence.of(SequenceId(str(row)), piece[:first], SamplingParams(max_tokens=length, seed=0))
            sequence.blocks = array("i", range(row * num_blocks, (row + 1) * num_blocks))
            sequences.append(sequence)
        chunks = [Chunk(sequence, 0, first) for sequence in sequences]
        for position in range(first, length):
            logits = runner(Batch.build(chunks, BLOCK_TOKENS))
            found[begin : begin + len(some), position - first] = logits.numpy()
            for sequence, piece in zip(sequences, some, strict=True):
                sequence.tokens.append(piece[position])
            chunks = [Chunk(sequence, position, position + 1) for sequence in sequences]
    return found


def quality(logits: np.ndarray, reference: np.ndarray, targets: np.ndarray) -> Quality:
    """Of `logits` `[..., V]`, beside the reference's, for the tokens that follow, `[...]`."""
    ours, theirs = _log_softmax(logits), _log_softmax(reference)
    of_target = np.take_along_axis(ours, targets[..., None], -1)
    return Quality(
        perplexity=float(np.exp(-of_target.mean())),
        agreement=float((ours.argmax(-1) == theirs.argmax(-1)).mean()),
        divergence=float((np.exp(theirs) * (theirs - ours)).sum(-1).mean()),
    )


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).double().log_softmax(-1).numpy()


def read_text(path: Path, num_characters: int) -> str:
    """Plain letters and single spaces only, so that every tokenizer, and llama.cpp's, knows each character."""
    with open_text(path) as file:
        text = file.read(2 * num_characters)
    text = text.translate({0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"', 0x2014: "-"})
    return re.sub(r"\s+", " ", re.sub(r"[^A-Za-z ,.!?'\"-]", " ", text)).strip()[:num_characters]


def pieces_of(folder: Path, text: str, context: int) -> list[list[int]]:
    """The text's tokens in whole pieces of `context`, the first of each replaced by the model's first token."""
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    begin = int(json.loads((folder / "config.json").read_text())["bos_token_id"])
    ids = [begin, *ids]
    return [[begin, *ids[at + 1 : at + context]] for at in range(0, len(ids) - context + 1, context)]


def llama_qualities(program: Path, files: list[Path], text: str, context: int) -> list[Quality]:
    """What llama.cpp's own program says of each file, the first being what the others are compared with."""
    found = []
    with tempfile.TemporaryDirectory(prefix="tandem-quality-") as folder:
        (Path(folder) / "text").write_text(text)
        # Not repacked: some builds' AMX kernels end on an illegal instruction, and quality is the same.
        base = ["-f", f"{folder}/text", "-c", str(context), "-b", str(context), "--no-warmup", "--no-repack"]
        saved = ["--kl-divergence-base", f"{folder}/logits"]
        for index, file in enumerate(files):
            compare = ["--kl-divergence"] if index else []
            command = [str(program), "-m", str(file), *base, *saved, *compare]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(read_llama(done.stdout + done.stderr))
    return found


def read_llama(printed: str) -> Quality:
    """The figures in what llama-perplexity printed, of either of its two modes."""
    if final := re.search(r"Final estimate: PPL = ([\d.]+)", printed):
        return Quality(float(final[1]), 1.0, 0.0)
    names = (r"Mean PPL\(Q\)", r"Same top p", r"Mean\s+KLD")
    values = [re.search(rf"{name}\s*:\s*(-?[\d.]+)", printed) for name in names]
    perplexity, same, divergence = (float(value[1]) if value else float("nan") for value in values)
    return Quality(perplexity, same / 100, divergence)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="English prose, plain or .gz")
    parser.add_argument("--model", type=Path, action="append", required=True, help="a folder; may be repeated")
    parser.add_argument("--context", type=int, default=256, help="tokens of a piece")
    parser.add_argument("--characters", type=int, default=60_000, help="of the text")
    parser.add_argument("--llama-perplexity", type=Path, help="llama.cpp's program")
    parser.add_argument("--gguf", type=Path, nargs=2, action="append", default=[], help="float32 and Q8_0, per model")
    args = parser.parse_args()
    if args.llama_perplexity and len(args.gguf) != len(args.model):
        parser.error("--llama-perplexity needs one --gguf F32 Q8_0 for each --model")
    text = read_text(args.text, args.characters)
    print(
        "| model | setting | perplexity | likeliest token as float32's | KL divergence (nats) |\n|---|---|---|---|---|"
    )
    for index, folder in enumerate(args.model):
        pieces = pieces_of(folder, text, args.context)
        first = args.context // 2
        targets = np.array(pieces)[:, first:]
        reference = forced_logits(folder, REFERENCE, pieces, first)
        for setting in SETTINGS:
            logits = reference if setting is REFERENCE else forced_logits(folder, setting, pieces, first)
            _show(folder.name, setting.name, quality(logits, reference, targets))
        if args.llama_perplexity:
            files = args.gguf[index]
            found = llama_qualities(args.llama_perplexity, files, text, args.context)
            for name, of_file in zip(("F32", "Q8_0"), found, strict=True):
                _show(folder.name, f"llama.cpp {name}", of_file)
        print(f"({targets.size} tokens scored in {len(pieces)} pieces)")


def _show(model: str, setting: str, of: Quality) -> None:
    print(f"| {model} | {setting} | {of.perplexity:.4f} | {of.agreement:.2%} | {of.divergence:.6f} |", flush=True)


if __name__ == "__main__":
    main()
