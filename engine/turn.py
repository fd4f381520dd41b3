"""Workers that start together on one machine: they load side by side, then measure themselves one after the other.

Else each would find the machine as slow as the other's loading makes it, and believe that for as long as it lives. A
lock on this very file is what they share; it leaves nothing behind, not even after a crash.
"""

import fcntl
import time
from types import TracebackType

MAX_WAIT_S = 6.0
"""After this, better to measure beside somebody's loading than not to serve."""
LOOK_S = 0.02


class Turn:
    """Loading, from `with` to `wait`; measuring, from there to the end."""

    def __init__(self, max_wait_s: float = MAX_WAIT_S, path: str = __file__) -> None:
        self._max_wait_s = max_wait_s
        self._path = path

    def __enter__(self) -> "Turn":
        self._file = open(self._path, "rb")  # noqa: SIM115 - closed on exit
        self._take(fcntl.LOCK_SH)
        return self

    def wait(self) -> bool:
        """Return once nobody else loads or measures: True; or after the longest wait: False."""
        return self._take(fcntl.LOCK_EX)

    def _take(self, lock: int) -> bool:
        give_up_s = time.monotonic() + self._max_wait_s
        while True:
            try:
                fcntl.flock(self._file, lock | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= give_up_s:
                    return False
                time.sleep(LOOK_S)  # the lock knows no wait with an end
            else:
                return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
