"""A prompt as one vector: its last hidden states, normalized as the head takes them, pooled over its tokens.

Frontends import this too: arrays are named here, and not made.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


class Pooling(Enum):
    """Which tokens count."""

    MEAN = auto()
    """All of them alike."""
    LAST = auto()
    """The one that has seen all others."""


@dataclass(slots=True)
class Pooled:
    """What has come of one prompt so far. Not of unit length: that is left to who asks."""

    pooling: Pooling
    _total: "np.ndarray | None" = None
    """[hidden size] float64: over a long prompt float32 would lose digits."""
    _end: int = 0
    """Positions taken in."""

    def take(self, start: int, hidden: "np.ndarray") -> None:
        """Take in the states `[T, hidden size]` of positions `start` to `start + T`. Who begins anew starts at 0."""
        if self.pooling is Pooling.LAST:
            self._total = hidden[-1].astype("float64")
        else:
            assert start in (0, self._end), f"positions {self._end} to {start} are missing"
            total: np.ndarray = hidden.sum(0, dtype="float64")
            self._total = total if start == 0 or self._total is None else self._total + total
        self._end = start + len(hidden)

    def vector(self) -> bytes:
        """`[hidden size]` float32, little-endian."""
        assert self._total is not None, "nothing was computed"
        count = self._end if self.pooling is Pooling.MEAN else 1
        return (self._total / count).astype("<f4").tobytes()
