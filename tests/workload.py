"""Random histories for schedulers: sequences over a small vocabulary, so that prefixes repeat."""

import random

from engine.hashes import block_hashes
from engine.sequence import BlockHash, SamplingParams, Sequence, SequenceId

ROOT = BlockHash(bytes(16))


def sequence(
    name: str, tokens: list[int], *, block_tokens: int, max_tokens: int = 4, stop: frozenset[int] = frozenset()
) -> Sequence:
    """A request as a worker receives it, hashed like the frontend does."""
    made = Sequence.of(SequenceId(name), tokens, SamplingParams(max_tokens=max_tokens, seed=0, stop_token_ids=stop))
    made.hash_root = ROOT
    made.hashes = block_hashes(tokens, block_tokens, ROOT)
    return made


def prompt(rng: random.Random, longest: int) -> list[int]:
    """Tokens of which a leading part is often that of another prompt."""
    length = rng.randint(1, longest)
    shared = rng.randint(0, length) if rng.random() < 0.6 else 0
    return [7] * shared + [rng.randint(0, 3) for _ in range(length - shared)]
