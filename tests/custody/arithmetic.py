"""A model whose KV can be checked: each position's row follows from the row before it, and each token from all rows.

What is computed from a row that is not the sequence's own is another token than the reference's.
"""

from collections.abc import Sequence as Many

import numpy as np

from engine.batch import Batch
from engine.hashes import block_hashes
from engine.sampled import Sampled
from engine.sequence import BlockHash, Sequence
from kvtransfer.host_store import HostStore

P = 4
"""Positions per block."""
ROW_BYTES = 8
BLOCK_BYTES = P * ROW_BYTES
VOCAB_SIZE = 50
STOP = 0
"""The token that ends an answer."""
_MASK = 2**64 - 1
_FIRST = 0x9E3779B97F4A7C15


def next_row(row: int, token: int) -> int:
    return (row * 6364136223846793005 + token * 1442695040888963407 + 1) & _MASK


def next_token(rows: Many[int]) -> int:
    return (sum(rows) ^ (rows[-1] >> 17)) % VOCAB_SIZE


def rows_of(tokens: Many[int]) -> list[int]:
    rows, row = [], _FIRST
    for token in tokens:
        rows.append(row := next_row(row, token))
    return rows


def bytes_of(tokens: Many[int]) -> bytes:
    return b"".join(row.to_bytes(ROW_BYTES, "little") for row in rows_of(tokens))


def answer_to(prompt: Many[int], max_tokens: int) -> list[int]:
    """What every attempt at it must come to."""
    tokens = list(prompt)
    for _ in range(max_tokens):
        tokens.append(next_token(rows_of(tokens)))
        if tokens[-1] == STOP:
            break
    return tokens[len(prompt) :]


def blocks_of(tokens: Many[int], root: BlockHash) -> dict[BlockHash, bytes]:
    """The content of each full block, by its hash."""
    content = bytes_of(tokens)
    return {h: content[i * BLOCK_BYTES : (i + 1) * BLOCK_BYTES] for i, h in enumerate(block_hashes(tokens, P, root))}


class Memory(HostStore):
    """A KV pool."""

    def __init__(self, num_blocks: int) -> None:
        self.block_bytes, self.num_blocks = BLOCK_BYTES, num_blocks
        self.content = bytearray(b"\xee" * (num_blocks * BLOCK_BYTES))

    @property
    def memory(self) -> memoryview:
        return memoryview(self.content)

    def block(self, block: int) -> bytes:
        return bytes(self.block_view(block))

    def row(self, slot: int) -> int:
        return int.from_bytes(self.content[slot * ROW_BYTES : (slot + 1) * ROW_BYTES], "little")

    def write(self, slot: int, row: int) -> None:
        self.content[slot * ROW_BYTES : (slot + 1) * ROW_BYTES] = row.to_bytes(ROW_BYTES, "little")


class Arithmetic:
    """Runner and sampler of a worker; reads and writes nothing but its memory."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def compute(self, batch: Batch, token_ids: Many[int]) -> list[list[int]]:
        """Write the rows of a step's tokens; all the rows that each of its samples is drawn from."""
        found: list[list[int]] = []
        sampling = set(batch.sample_rows.tolist())
        for s, table in enumerate(batch.block_tables.tolist()):
            for i in range(batch.query_starts[s], batch.query_starts[s + 1]):
                position = int(batch.positions[i])
                rows = [self._memory.row(table[p // P] * P + p % P) for p in range(position)]
                rows.append(next_row(rows[-1] if rows else _FIRST, token_ids[i]))
                self._memory.write(int(batch.slots[i]), rows[-1])
                if i in sampling:
                    found.append(rows)
        return found

    def run(self, batch: Batch) -> list[int]:
        return [next_token(rows) for rows in self.compute(batch, batch.token_ids.tolist())]

    def sample(self, tokens: list[int], sequences: Many[Sequence]) -> Sampled:
        assert len(tokens) == len(sequences)
        return Sampled(tokens, None)


def changed(before: bytes, memory: Memory) -> list[int]:
    """The blocks that are not as they were."""
    shape = (-1, BLOCK_BYTES)
    old, new = (np.frombuffer(content, np.uint8).reshape(shape) for content in (before, bytes(memory.content)))
    return np.flatnonzero((old != new).any(axis=1)).tolist()  # type: ignore[no-any-return]
