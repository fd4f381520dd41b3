"""Log-probabilities of one token per row, sampled or of a prompt, and of the most likely ones.

logprob_i = x_i - log(sum_j exp(x_j - max x)) - max x
"""

import numpy as np
import torch
from numba import njit, prange

from engine.kernels.exp import FAST, exp
from engine.kernels.sharing import LOOPS
from engine.scoring import PromptScores


def logprobs_twin(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All log-probabilities `[R, V]`, the `count` largest and their ids `[R, count]`."""
    values = logits.double().log_softmax(-1)
    ids = values.argsort(dim=-1, descending=True, stable=True)[:, :count]
    return values, values.gather(1, ids), ids


@njit(nogil=True, fastmath=FAST)
def _log_total(row):  # type: ignore[no-untyped-def]
    maximum = row[0]
    for i in range(row.shape[0]):
        maximum = max(maximum, row[i])
    total = 0.0
    for i in range(row.shape[0]):
        total += np.float64(exp(row[i] - maximum))
    return np.float64(maximum) + np.log(total)


@njit(nogil=True)
def _top(row, values, ids):  # type: ignore[no-untyped-def]
    """Keep the largest in order while scanning; the lowest id comes first among equals."""
    held, count = 0, ids.shape[0]
    for i in range(row.shape[0]):
        if held == count and not row[i] > values[count - 1]:
            continue
        at = min(held, count - 1)
        while at > 0 and values[at - 1] < row[i]:
            values[at], ids[at] = values[at - 1], ids[at - 1]
            at -= 1
        values[at], ids[at] = row[i], i
        held = min(held + 1, count)


@njit(parallel=LOOPS, nogil=True, cache=True)
def _logprobs(logits, log_totals, values, ids):  # type: ignore[no-untyped-def]
    for row in prange(logits.shape[0]):
        log_totals[row] = _log_total(logits[row])
        if ids.shape[1]:
            _top(logits[row], values[row], ids[row])
            for i in range(ids.shape[1]):
                values[row, i] -= log_totals[row]


def logprobs(logits: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of `logits` `[R, V]`: what to subtract from each row `[R]`, its `count` largest log-probabilities and their ids
    `[R, count]`, largest first.
    """
    num_rows = len(logits)
    log_totals = np.empty(num_rows, np.float64)
    values, ids = np.empty((num_rows, count), np.float64), np.empty((num_rows, count), np.int64)
    _logprobs(logits, log_totals, values, ids)
    return log_totals, values, ids


@njit(parallel=LOOPS, nogil=True, cache=True)
def _ranks(logits, ids, ranks):  # type: ignore[no-untyped-def]
    for row in prange(logits.shape[0]):
        own, rank = logits[row, ids[row]], 1
        for i in range(logits.shape[1]):
            rank += logits[row, i] > own
        ranks[row] = rank


def ranks_twin(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Of the tokens `ids` `[R]` in their rows: 1 and one for each token that is likelier."""
    return 1 + (logits > logits.gather(1, ids[:, None])).sum(1)


def scores_of(logits: np.ndarray, ids: np.ndarray, count: int) -> PromptScores:
    """Of the tokens `ids` `[R]` int64 that follow rows of `logits` `[R, V]`, with the `count` likeliest in each place,
    as of a prompt's second token and those that follow."""
    log_totals, values, top_ids = logprobs(logits, min(count, logits.shape[1]))
    ranks = np.empty(len(ids), np.int32)
    _ranks(logits, ids, ranks)
    chosen = logits[np.arange(len(ids)), ids] - log_totals
    return PromptScores(1, chosen.astype(np.float32), ranks, top_ids.astype(np.int32), values.astype(np.float32))
