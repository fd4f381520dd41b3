"""When a call that failed is tried again, and for how long a call may take. No call, no sleep: who calls does both."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from tandem_client.errors import Overloaded, TandemError, Unavailable


@dataclass(frozen=True, slots=True)
class Retries:
    """What is refused for now, or did not reach the server, is tried again. The server's own word on when counts."""

    max_tries: int = 4
    """In a row, the first one included; 1 never tries again."""
    first_wait_s: float = 0.2
    """Doubled from try to try, where the server says nothing; a random part of it is left out."""
    max_wait_s: float = 30.0
    """Where the server says to wait for longer, its refusal stands."""

    def wait_s(self, num_tries: int, draw: Callable[[], float]) -> float:
        """After so many tries; `draw` is from 0 to 1."""
        return float(min(self.first_wait_s * 2 ** (num_tries - 1), self.max_wait_s) * (1 + draw()) / 2)


RETRIES = Retries()
"""Of who wants nothing else."""


class Tries:
    """The tries of one call, and the time that is left for it."""

    def __init__(
        self,
        retries: Retries,
        timeout_s: float | None,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._retries = retries
        self._clock = clock
        self._draw = draw
        self._ends_at = None if timeout_s is None else clock() + timeout_s
        self._num_tries = 0
        self._broken_at: float | None = None

    @property
    def left_s(self) -> float | None:
        """Until the call's timeout; None without one."""
        return None if self._ends_at is None else max(0.0, self._ends_at - self._clock())

    def succeeded(self) -> None:
        """What fails from here on is another matter."""
        self._num_tries = 0
        self._broken_at = None

    def wait_to_repeat(self, error: TandemError) -> float:
        """Seconds until the call may be made again from its beginning. Raises `error` where it is final."""
        self._num_tries += 1
        wait_s = self._retries.wait_s(self._num_tries, self._draw)
        match error:
            case Overloaded(retry_after_s=float(told_s)) if told_s <= self._retries.max_wait_s:
                wait_s = told_s * (1 + 0.1 * self._draw())  # not all at once
            case Unavailable():
                pass
            case _:
                raise error
        if self._num_tries >= self._retries.max_tries:
            raise error
        return self._in_time(wait_s, error)

    def wait_to_resume(self, error: TandemError, grace_s: float) -> float:
        """Seconds until an answer that broke off may be asked for again. Raises `error` when the server will have
        forgotten it by then."""
        now = self._clock()
        self._broken_at = now if self._broken_at is None else self._broken_at
        self._num_tries += 1
        wait_s = min(self._retries.wait_s(self._num_tries, self._draw), 1.0)
        if now + wait_s > self._broken_at + grace_s:
            raise error
        return self._in_time(wait_s, error)

    def _in_time(self, wait_s: float, error: TandemError) -> float:
        if self.left_s is not None and wait_s >= self.left_s:
            raise error
        return wait_s
