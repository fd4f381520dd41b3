"""The tokens that grammars allow, for all rows of a step at once.

Knows sequences with a grammar's state beside them, and when they may end. Does not know logits.
"""

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import numpy as np
import torch
from llguidance import LLExecutor

from engine.grammar import GrammarState
from engine.sequence import Sequence

FORBIDDEN = "min_tokens rules out every token that the grammar allows"
ANYTHING = np.uint32(0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Allowed:
    """What may follow in the rows that have a grammar; in others anything may."""

    rows: np.ndarray
    """[n] int64"""
    masks: np.ndarray
    """[n, words] uint32: bit i mod 32 of word i div 32 is set if token i may follow. Overwritten by the next step."""
    dead_ends: dict[int, str]
    """Rows in which nothing may follow, or nobody can tell: why."""


class Masks:
    """Computes masks, in several threads where torch has several."""

    def __init__(self) -> None:
        self._executor: LLExecutor | None = None
        self._buffer = np.empty(0, np.uint32)

    def __call__(self, sequences: Rows[Sequence]) -> Allowed | None:
        """None when no sequence has a grammar."""
        states: list[GrammarState] = []
        rows: list[int] = []
        for row, sequence in enumerate(sequences):
            if sequence.constraint is not None:
                assert isinstance(sequence.constraint, GrammarState), "the only constraint there is"
                states.append(sequence.constraint)
                rows.append(row)
        if not states:
            return None
        masks = self._fill(states)
        dead_ends: dict[int, str] = {}
        for row, state, mask in zip(rows, states, masks, strict=True):
            _forbid_ends(sequences[row], mask)
            if state.error or not mask.any():
                dead_ends[row] = state.error or FORBIDDEN
                mask.fill(ANYTHING)  # whatever is drawn there is dropped, and samplers want something to draw
        return Allowed(np.array(rows, np.int64), masks, dead_ends)

    def _fill(self, states: Rows[GrammarState]) -> np.ndarray:
        mask_bytes = states[0].mask_bytes
        if len(self._buffer) * 4 < len(states) * mask_bytes:
            self._buffer = np.empty(len(states) * mask_bytes // 4, np.uint32)
        masks = self._buffer[: len(states) * mask_bytes // 4].reshape(len(states), -1)
        address: int = masks.ctypes.data
        if len(states) == 1 or torch.get_num_threads() == 1:
            for index, state in enumerate(states):
                state.matcher.unsafe_compute_mask_ptr(address + index * mask_bytes, mask_bytes)
            return masks
        self._executor = self._executor or LLExecutor(torch.get_num_threads())
        matchers = [(state.matcher, index) for index, state in enumerate(states)]
        self._executor.unsafe_compute_mask_ptr(matchers, address, mask_bytes, len(states))
        return masks


def _forbid_ends(sequence: Sequence, mask: np.ndarray) -> None:
    """Clear the tokens that would end the answer before its `min_tokens`."""
    params = sequence.params
    if sequence.num_output < params.min_tokens:
        for token in params.stop_token_ids:
            if token < len(mask) * 32:
                mask[token >> 5] &= ~np.uint32(1 << (token & 31))
