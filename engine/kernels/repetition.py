"""Repetition penalty, in place, once for every distinct token of a sequence:  x <- x / r if x > 0 else x * r."""

import numpy as np
from numba import njit


def repetition_twin(logits: np.ndarray, tokens: np.ndarray, penalty: float) -> None:
    seen = np.unique(tokens)
    logits[seen] = np.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)


@njit(nogil=True, cache=True)
def _repetition(logits, tokens, penalty):  # type: ignore[no-untyped-def]
    seen = np.zeros(logits.shape[0], np.bool_)
    for token in tokens:
        if not seen[token]:
            seen[token] = True
            value = logits[token]
            logits[token] = value / penalty if value > 0 else value * penalty


def repetition(logits: np.ndarray, tokens: np.ndarray, penalty: float) -> None:
    """One row `[V]` float32; `tokens` int32 holds prompt and output."""
    _repetition(logits, tokens, np.float32(penalty))
