"""Cosines and sines of rotary embeddings for every position, in float32.

Knows the four ways to choose frequencies. The arithmetic, order and types included, is that of transformers, so that
tables agree to the last bit.
"""

import math

import torch

from engine.models.spec import RopeKind, RopeSpec


def rope_table(rope: RopeSpec, head_dim: int, max_context: int) -> torch.Tensor:
    """`[max context, D]` float32: the cosines of each position, then its sines, scaled by the attention factor."""
    angles = torch.arange(max_context).float()[:, None] * frequencies(rope, head_dim)
    return torch.cat((angles.cos(), angles.sin()), dim=-1) * rope.attention_factor


def frequencies(rope: RopeSpec, head_dim: int) -> torch.Tensor:
    """Radians per position, `[D / 2]`."""
    wavelengths = rope.theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
    match rope.kind:
        case RopeKind.DEFAULT:
            return 1.0 / wavelengths
        case RopeKind.LINEAR:
            return 1.0 / wavelengths / rope.factor
        case RopeKind.LLAMA3:
            return _llama3(rope, 1.0 / wavelengths)
        case RopeKind.YARN:
            return _yarn(rope, wavelengths)


def _llama3(rope: RopeSpec, plain: torch.Tensor) -> torch.Tensor:
    """High frequencies stay, low ones are divided by the factor, those between are blended."""
    original, low, high = rope.original_max_context, rope.low_freq_factor, rope.high_freq_factor
    wavelengths = 2 * math.pi / plain
    stretched = torch.where(wavelengths > original / low, plain / rope.factor, plain)
    share = (original / wavelengths - low) / (high - low)
    blended = (1 - share) * stretched / rope.factor + share * stretched
    is_between = (wavelengths >= original / high) & (wavelengths <= original / low)
    return torch.where(is_between, blended, stretched)


def _yarn(rope: RopeSpec, wavelengths: torch.Tensor) -> torch.Tensor:
    """Dimensions that turn often within the original context stay, those that turn rarely are divided by the factor."""
    half = len(wavelengths)

    def dimension(num_turns: float) -> float:
        turns = rope.original_max_context / (num_turns * 2 * math.pi)
        return (2 * half * math.log(turns)) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * half - 1)
    if low == high:
        high += 0.001  # no step may be of width zero
    keep = 1 - ((torch.arange(half).float() - low) / (high - low)).clamp(0, 1)
    return 1.0 / (rope.factor * wavelengths) * (1 - keep) + 1.0 / wavelengths * keep
