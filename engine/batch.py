"""The tensors of one step, made from the chunks that a scheduler planned.

Knows how sequences are laid out for the runner and the sampler. Does not know why these sequences run.
"""

from collections.abc import Sequence as Chunks
from dataclasses import dataclass

import numpy as np
import torch

from engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """One sequence's share of a step: positions `start` to `end` (exclusive) are computed.

    When `end` is the sequence's length a token is sampled after its last position; a decode step is a chunk of one.
    """

    sequence: Sequence
    start: int
    end: int

    @property
    def num_tokens(self) -> int:
        return self.end - self.start

    @property
    def samples(self) -> bool:
        return self.end == len(self.sequence.tokens)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step computes. T tokens of S sequences; R of the sequences sample a token. All tensors on one device."""

    token_ids: torch.Tensor
    """[T] int64"""
    positions: torch.Tensor
    """[T] int64, position of each token in its sequence"""
    slots: torch.Tensor
    """[T] int64, where each token's key and value go: block id * P + offset in the block"""
    query_starts: torch.Tensor
    """[S + 1] int32, sequence s owns rows query_starts[s] to query_starts[s + 1]"""
    context_lens: torch.Tensor
    """[S] int32, positions that the last query row of a sequence attends to, itself included"""
    block_tables: torch.Tensor
    """[S, max blocks] int32; entries past a sequence's last block are 0 and never read"""
    sample_rows: torch.Tensor
    """[R] int64, the rows whose logits are needed"""
    sampled: tuple[Sequence, ...]
    """The R sequences that sample, in the order of `sample_rows`"""
    num_decode: int
    """The first `num_decode` sequences have exactly one row each"""

    @classmethod
    def build(cls, chunks: Chunks[Chunk], block_tokens: int, device: torch.device) -> "Batch":
        """Lay out `chunks`; those of a single token come first, so that decode rows are contiguous."""
        ordered = sorted(chunks, key=lambda chunk: chunk.num_tokens > 1)  # stable
        lengths = np.fromiter((c.num_tokens for c in ordered), np.int64, len(ordered))
        starts = np.zeros(len(ordered) + 1, np.int64)
        np.cumsum(lengths, out=starts[1:])
        num_tokens = int(starts[-1])
        token_ids = np.empty(num_tokens, np.int64)
        positions = np.empty(num_tokens, np.int64)
        slots = np.empty(num_tokens, np.int64)
        context_lens = np.fromiter((c.end for c in ordered), np.int32, len(ordered))
        num_blocks = [-(-c.end // block_tokens) for c in ordered]
        tables = np.zeros((len(ordered), max(num_blocks, default=0)), np.int32)
        for row, (chunk, begin, blocks) in enumerate(zip(ordered, starts.tolist(), num_blocks, strict=False)):
            tables[row, :blocks] = chunk.sequence.blocks[:blocks]
            if chunk.num_tokens == 1:
                position = chunk.start
                token_ids[begin] = chunk.sequence.tokens[position]
                positions[begin] = position
                slots[begin] = chunk.sequence.blocks[position // block_tokens] * block_tokens + position % block_tokens
                continue
            rows = slice(begin, begin + chunk.num_tokens)
            token_ids[rows] = chunk.sequence.tokens[chunk.start : chunk.end]
            span = np.arange(chunk.start, chunk.end)
            positions[rows] = span
            slots[rows] = tables[row, span // block_tokens].astype(np.int64) * block_tokens + span % block_tokens
        sampled = [row for row, chunk in enumerate(ordered) if chunk.samples]

        def to_device(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(values).to(device, non_blocking=True)

        return cls(
            token_ids=to_device(token_ids),
            positions=to_device(positions),
            slots=to_device(slots),
            query_starts=to_device(starts.astype(np.int32)),
            context_lens=to_device(context_lens),
            block_tables=to_device(tables),
            sample_rows=to_device(starts[1:][sampled] - 1),
            sampled=tuple(ordered[row].sequence for row in sampled),
            num_decode=int((lengths == 1).sum()),
        )
