"""Requests of Mooncake's conversation trace, scaled to a small model: a block of 512 tokens becomes one of 16."""

import random
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cli.load.config import MOONCAKE_BLOCK_TOKENS
from cli.load.prompts import read_lines
from cli.load.traces import Row, mooncake_rows

BLOCK_TOKENS = 16
SCALE = MOONCAKE_BLOCK_TOKENS // BLOCK_TOKENS
FIRST_TOKEN, END_TOKEN = 2, 2000
"""Token ids that prompts are made of; every vocabulary that is measured has them."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One request. Equal leading blocks are equal prompts so far."""

    blocks: tuple[int, ...]
    """The trace's numbers; the last block may be filled in part."""
    num_tokens: int
    num_output: int

    @property
    def num_full(self) -> int:
        """Blocks that can be kept."""
        return self.num_tokens // BLOCK_TOKENS

    @property
    def num_findable(self) -> int:
        """Blocks that can be found: the prompt's last token must be computed, its logits are needed."""
        return (self.num_tokens - 1) // BLOCK_TOKENS

    def tokens(self) -> list[int]:
        """A prompt that shares with others what the trace says it shares."""
        return [token for block in self.blocks for token in _block_tokens(block)][: self.num_tokens]


def read_turns(trace: Path, num_requests: int, max_prompt: int) -> list[Turn]:
    """The trace's first requests, scaled down, and cut to `max_prompt` tokens. Raises ConfigError."""
    lines = read_lines(trace, "TRACE")[:num_requests]
    return [_scaled(row, max_prompt) for row in mooncake_rows(lines)]


def conversations(turns: list[Turn], num_turns: int, min_turns: int = 3) -> list[Turn]:
    """Whole conversations of several turns, in the trace's order: the first ones, until they have `num_turns`.

    A conversation is what shares more than the first block, which all have in common.
    """
    sizes = Counter(turn.blocks[1] for turn in turns if len(turn.blocks) > 1)
    chosen: set[int] = set()
    for turn in turns:
        if sum(sizes[start] for start in chosen) >= num_turns:
            break
        if len(turn.blocks) > 1 and sizes[turn.blocks[1]] >= min_turns:
            chosen.add(turn.blocks[1])
    return [turn for turn in turns if len(turn.blocks) > 1 and turn.blocks[1] in chosen]


def _scaled(row: Row, max_prompt: int) -> Turn:
    num_tokens = min(-(-row.input_len // SCALE), max_prompt)
    num_blocks = -(-num_tokens // BLOCK_TOKENS)
    return Turn(row.hash_ids[:num_blocks], num_tokens, max(row.output_len // SCALE, 1))


@lru_cache(maxsize=1 << 17)
def _block_tokens(block: int) -> tuple[int, ...]:
    rng = random.Random(block)
    return tuple(rng.randrange(FIRST_TOKEN, END_TOKEN) for _ in range(BLOCK_TOKENS))
