"""Rules out every token of a row but those of a bit mask.

x_i <- x_i if bit i of the row's mask is set, else -inf

Bit i is bit i mod 32 of word i div 32. Masks may be longer than the vocabulary.
"""

import numpy as np
from numba import njit, prange

from engine.kernels.sharing import LOOPS


def keep_twin(logits: np.ndarray, rows: np.ndarray, masks: np.ndarray) -> None:
    bits = np.unpackbits(masks.view(np.uint8), axis=1, bitorder="little")[:, : logits.shape[1]]
    logits[rows] = np.where(bits, logits[rows], -np.inf)


@njit(nogil=True)
def _keep_row(row, mask):  # type: ignore[no-untyped-def]
    for word in range((row.shape[0] + 31) // 32):
        bits = mask[word]
        for i in range(word * 32, min(word * 32 + 32, row.shape[0])):
            if not bits & np.uint32(1):
                row[i] = -np.inf
            bits >>= np.uint32(1)


@njit(parallel=LOOPS, nogil=True, cache=True)
def _keep(logits, rows, masks):  # type: ignore[no-untyped-def]
    for index in prange(rows.shape[0]):
        _keep_row(logits[rows[index]], masks[index])


def keep(logits: np.ndarray, rows: np.ndarray, masks: np.ndarray) -> None:
    """Apply `masks` `[n, words]` uint32 to so many `rows` `[n]` int64 of `logits` `[R, V]` float32, in place."""
    _keep(logits, rows, masks)
