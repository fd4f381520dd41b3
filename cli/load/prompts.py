"""What requests ask: random token ids of exact length, blocks that requests share, texts from a file."""

import gzip
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from engine.errors import ConfigError

TokenIds = tuple[int, ...]
TEXT_KEYS = ("prompt", "text", "question", "turns")
"""Where a JSON object of a prompt file has its text; of a list, the first."""


@dataclass(frozen=True, slots=True)
class Job:
    """One request to be sent."""

    prompt: TokenIds | str
    output_tokens: int
    due_s: float = 0.0
    """After the start; a closed loop sends when there is room instead."""


def random_ids(rng: np.random.Generator, vocab: int, count: int) -> TokenIds:
    return tuple(rng.integers(0, vocab, size=count).tolist())


def random_length(rng: np.random.Generator, length: int, range_ratio: float) -> int:
    """Uniform in [length * (1 - ratio), length * (1 + ratio)], at least 1. Raises ConfigError unless 0 <= ratio < 1."""
    if not 0 <= range_ratio < 1:
        raise ConfigError("the range ratio must be at least 0 and less than 1", field="--range-ratio")
    low, high = math.floor(length * (1 - range_ratio)), math.ceil(length * (1 + range_ratio))
    return max(1, int(rng.integers(low, high, endpoint=True)))


class Blocks:
    """Token ids of numbered blocks: block h is always the same, and differs from the others."""

    def __init__(self, vocab: int, block_tokens: int) -> None:
        self._vocab = vocab
        self._block_tokens = block_tokens
        self._made: dict[int, TokenIds] = {}

    def prompt(self, hash_ids: tuple[int, ...], tokens: int) -> TokenIds:
        """The blocks in a row, cut to `tokens`; the last block is lengthened by its own generator if they are fewer."""
        num_blocks = math.ceil(tokens / self._block_tokens)
        whole = [token for block in hash_ids[:num_blocks] for token in self._block(block)]
        if (missing := tokens - len(whole)) > 0:
            whole += random_ids(np.random.default_rng([hash_ids[-1], 1]), self._vocab, missing)
        return tuple(whole[:tokens])

    def _block(self, block: int) -> TokenIds:
        if block not in self._made:
            self._made[block] = random_ids(np.random.default_rng(block), self._vocab, self._block_tokens)
        return self._made[block]


def read_texts(path: Path) -> list[str]:
    """Prompts of a file, plain or .gz, one a line: JSON (a string, or an object with TEXT_KEYS) if named .jsonl.

    Raises ConfigError, naming the line, for what is no prompt.
    """
    lines = read_lines(path, "--prompts")
    is_json = path.name.removesuffix(".gz").endswith(".jsonl")
    texts = [_json_text(line, f"{path.name}, line {number}") if is_json else line for number, line in lines]
    if not texts:
        raise ConfigError(f"{path} has no prompts", field="--prompts")
    return texts


def _json_text(line: str, where: str) -> str:
    try:
        value: object = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where} is not JSON: {error}", field="--prompts") from error
    if isinstance(value, dict):
        value = next((value[key] for key in TEXT_KEYS if key in value), None)
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where} has no text under any of {', '.join(TEXT_KEYS)}", field="--prompts")
    return value


def read_lines(path: Path, option: str) -> list[tuple[int, str]]:
    """Lines that are not blank, with their numbers from 1. Raises ConfigError for a file that cannot be read."""
    try:
        with open_text(path) as file:
            return [(number, line.rstrip("\n")) for number, line in enumerate(file, 1) if line.strip()]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}", field=option) from error


def open_text(path: Path) -> TextIO:
    """For reading: UTF-8, plain or, by its name, .gz."""
    return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
