"""The arrays of one step, made from the chunks that a scheduler planned.

Knows how sequences are laid out for the runner and the sampler. Does not know why these sequences run.
"""

from collections.abc import Sequence as Chunks
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np

from engine.pooling import Pooled
from engine.scoring import PromptScores, Scoring
from engine.sequence import Sequence, SequenceId

_KNOWN = -1
"""In place of a row of the step before, for a token that is known."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One sequence's share of a step: positions `start` to `end` (exclusive) are computed.

    When `end` is the sequence's length a token is sampled after its last position; a decode step is a chunk of one. One
    that starts there continues the step before, which is not over: its token is the one that that step samples.
    """

    sequence: Sequence
    start: int
    end: int

    @property
    def num_tokens(self) -> int:
        return self.end - self.start

    @property
    def samples(self) -> bool:
        return self.end >= len(self.sequence.tokens)

    @property
    def num_scored(self) -> int:
        """Rows, the first ones, that say how likely the prompt's next token is, where somebody wants to know: they are
        told before the answer begins, and not again when the prompt is computed anew."""
        if self.sequence.scoring is None or self.sequence.num_output:
            return 0
        return max(min(self.end, self.sequence.num_prompt - 1) - self.start, 0)


@dataclass(frozen=True, slots=True)
class PooledRows:
    """Whom the rows of one chunk are pooled for, and at which position they begin."""

    pooled: Pooled
    start: int
    num_rows: int


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """Whom the rows of one chunk are scored for, and where in the prompt the tokens that follow them begin."""

    id: SequenceId
    scoring: Scoring
    first: int
    num_rows: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step computes. T tokens of S sequences; R of the sequences sample a token.

    In host memory: torch lets go of the interpreter on every call, and a step that so gives way to the event loop
    begins later by all that the loop has to do.
    """

    token_ids: np.ndarray
    """[T] int64"""
    positions: np.ndarray
    """[T] int64, position of each token in its sequence"""
    slots: np.ndarray
    """[T] int64, where each token's key and value go: block id * P + offset in the block"""
    query_starts: np.ndarray
    """[S + 1] int32, sequence s owns rows query_starts[s] to query_starts[s + 1]"""
    context_lens: np.ndarray
    """[S] int32, positions that the last query row of a sequence attends to, itself included"""
    block_tables: np.ndarray
    """[S, max blocks] int32; entries past a sequence's last block are 0 and never read"""
    sample_rows: np.ndarray
    """[R] int64, the rows whose logits are needed"""
    sampled: tuple[Sequence, ...]
    """The R sequences that sample, in the order of `sample_rows`"""
    num_decode: int
    """The first `num_decode` sequences have exactly one row each"""
    continues: np.ndarray | None = None
    """[T] int32, which of the tokens that the step before samples is this row's, in place of `token_ids`; below 0 where
    the token is known. None where all are"""

    pooled_rows: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """[P] int64, the rows whose last hidden states are needed"""
    pooled: tuple[PooledRows, ...] = ()
    """Whose they are, in the same order"""
    scored_rows: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """[Q] int64, the rows whose logits say how likely the prompt's next token is; they are never there all at once"""
    scored: tuple[ScoredRows, ...] = ()
    """Whose they are, in the same order"""
    scored_ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """[Q] int64, those next tokens; nothing where `scored` is"""

    @property
    def kept_rows(self) -> np.ndarray:
        """[R + P + Q], the rows that the last layer ends with: those that sample, are pooled, are scored."""
        if not len(self.pooled_rows) and not len(self.scored_rows):
            return self.sample_rows
        return np.concatenate((self.sample_rows, self.pooled_rows, self.scored_rows))

    @property
    def num_top(self) -> int:
        """Of the likeliest tokens that some scored row is to tell."""
        return max((rows.scoring.num_top for rows in self.scored), default=0)

    def pool(self, hidden: np.ndarray) -> None:
        """Take in the states `[P, hidden size]` float32 of the pooled rows."""
        first = 0
        for rows in self.pooled:
            rows.pooled.take(rows.start, hidden[first : first + rows.num_rows])
            first += rows.num_rows

    def score(self, begin: int, scores: PromptScores) -> None:
        """Take in what is said of scored rows from number `begin` on; their places are known here."""
        end, first = begin + len(scores.logprobs), 0
        for rows in self.scored:
            low, high = max(begin, first), min(end, first + rows.num_rows)
            if low < high:
                position = rows.first + low - first
                rows.scoring.take(scores.part(position, low - begin, high - begin, rows.scoring.num_top))
            first += rows.num_rows

    @property
    def indices(self) -> list[int]:
        """[R], the number of each sampled token in its answer."""
        positions = self.positions[self.sample_rows].tolist()
        return [p + 1 - sequence.num_prompt for p, sequence in zip(positions, self.sampled, strict=True)]

    @property
    def continued_samples(self) -> list[int] | None:
        """[R], of each row that samples, what `continues` says."""
        return None if self.continues is None else self.continues[self.sample_rows].tolist()

    @classmethod
    def build(cls, chunks: Chunks[Chunk], block_tokens: int, before: Chunks[Sequence] = ()) -> "Batch":
        """Lay out `chunks`; those of a single token come first, so that decode rows are contiguous.

        `before` are the sequences that the step before samples, if it is not over.
        """
        singles = [chunk for chunk in chunks if chunk.num_tokens == 1]
        ordered = [*singles, *(chunk for chunk in chunks if chunk.num_tokens != 1)]
        query_starts = [0, *accumulate(chunk.num_tokens for chunk in ordered)]
        num_blocks = [-(-chunk.end // block_tokens) for chunk in ordered]
        block_tables = np.zeros((len(ordered), max(num_blocks, default=0)), np.int32)
        for row, (chunk, blocks) in enumerate(zip(ordered, num_blocks, strict=True)):
            block_tables[row, :blocks] = chunk.sequence.blocks[:blocks]
        continues = _continues(singles, before, query_starts[-1]) if before else None
        token_ids, positions, slots = _rows_of_singles(singles, block_tokens, _tokens_of_singles(singles, continues))
        if len(singles) < len(ordered):
            parts = [_rows(chunk, block_tokens) for chunk in ordered[len(singles) :]]
            token_ids, positions, slots = np.concatenate(((token_ids, positions, slots), *parts), axis=1)
        sampling = [row for row, chunk in enumerate(ordered) if chunk.samples]
        pooling = [row for row, chunk in enumerate(ordered) if chunk.sequence.pooled is not None]
        return cls(
            token_ids=token_ids,
            positions=positions,
            slots=slots,
            query_starts=np.array(query_starts, np.int32),
            context_lens=np.array([chunk.end for chunk in ordered], np.int32),
            block_tables=block_tables,
            sample_rows=np.array([query_starts[row + 1] - 1 for row in sampling], np.int64),
            sampled=tuple(ordered[row].sequence for row in sampling),
            num_decode=len(singles),
            continues=continues,
            **(_pooled(ordered, pooling, query_starts) if pooling else {}),
            **_scored(ordered, query_starts),
        )


def _pooled(ordered: Chunks[Chunk], pooling: list[int], query_starts: list[int]) -> dict[str, Any]:
    """The fields of that name."""
    rows = [np.arange(query_starts[each], query_starts[each + 1]) for each in pooling]
    chunks = [ordered[each] for each in pooling]
    return {
        "pooled_rows": np.concatenate(rows),
        "pooled": tuple(PooledRows(c.sequence.pooled, c.start, c.num_tokens) for c in chunks if c.sequence.pooled),
    }


def _scored(ordered: Chunks[Chunk], query_starts: list[int]) -> dict[str, Any]:
    """The fields of that name."""
    scored, rows, ids = [], [], []
    for place, chunk in enumerate(ordered):
        if chunk.sequence.scoring is not None and (count := chunk.num_scored):
            scored.append(ScoredRows(chunk.sequence.id, chunk.sequence.scoring, chunk.start + 1, count))
            rows.append(np.arange(query_starts[place], query_starts[place] + count))
            ids.append(np.array(chunk.sequence.tokens[chunk.start + 1 : chunk.start + 1 + count], np.int64))
    if not scored:
        return {}
    return {"scored_rows": np.concatenate(rows), "scored": tuple(scored), "scored_ids": np.concatenate(ids)}


def _continues(singles: Chunks[Chunk], before: Chunks[Sequence], num_rows: int) -> np.ndarray | None:
    """The column of that name."""
    row_of = {sequence.id: row for row, sequence in enumerate(before)}
    ahead = [chunk.start == len(chunk.sequence.tokens) for chunk in singles]
    if not any(ahead):
        return None
    continues = np.full(num_rows, _KNOWN, np.int32)
    rows = (row_of[c.sequence.id] if is_ahead else _KNOWN for c, is_ahead in zip(singles, ahead, strict=True))
    continues[: len(singles)] = tuple(rows)
    return continues


def _tokens_of_singles(chunks: Chunks[Chunk], continues: np.ndarray | None) -> list[int]:
    if continues is None:
        return [chunk.sequence.tokens[chunk.start] for chunk in chunks]
    known = (continues[: len(chunks)] < 0).tolist()
    return [c.sequence.tokens[c.start] if is_known else 0 for c, is_known in zip(chunks, known, strict=True)]


def _rows_of_singles(chunks: Chunks[Chunk], block_tokens: int, token_ids: list[int]) -> np.ndarray:
    """[3, chunks]: token id, position and slot of each, in one array: this is done between steps that empty the cache,
    and then every call costs its memory's way back."""
    slots = []
    positions = [chunk.start for chunk in chunks]
    for chunk, position in zip(chunks, positions, strict=True):
        slots.append(chunk.sequence.blocks[position // block_tokens] * block_tokens + position % block_tokens)
    return np.array((token_ids, positions, slots), np.int64)


def _rows(chunk: Chunk, block_tokens: int) -> np.ndarray:
    """[3, tokens] of one chunk."""
    positions = np.arange(chunk.start, chunk.end)
    blocks = np.array(chunk.sequence.blocks, np.int64)
    slots = blocks[positions // block_tokens] * block_tokens + positions % block_tokens
    return np.array((chunk.sequence.tokens[chunk.start : chunk.end], positions, slots), np.int64)
