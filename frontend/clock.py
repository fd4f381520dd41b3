"""How far another process's clock is from this one's, by what it says the time is.

A report is as old as the way it came took: what it says is behind by at least that. Of the last reports the one counts
that was behind least, or ahead most: its way was the shortest. No answer is sent back, so how long that one took is
not known; on one network it is well below a millisecond, and nothing is ever subtracted across clocks but here.
"""

import time
from collections import deque
from dataclasses import dataclass, field

WINDOW_S = 60.0
_PARTS = 6
"""That the window is kept in: only the best of each."""


@dataclass(slots=True)
class Clock:
    """One other process's."""

    _best: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_PARTS))
    """When each part began (`time.monotonic()`), and by how much the other was ahead at most in it, in seconds."""

    def heard(self, unix_ns: int, now_unix_ns: int, now_s: float) -> None:
        """The other process said that it was `unix_ns`; 0 says nothing."""
        if not unix_ns:
            return
        ahead_s = (unix_ns - now_unix_ns) / 1e9
        if not self._best or now_s - self._best[-1][0] >= WINDOW_S / _PARTS:
            self._best.append((now_s, ahead_s))
        else:
            began_s, most_s = self._best[-1]
            self._best[-1] = began_s, max(most_s, ahead_s)

    def forget(self) -> None:
        """Another process is there, or none."""
        self._best.clear()

    @property
    def ahead_s(self) -> float | None:
        """None until something was heard."""
        since_s = time.monotonic() - WINDOW_S * (1 + 1 / _PARTS)
        return max((ahead_s for began_s, ahead_s in self._best if began_s >= since_s), default=None)
