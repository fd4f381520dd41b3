"""How many runs a context is split into for decode attention, and where they leave what the join needs.

Both are settled on the host before a step: they depend on how many sequences there are and on how long one may be, not
on how long each is, so that a captured graph holds for all.
"""

from dataclasses import dataclass

import torch

MIN_RUN = 128
"""Positions below which a run is not split further: its start and its join would cost more than it saves."""
MAX_SPLITS = 128
WAVES = 4
"""Programs per place on the device, at least, where contexts are long enough: the last wave is a part of the whole."""
PROGRAMS_PER_CORE = 3
"""That a multiprocessor holds at a time, by their shared memory."""


def choose_splits(num_sequences: int, num_kv_heads: int, max_context: int, num_cores: int) -> int:
    """Runs that a context is split into at most, when none is longer than `max_context` positions.

    The fewest that give every place on the device `WAVES` programs, and none shorter than `MIN_RUN` at that length.
    The same number must be used for a captured graph as long as it is replayed. Sums are rounded in another order with
    another number: whoever wants a sequence's bits to be independent of its batch passes the same to every step.
    """
    wanted = -(-WAVES * PROGRAMS_PER_CORE * num_cores // max(1, num_sequences * num_kv_heads))
    return max(1, min(wanted, -(-max_context // MIN_RUN), MAX_SPLITS))


@dataclass(frozen=True, slots=True)
class Workspace:
    """What runs leave for the join; as many rows as any step has sequences times splits. May serve every layer."""

    totals: torch.Tensor
    """[rows, H, D] float32"""
    peaks: torch.Tensor
    """[rows, H] float32"""
    weights: torch.Tensor
    """[rows, H] float32"""

    @classmethod
    def allocate(cls, num_rows: int, num_heads: int, head_dim: int, device: torch.device | str) -> "Workspace":
        totals = torch.empty(num_rows, num_heads, head_dim, dtype=torch.float32, device=device)
        peaks, weights = torch.empty(2, num_rows, num_heads, dtype=torch.float32, device=device)
        return cls(totals, peaks, weights)
