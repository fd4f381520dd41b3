"""Which tokens the requests with penalties have had: a row of counts on the device for each.

Rows are given to sequences as they come, and taken from those that were longest without a step: the sampler is not told
when a sequence ends. A sequence that lost its row, because there were more than rows, is counted again from its tokens.

A step that continues the one before has tokens that the host does not know: they are counted from where that step left
them on the device, and not again when the host hears of them. What is drawn and continued stands: a sequence of which
it does not is not continued.
"""

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import numpy as np
import torch

from engine.sequence import Sequence, SequenceId


@dataclass(slots=True)
class _Row:
    sequence: Sequence
    slot: int
    num_noted: int = 0
    """Tokens, one that the host does not know yet among them if it was continued"""


@dataclass(frozen=True, slots=True)
class News:
    """What the counts lack, for sequences of one step."""

    slots: np.ndarray
    """[R] int64, the row of each sequence; below 0 for those without penalties"""
    fresh: tuple[int, ...]
    """Rows that begin anew and must be zero"""
    prompt: tuple[np.ndarray, np.ndarray]
    """Row and token, int64, of each token of a prompt that is to be noted"""
    answer: tuple[np.ndarray, np.ndarray]
    """The same of answers"""
    continued: tuple[np.ndarray, np.ndarray]
    """Row, and the number of the sample in the step before, whose token comes last in an answer"""


class History:
    """The counts, and whose they are."""

    def __init__(self, num_rows: int, vocab_size: int, device: torch.device) -> None:
        self.counts = torch.zeros(num_rows, vocab_size, dtype=torch.int32, device=device)
        """[rows, V], as `note_tokens` keeps them"""
        self._free = list(range(num_rows))
        self._rows: dict[SequenceId, _Row] = {}
        """Longest without a step first"""

    def news(self, sequences: Rows[Sequence], continues: Rows[int] | None = None) -> News:
        """Rows for those of `sequences` that have penalties, and their tokens that came since they were last here.

        `continues` are the numbers of the samples in the step before that they continue, below 0 for those of which
        every token is known; None where all are.
        """
        penalised = [sequence for sequence in sequences if sequence.params.has_penalties]
        assert len(penalised) <= len(self.counts), "more sequences than rows"
        for sequence in penalised:  # before anybody's row is taken
            if row := self._rows.pop(sequence.id, None):
                if row.sequence is sequence:
                    self._rows[sequence.id] = row
                else:  # another of the same name
                    self._free.append(row.slot)
        fresh = []
        for sequence in penalised:
            if sequence.id not in self._rows:
                self._rows[sequence.id] = _Row(sequence, self._take())
                fresh.append(self._rows[sequence.id].slot)
        prompt, answer = [], []
        for sequence in penalised:
            row = self._rows[sequence.id]
            end = max(row.num_noted, sequence.num_prompt)
            prompt.append((row.slot, sequence.tokens[row.num_noted : end]))
            answer.append((row.slot, sequence.tokens[end:]))
            assert row.num_noted <= len(sequence.tokens), "a token was counted that does not stand"
            row.num_noted = len(sequence.tokens)
        slots = [self._rows[s.id].slot if s.params.has_penalties else -1 for s in sequences]
        continued = self._continue(sequences, continues) if continues is not None else []
        return News(np.array(slots, np.int64), tuple(fresh), _flat(prompt), _flat(answer), _flat(continued))

    def _continue(self, sequences: Rows[Sequence], continues: Rows[int]) -> list[tuple[int, Rows[int]]]:
        continued: list[tuple[int, Rows[int]]] = []
        for sequence, sample in zip(sequences, continues, strict=True):
            if sample >= 0 and sequence.params.has_penalties:
                row = self._rows[sequence.id]
                row.num_noted += 1
                continued.append((row.slot, [sample]))
        return continued

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        return self._rows.pop(next(iter(self._rows))).slot


def _flat(parts: Rows[tuple[int, Rows[int]]]) -> tuple[np.ndarray, np.ndarray]:
    tokens = [np.array(part, np.int64) for _, part in parts]
    slots = [np.full(len(part), slot, np.int64) for slot, part in parts]
    none = np.empty(0, np.int64)
    return np.concatenate((none, *slots)), np.concatenate((none, *tokens))
