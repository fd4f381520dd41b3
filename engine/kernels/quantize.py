"""Rounding rows of activations to int8, symmetric: value * scale, with the largest magnitude at 127."""

import numpy as np
from numba import njit

from engine.kernels.exp import FAST

_LARGEST = 127


@njit(nogil=True, fastmath=FAST, error_model="numpy")
def quantize_row(row, values):  # type: ignore[no-untyped-def]
    """values = round(row / s), s = max |row| / 127. Returns s and the sum of the values."""
    # Without their signs the bits of floats order as the floats do, and a maximum of integers is what LLVM vectorizes.
    bits = row.view(np.int32)
    highest = np.zeros(1, np.int32)
    peak = np.int32(0)
    for k in range(row.shape[0]):
        peak = max(peak, bits[k] & np.int32(0x7FFFFFFF))
    highest[0] = peak
    largest = highest.view(np.float32)[0]
    inverse = np.float32(_LARGEST) / largest if largest > np.float32(0) else np.float32(0)
    total = np.int32(0)
    for k in range(row.shape[0]):
        value = np.int32(np.rint(row[k] * inverse))
        values[k] = np.int8(value)
        total += value
    return largest / np.float32(_LARGEST), total
