"""RMSNorm with the residual sum before it:  h += d;  y = h / sqrt(mean(h^2) + eps) * w.

h is the residual stream, summed in place; d is what the last block of the model added to it.
"""

import numpy as np
import torch
from numba import njit, prange

from engine.kernels.exp import FAST, WORTH_SHARING
from engine.kernels.sharing import LOOPS


def rms_norm_twin(hidden: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float) -> torch.Tensor:
    if delta is not None:
        hidden += delta
    return hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + eps) * weight


@njit(nogil=True, fastmath=FAST)
def _row(hidden, delta, weight, eps, out, row):  # type: ignore[no-untyped-def]
    size = hidden.shape[1]
    square = np.float32(0)
    if delta.shape[0]:
        for i in range(size):
            value = hidden[row, i] + delta[row, i]
            hidden[row, i] = value
            square += value * value
    else:
        for i in range(size):
            square += hidden[row, i] * hidden[row, i]
    scale = np.float32(1) / np.sqrt(square / np.float32(size) + np.float32(eps))
    for i in range(size):
        out[row, i] = hidden[row, i] * scale * weight[i]


@njit(nogil=True, cache=True)
def _few(hidden, delta, weight, eps, out):  # type: ignore[no-untyped-def]
    for row in range(hidden.shape[0]):
        _row(hidden, delta, weight, eps, out, row)


@njit(parallel=LOOPS, nogil=True, cache=True)
def _many(hidden, delta, weight, eps, out):  # type: ignore[no-untyped-def]
    for row in prange(hidden.shape[0]):
        _row(hidden, delta, weight, eps, out, np.int64(row))


@njit(nogil=True, cache=True)
def norm_rows(hidden, delta, weight, eps, out):  # type: ignore[no-untyped-def]
    """`rms_norm` of arrays; `delta` may have no rows."""
    if hidden.size < WORTH_SHARING:
        _few(hidden, delta, weight, eps, out)
    else:
        _many(hidden, delta, weight, eps, out)


_NO_DELTA = np.empty((0, 1), np.float32)


def rms_norm(hidden: torch.Tensor, delta: torch.Tensor | None, weight: np.ndarray, eps: float) -> torch.Tensor:
    """Add `delta` to `hidden` `[T, hidden size]` in place; return the normalised rows."""
    out = torch.empty_like(hidden)
    norm_rows(hidden.numpy(), _NO_DELTA if delta is None else delta.numpy(), weight, eps, out.numpy())
    return out
