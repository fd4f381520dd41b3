"""Durations are measured on the monotonic clock; traces want wall-clock times, and those of one trace one wall clock.

Every frontend tells its workers where their monotonic clocks stand on its own axis of time (`frontend.clock`).
"""

import time
from dataclasses import dataclass

DRIFT = 100e-6
"""How fast two hosts' monotonic clocks drift apart at most. RFC 5905 allows a clock that is kept in step 15e-6 (PHI);
crystals that nobody corrects are up to 50e-6 off, each."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A wall clock, as this process's monotonic one sees it."""

    unix_at_zero_ns: int
    """What it said when that one stood at 0."""
    within_ns: int | None = None
    """It may have been so much more or less. None: it is this host's own."""

    def unix_ns(self, monotonic_ns: int) -> int:
        """The wall-clock time of a moment of `time.monotonic_ns()`."""
        return self.unix_at_zero_ns + monotonic_ns


def own_axis() -> Axis:
    """This host's wall clock, now: somebody may set it. Of a few looks the quickest counts; others were interrupted."""
    return Axis(min(_look() for _ in range(3))[1])


def _look() -> tuple[int, int]:
    """How long it took, and what the wall clock was ahead."""
    before_ns, unix_ns, after_ns = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
    return after_ns - before_ns, unix_ns - (before_ns + after_ns) // 2
