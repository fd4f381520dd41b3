"""What rank 0 tells the others: once, which part of which model they are; then every batch, as bytes."""

import json
import struct
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from engine.batch import Batch

_HEAD = struct.Struct("<8I")
"""Tokens, sequences, blocks of the longest table, rows that sample, rows that are pooled, rows that are scored, rows
that decode, numbers in `continues`; a whole number of int64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Everything that one rank must know before its first batch."""

    rank: int
    size: int
    service: str
    """In its log."""
    log_level: str
    log_format: Literal["text", "json"]
    num_threads: int
    folder: str
    """Of the model."""
    dtype: str
    quantize: bool
    max_context: int
    num_blocks: int
    block_tokens: int
    kv_dtype: str
    device: str = "cpu"
    """Rank 0's; where there are several, those of the others follow."""
    config: str = ""
    """Of the worker, as JSON, where the GPU's engine computes; it then says more than the fields from `dtype` on."""

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes | bytearray) -> "Setup":
        return cls(**json.loads(data))


def pack_batch(batch: Batch) -> bytes:
    """All of it but the sequences that sample, are pooled or scored: only rank 0 needs what comes of them."""
    continues = np.empty(0, np.int32) if batch.continues is None else batch.continues
    num_sequences, num_blocks = batch.block_tables.shape
    counts = len(batch.sample_rows), len(batch.pooled_rows), len(batch.scored_rows), batch.num_decode, len(continues)
    head = _HEAD.pack(len(batch.token_ids), num_sequences, num_blocks, *counts)
    arrays = (
        *(batch.token_ids, batch.positions, batch.slots, batch.sample_rows, batch.pooled_rows, batch.scored_rows),
        *(batch.query_starts, batch.context_lens, batch.block_tables, continues),
    )
    return b"".join((head, *(array.tobytes() for array in arrays)))


def unpack_batch(data: bytearray) -> Batch:
    """Its arrays are parts of `data`: writable, as kernels are compiled for arrays that are."""
    num_tokens, num_sequences, num_blocks, *counts = _HEAD.unpack_from(data)
    num_sampled, num_pooled, num_scored, num_decode, num_late = counts
    at = _HEAD.size

    def array(count: int, item: type[np.int64] | type[np.int32]) -> np.ndarray:
        nonlocal at
        found = np.frombuffer(data, item, count, at)
        at += found.nbytes
        return found

    token_ids, positions, slots = (array(num_tokens, np.int64) for _ in range(3))
    sample_rows, pooled_rows, scored_rows = (array(num, np.int64) for num in (num_sampled, num_pooled, num_scored))
    query_starts, context_lens = array(num_sequences + 1, np.int32), array(num_sequences, np.int32)
    block_tables = array(num_sequences * num_blocks, np.int32).reshape(num_sequences, num_blocks)
    continues = array(num_late, np.int32) if num_late else None
    assert at == len(data), "a batch has more bytes than it says"
    return Batch(
        token_ids=token_ids,
        positions=positions,
        slots=slots,
        query_starts=query_starts,
        context_lens=context_lens,
        block_tables=block_tables,
        sample_rows=sample_rows,
        sampled=(),
        num_decode=num_decode,
        continues=continues,
        pooled_rows=pooled_rows,
        scored_rows=scored_rows,
    )
