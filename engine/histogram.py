"""Counts values by buckets that double: small enough to be told several times a second, over any range.

Import-light. Does not know what the values are, nor Prometheus.
"""

import math
from dataclasses import dataclass, field

FIRST_STEP_S = 0.0001
"""Where the first bucket of step times ends; of sequences and tokens it ends at 1."""
MAX_BUCKETS = 32
"""A last one takes whatever is larger."""


@dataclass(frozen=True, slots=True)
class Buckets:
    """How many values fell into each; those after the last that is told are empty."""

    counts: tuple[int, ...] = ()
    sum: float = 0.0


@dataclass(slots=True)
class Histogram:
    """The first bucket ends at `first`, each other at twice of where the one before it does."""

    first: float = 1.0
    _counts: list[int] = field(default_factory=list)
    _sum: float = 0.0

    def add(self, value: float) -> None:
        # frexp: value / first is at most 2 ** exponent, and reaches it only where the mantissa is exactly a half.
        mantissa, exponent = math.frexp(value / self.first)
        bucket = min(max(exponent - (mantissa == 0.5), 0), MAX_BUCKETS - 1)
        if bucket >= len(self._counts):
            self._counts += [0] * (bucket + 1 - len(self._counts))
        self._counts[bucket] += 1
        self._sum += value

    @property
    def now(self) -> Buckets:
        return Buckets(tuple(self._counts), self._sum)


@dataclass(frozen=True, slots=True)
class Steps:
    """Of a worker's steps, since its start."""

    seconds: Buckets = Buckets()
    sequences: Buckets = Buckets()
    tokens: Buckets = Buckets()


@dataclass(slots=True)
class StepMeter:
    """Called by the thread that steps; what `now` returns may be read by any."""

    _seconds: Histogram = field(default_factory=lambda: Histogram(FIRST_STEP_S))
    _sequences: Histogram = field(default_factory=Histogram)
    _tokens: Histogram = field(default_factory=Histogram)

    def add(self, seconds: float, num_sequences: int, num_tokens: int) -> None:
        """A step is over."""
        self._seconds.add(seconds)
        self._sequences.add(num_sequences)
        self._tokens.add(num_tokens)

    @property
    def now(self) -> Steps:
        return Steps(self._seconds.now, self._sequences.now, self._tokens.now)
