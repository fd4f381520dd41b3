"""Chained hashes of full KV blocks: each names every token from the start of the prompt to its block's end.

    h[i] = BLAKE2b-128(h[i - 1] || tokens of block i as little-endian int32)

h[-1] is the root. Standard library only; the frontend hashes prompts, workers continue the chain over the answer.
"""

import sys
from array import array
from collections.abc import Sequence
from hashlib import blake2b

from engine.sequence import BlockHash

HASH_BYTES = 16


def next_hash(parent: BlockHash, tokens: Sequence[int]) -> BlockHash:
    """The hash of the block that holds `tokens`, after the one that `parent` names."""
    block = array("i", tokens)
    if sys.byteorder == "big":
        block.byteswap()
    return BlockHash(blake2b(parent + block.tobytes(), digest_size=HASH_BYTES).digest())


def block_hashes(tokens: Sequence[int], block_tokens: int, root: BlockHash) -> list[BlockHash]:
    """Hashes of the full blocks of `tokens`."""
    hashes: list[BlockHash] = []
    for start in range(0, len(tokens) - block_tokens + 1, block_tokens):
        hashes.append(next_hash(hashes[-1] if hashes else root, tokens[start : start + block_tokens]))
    return hashes


def split_hashes(joined: bytes) -> list[BlockHash]:
    """The hashes that were sent as one run of bytes."""
    return [BlockHash(joined[i : i + HASH_BYTES]) for i in range(0, len(joined), HASH_BYTES)]
