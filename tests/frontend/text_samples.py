"""Tokenizers and texts that the tests of `frontend.text` share."""

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import tokenizers

from frontend.text.tokenizer import Tokenizer
from tests.shared_data import shared_data

VOCABULARIES = ("gpt-2", "llama-spm")
MODELS = ("stories260K", "babyllama105")

MIXED = (
    "naïve café — “quoted”…",
    "👩‍👩‍👧‍👦 and 🏳️‍🌈, 🇺🇦!",
    "日本語のテキスト、中文字符 한국어",
    "Привет, мир! Ελλάδα שלום مرحبا",
    "a b  c   d\n\n\te\r\n",
    " leading and trailing ",
    "<s>[INST] not special? [/INST]</s><|endoftext|>",
)


@cache
def tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a model folder or of a bare vocabulary."""
    with model_folder(name) as folder:
        return Tokenizer.load(folder)


@cache
def library(name: str) -> tokenizers.Tokenizer:
    """The same, as the tokenizers library reads it."""
    with model_folder(name) as folder:
        return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@contextmanager
def model_folder(name: str) -> Iterator[Path]:
    if name in MODELS:
        yield shared_data("models", name)
        return
    with TemporaryDirectory() as folder:
        unpack(name, Path(folder))
        yield Path(folder)


def unpack(name: str, folder: Path) -> None:
    """Write the tokenizer.json of a bare vocabulary."""
    with gzip.open(shared_data("tokenizers", name, "tokenizer.json.gz")) as packed:
        (folder / "tokenizer.json").write_bytes(packed.read())


@cache
def vectors(name: str) -> list[tuple[str, list[int]]]:
    """Texts and their ids, made with the original tokenizer."""
    lines = shared_data("tokenizers", name, "vectors.jsonl").read_text(encoding="utf-8").splitlines()
    return [(row["text"], row["ids"]) for row in map(json.loads, lines)]


@cache
def texts() -> list[str]:
    """White space, scripts, emoji, prose."""
    lines = shared_data("prompts", "mt_bench.jsonl").read_text(encoding="utf-8").splitlines()
    prose = [turn for row in map(json.loads, lines) for turn in row["turns"]]
    return [*MIXED, *(text for text, _ in vectors("gpt-2")), *prose]
