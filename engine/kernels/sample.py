"""Draw one token per row of logits.

    w_i = exp((x_i - max x) / temperature)
    keep i if w_i >= the k-th largest w                              (top_k)
           and w_i >= the smallest w of the fewest largest w of which the sum reaches top_p of what top_k kept
           and w_i >= min_p
    token = the first i whose running sum of kept w, in order of token id, exceeds u * (sum of kept w)

Filters are thresholds: equal weights stay or go together, and rounding cannot change an order. u is one number in
[0, 1) from Philox4x32-10 with the row's seed as key and the token's index in the answer as counter, so that a token
depends on nothing but its own request. Temperatures below 1e-5 take the largest logit, the lowest id among equals.
"""

import numpy as np
from numba import njit, prange

from engine.kernels.exp import FAST, exp
from engine.kernels.sharing import LOOPS

_GREEDY_BELOW = 1e-5
_NUM_BINS = 4096
_BIN_SHIFT = np.uint32(18)
"""A bin of the histogram is the exponent and five bits more of a weight's float32; weights are at most 1."""
_RUN = 256
"""Weights summed in one go; the running sum is searched by runs first."""


def philox_twin(seed: int, index: int) -> float:
    """Uniform in [0, 1) with 53 bits."""
    mask = 0xFFFFFFFF
    x0, x1, x2, x3 = index & mask, index >> 32, 0, 0
    key0, key1 = seed & mask, seed >> 32
    for _ in range(10):
        low, high = 0xD2511F53 * x0, 0xCD9E8D57 * x2
        x0, x1, x2, x3 = (high >> 32) ^ x1 ^ key0, high & mask, (low >> 32) ^ x3 ^ key1, low & mask
        key0, key1 = (key0 + 0x9E3779B9) & mask, (key1 + 0xBB67AE85) & mask
    return ((x0 << 21) | (x1 >> 11)) * 2.0**-53


def sample_twin(logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float, uniform: float) -> int:
    """One row `[V]`, in float64 and with sorts."""
    if temperature < _GREEDY_BELOW:
        return int(logits.argmax())
    weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    descending = np.sort(weights)[::-1]
    threshold = max(min_p, descending[top_k - 1] if 0 < top_k < len(weights) else 0.0)
    if top_p < 1:
        running = np.cumsum(descending[descending >= (descending[top_k - 1] if 0 < top_k < len(weights) else 0.0)])
        last = min(int(np.searchsorted(running, top_p * running[-1])), len(running) - 1)
        threshold = max(threshold, descending[last])
    running = np.cumsum(np.where(weights >= threshold, weights, 0.0))
    return int(np.searchsorted(running, uniform * running[-1], side="right"))


@njit(nogil=True)
def _philox(seed, index):  # type: ignore[no-untyped-def]
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    x0, x1, x2, x3 = index & mask, index >> half, np.uint64(0), np.uint64(0)
    key0, key1 = seed & mask, seed >> half
    for _ in range(10):
        low, high = np.uint64(0xD2511F53) * x0, np.uint64(0xCD9E8D57) * x2
        x0, x1, x2, x3 = (high >> half) ^ x1 ^ key0, high & mask, (low >> half) ^ x3 ^ key1, low & mask
        key0, key1 = (key0 + np.uint64(0x9E3779B9)) & mask, (key1 + np.uint64(0xBB67AE85)) & mask
    return np.float64((x0 << np.uint64(21)) | (x1 >> np.uint64(11))) * 2.0**-53


@njit(nogil=True, fastmath=FAST)
def _weigh(logits, temperature, weights):  # type: ignore[no-untyped-def]
    """Fill `weights`; the largest is 1, and what has no chance in float32 is exactly 0."""
    maximum = logits[0]
    for i in range(logits.shape[0]):
        maximum = max(maximum, logits[i])
    scale = np.float32(1.0 / temperature)
    for i in range(logits.shape[0]):
        power = (logits[i] - maximum) * scale
        weights[i] = exp(power) if power > np.float32(-87) else np.float32(0)


@njit(nogil=True)
def _descending(weights, bin_index):  # type: ignore[no-untyped-def]
    """The weights of one bin, largest first."""
    bits = weights.view(np.uint32)
    count = 0
    for i in range(bits.shape[0]):
        count += bits[i] >> _BIN_SHIFT == bin_index
    members = np.empty(count, np.float32)
    count = 0
    for i in range(bits.shape[0]):
        if bits[i] >> _BIN_SHIFT == bin_index:
            members[count] = weights[i]
            count += 1
    return np.sort(members)[::-1]


@njit(nogil=True)
def _kth_largest(weights, counts, k):  # type: ignore[no-untyped-def]
    above = 0
    for index in range(_NUM_BINS - 1, -1, -1):
        if above + counts[index] >= k:
            return _descending(weights, np.uint32(index))[k - above - 1]
        above += counts[index]
    return np.float32(0)


@njit(nogil=True)
def _nucleus(weights, masses, floor, top_p):  # type: ignore[no-untyped-def]
    """The smallest of the fewest largest weights whose sum reaches `top_p` of all that are at least `floor`."""
    floor_bin = np.int64(np.float32(floor).view(np.uint32) >> _BIN_SHIFT)
    total = 0.0
    for index in range(floor_bin, _NUM_BINS):
        total += masses[index]
    if floor > 0:  # some of the lowest bin lies below the floor
        for weight in _descending(weights, np.uint32(floor_bin)):
            total -= weight if weight < floor else 0.0
    target = top_p * total
    above = 0.0
    for index in range(_NUM_BINS - 1, floor_bin - 1, -1):
        if above + masses[index] >= target or index == floor_bin:
            last = np.float32(1)
            for weight in _descending(weights, np.uint32(index)):
                if weight < floor:
                    break
                last = weight
                above += weight
                if above >= target:
                    break
            return last
        above += masses[index]
    return np.float32(0)


@njit(nogil=True)
def _threshold(weights, top_k, top_p, min_p):  # type: ignore[no-untyped-def]
    """The smallest weight that all filters keep."""
    threshold = np.float32(0)
    by_rank, by_mass = 0 < top_k < weights.shape[0], top_p < 1
    if by_rank or by_mass:
        counts, masses = np.zeros(_NUM_BINS, np.int64), np.zeros(_NUM_BINS, np.float64)
        bits = weights.view(np.uint32)
        for i in range(weights.shape[0]):
            index = bits[i] >> _BIN_SHIFT
            counts[index] += 1
            masses[index] += weights[i]
        if by_rank:
            threshold = _kth_largest(weights, counts, top_k)
        if by_mass:
            threshold = max(threshold, _nucleus(weights, masses, threshold, top_p))
    return max(threshold, np.float32(min_p))


@njit(nogil=True, fastmath=FAST)
def _mass(weights, threshold):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(weights.shape[0]):
        total += np.float64(weights[i]) if weights[i] >= threshold else 0.0
    return total


@njit(nogil=True)
def _draw(weights, threshold, uniform):  # type: ignore[no-untyped-def]
    size = weights.shape[0]
    masses = np.empty((size + _RUN - 1) // _RUN, np.float64)
    total = 0.0
    for run in range(masses.shape[0]):
        masses[run] = _mass(weights[run * _RUN : (run + 1) * _RUN], threshold)
        total += masses[run]
    target = uniform * total
    running = 0.0
    chosen = 0
    for run in range(masses.shape[0]):
        if running + masses[run] <= target:
            running += masses[run]
            continue
        for i in range(run * _RUN, min(size, (run + 1) * _RUN)):
            if weights[i] >= threshold and weights[i] > 0:
                chosen = i
                running += weights[i]
                if running > target:
                    return i
        return chosen  # the run's own sum was rounded the other way
    return chosen


@njit(parallel=LOOPS, nogil=True, cache=True)
def _sample(logits, temperatures, top_ks, top_ps, min_ps, seeds, indices, out):  # type: ignore[no-untyped-def]
    for row in prange(logits.shape[0]):
        if temperatures[row] < _GREEDY_BELOW:
            out[row] = np.argmax(logits[row])
        else:
            weights = np.empty(logits.shape[1], np.float32)
            _weigh(logits[row], temperatures[row], weights)
            threshold = _threshold(weights, top_ks[row], top_ps[row], min_ps[row])
            out[row] = _draw(weights, threshold, _philox(seeds[row], indices[row]))


def sample(
    logits: np.ndarray,
    temperatures: np.ndarray,
    top_ks: np.ndarray,
    top_ps: np.ndarray,
    min_ps: np.ndarray,
    seeds: np.ndarray,
    indices: np.ndarray,
) -> np.ndarray:
    """Token ids `[R]` int64 of `logits` `[R, V]` float32.

    Temperatures, top_ps and min_ps are float64, top_ks int64, seeds and indices uint64, all `[R]`.
    """
    out = np.empty(len(logits), np.int64)
    _sample(logits, temperatures, top_ks, top_ps, min_ps, seeds, indices, out)
    return out
