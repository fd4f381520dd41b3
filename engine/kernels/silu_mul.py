"""Gate of the MLP:  y = g / (1 + exp(-g)) * u,  where g and u are the halves of each row."""

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit, prange

from engine.kernels.exp import FAST, WORTH_SHARING, exp
from engine.kernels.sharing import LOOPS


def silu_mul_twin(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


@njit(nogil=True, fastmath=FAST, error_model="numpy")  # a check for division by zero would keep it scalar
def _row(gate_up, out, row):  # type: ignore[no-untyped-def]
    size = out.shape[1]
    for i in range(size):
        gate = gate_up[row, i]
        out[row, i] = gate / (np.float32(1) + exp(-gate)) * gate_up[row, size + i]


@njit(nogil=True, cache=True)
def _few(gate_up, out):  # type: ignore[no-untyped-def]
    for row in range(out.shape[0]):
        _row(gate_up, out, row)


@njit(parallel=LOOPS, nogil=True, cache=True)
def _many(gate_up, out):  # type: ignore[no-untyped-def]
    for row in prange(out.shape[0]):
        _row(gate_up, out, np.int64(row))


@njit(nogil=True, cache=True)
def silu_mul_rows(gate_up, out):  # type: ignore[no-untyped-def]
    """`silu_mul` of arrays."""
    if gate_up.size < WORTH_SHARING:
        _few(gate_up, out)
    else:
        _many(gate_up, out)


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """`[T, 2 * mlp size]` to `[T, mlp size]`."""
    num_rows, size = gate_up.shape
    out = torch.empty(num_rows, size // 2)
    silu_mul_rows(gate_up.numpy(), out.numpy())
    return out
