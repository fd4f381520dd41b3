"""Where a worker's clock stands against this process's, by questions that it answers, and how far that may be off.

A question and its answer bear four times: T1 and T4 of this process's monotonic clock, when the one went and the other
came; T2 and T3 of the worker's in between. By RFC 5905 (section 8)

    offset   θ = ((T2 - T1) + (T3 - T4)) / 2     how far the worker's clock is ahead
    delay    δ = (T4 - T1) - (T3 - T2)           the round trip, less the time spent on the worker

Neither way took less than no time. So the truth is within δ/2 of θ, however unlike the two ways are; and clocks drift
apart, during the exchange and with its age:

    within(t) = δ/2 + DRIFT · (T4 - T1) + DRIFT · |t - T4|

One answer is kept, the one that leaves least room now: the shortest round trip, until it is so old that a longer one
says more. An answer whose room does not meet the kept one's proves that a clock has jumped; then the newer one counts.

All this is on monotonic clocks, which nobody sets. Every answer also tells where the worker's wall clock stands beside
its monotonic one, so that one that is set is noticed with the next answer.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat

from engine.clock import DRIFT, own_axis
from protos import worker_pb2 as pb

PROBE_EVERY_S = 1.0
FIRST_PROBES = 4
"""That follow each other sooner: the first one's way is the longest, for the stream is being opened."""
FIRST_PROBE_EVERY_S = 0.05
_MAX_ASKED = 8
"""Questions that may be under way."""


def pauses_s() -> Iterator[float]:
    """Before each question on a new stream."""
    return chain((0.0,), repeat(FIRST_PROBE_EVERY_S, FIRST_PROBES - 1), repeat(PROBE_EVERY_S))


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment of this process's monotonic clock, give or take."""

    ns: int
    within_ns: int | None
    """None: nobody knows."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """How far a worker's wall clock is ahead of ours, give or take."""

    seconds: float
    within_s: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one answer has told."""

    ahead_ns: int
    """The worker's monotonic clock, of ours."""
    room_ns: int
    """It may have been so much more or less when the answer came."""
    at_ns: int
    """When that was, on our clock."""

    @classmethod
    def of(cls, reply: pb.ClockReply, now_ns: int) -> "Estimate | None":
        """None: the times contradict each other."""
        there_ns, whole_ns = reply.answered_ns - reply.received_ns, now_ns - reply.sent_ns
        ahead_ns = (reply.received_ns - reply.sent_ns + reply.answered_ns - now_ns) // 2
        room_ns = math.ceil((whole_ns - there_ns) / 2 + DRIFT * whole_ns) + 1  # for what is rounded
        return cls(ahead_ns, room_ns, now_ns) if there_ns >= 0 and room_ns > 0 else None

    def within_ns(self, at_ns: int) -> int:
        return self.room_ns + math.ceil(DRIFT * abs(at_ns - self.at_ns))

    def meets(self, other: "Estimate", at_ns: int) -> bool:
        """Whether both can be true."""
        return abs(self.ahead_ns - other.ahead_ns) <= self.within_ns(at_ns) + other.within_ns(at_ns)


@dataclass(slots=True)
class Clock:
    """One start of a worker's. Times without a name are `time.monotonic_ns()`."""

    _best: Estimate | None = None
    _unix_at_zero_ns: int = 0
    """Of the worker's own wall clock, by its latest answer."""
    _asked: deque[int] = field(default_factory=lambda: deque(maxlen=_MAX_ASKED))

    def probe(self, now_ns: int) -> pb.ClockProbe:
        """The next question; it tells the worker what the answers so far have."""
        self._asked.append(now_ns)
        probe = pb.ClockProbe(sent_ns=now_ns)
        if self._best is not None:
            probe.axis.unix_at_zero_ns = own_axis().unix_at_zero_ns - self._best.ahead_ns
            probe.axis.within_ns = self._best.within_ns(now_ns)
        return probe

    def take(self, reply: pb.ClockReply, now_ns: int) -> None:
        """An answer came. One to no question, or to one of before the one that was answered last, says nothing."""
        if reply.sent_ns not in self._asked:
            return
        while self._asked.popleft() != reply.sent_ns:
            pass
        told, best = Estimate.of(reply, now_ns), self._best
        if told is None:
            return
        self._unix_at_zero_ns = reply.unix_at_zero_ns
        if best is None or not told.meets(best, now_ns) or told.room_ns <= best.within_ns(now_ns):
            self._best = told

    def here(self, worker_ns: int) -> Moment | None:
        """A moment of the worker's monotonic clock, on ours; None while nothing is known."""
        if (best := self._best) is None:
            return None
        ns = worker_ns - best.ahead_ns
        return Moment(ns, best.within_ns(ns))

    def ahead(self, now_ns: int) -> Ahead | None:
        """None while nothing is known."""
        if (best := self._best) is None:
            return None
        ahead_ns = best.ahead_ns + self._unix_at_zero_ns - own_axis().unix_at_zero_ns
        return Ahead(ahead_ns / 1e9, best.within_ns(now_ns) / 1e9)
