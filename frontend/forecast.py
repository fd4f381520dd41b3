"""When a request that comes now would have its first token. Pure.

Workers that are full let one in as one ends, so the wait follows from who is served, who waits before the newcomer, and
how long answers are:

    left      of an answer under way: to its first token what the router predicted, from there the tokens that it will
              probably still have, times the time between two tokens
    wait      places come free as answers end; those who wait take them in turn and keep them for their own answers

What comes of that is corrected by how forecasts have turned out, in two ways. Who is let in is promised what all but
a few stayed within, for nobody is helped by a promise that is right on average; when to come back is said by what was
right on average, for a promise that is kept early is none. Those who are taken at once and those who wait are told
apart: what a wait is underestimated by says nothing of the router's estimate.

An answer is expected to have the share of its `max_tokens` that those which ended lately had; the time between two of
its tokens is theirs as well, once there is one, and until then what workers measured.
"""

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

NEWEST = 0.1
"""Weight of the latest answer in the averages, once there have been as many that it is not less than an equal share."""
PROMISE = 0.95
"""The share of first tokens that shall come within what is promised."""
BIAS_STEP = 0.2
BIAS_HALF_LIFE_S = 20.0
MAX_LOG = math.log(8.0)


@dataclass(frozen=True, slots=True)
class Demand:
    """What a request takes, as known when it comes."""

    prompt_tokens: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """For a request that comes now: times as computed, and what to multiply them by."""

    queue_position: int
    """How many requests go before it; 0 is at once."""
    wait_s: float
    """Until a worker takes it; 0 where one has a place now."""
    first_s: float
    """From then to its first token."""
    likely: float = 1.0
    """Half of the first tokens come within so many times what was computed."""
    promise: float = 1.0
    """And all but a few within so many times, where `grain_s` is added to both."""
    grain_s: float = 0.0
    """Short forecasts are off by more of themselves than long ones: a step under way is as long for either."""

    @property
    def computed_s(self) -> float:
        return self.wait_s + self.first_s

    @property
    def ttft_s(self) -> float:
        """As it is likely to be."""
        return self.likely * self.computed_s

    @property
    def promised_s(self) -> float:
        """Until the first token, for all but a few."""
        return self.promised(self.computed_s)

    def promised(self, computed_s: float) -> float:
        """What is computed to take so long takes no longer than that, for all but a few."""
        return self.promise * (computed_s + self.grain_s) - self.grain_s

    def until_promised_s(self, computed_s: float, limit_s: float) -> float:
        """Until what takes `computed_s` for a request that comes now will be promised within `limit_s` to another."""
        return self.likely * (computed_s - ((limit_s + self.grain_s) / self.promise - self.grain_s))


@dataclass(slots=True)
class Quantile:
    """What a share of first tokens takes at most, against their forecasts: a quantile, by stochastic gradient.

    It is forgotten in time: one so high that everybody is refused would never be proved wrong. Times are of one clock.
    """

    share: float
    _log: float = 0.0
    _noted_at_s: float = 0.0

    def times(self, now_s: float) -> float:
        """What to multiply a forecast by."""
        return math.exp(self._log * 0.5 ** ((now_s - self._noted_at_s) / BIAS_HALF_LIFE_S))

    def came_true(self, computed_s: float, actual_s: float, now_s: float) -> None:
        """Note when a first token came for which this was computed."""
        times = self.times(now_s)
        step = BIAS_STEP * (self.share if actual_s > times * computed_s else self.share - 1)
        self._log = min(max(math.log(times) + step, -MAX_LOG), MAX_LOG)
        self._noted_at_s = now_s


@dataclass(slots=True)
class Bias:
    """How first tokens have come against their forecasts."""

    likely: Quantile = field(default_factory=lambda: Quantile(0.5))
    promise: Quantile = field(default_factory=lambda: Quantile(PROMISE))
    _grain_s: float = 0.0
    """What was computed lately, on average."""

    def came_true(self, computed_s: float, actual_s: float, now_s: float) -> None:
        self._grain_s += (NEWEST if self._grain_s else 1.0) * (computed_s - self._grain_s)
        self.likely.came_true(computed_s, actual_s, now_s)
        self.promise.came_true(computed_s + self._grain_s, actual_s + self._grain_s, now_s)

    def corrected(self, queue_position: int, waits_s: float, first_s: float, now_s: float) -> Forecast:
        likely, promise = self.likely.times(now_s), self.promise.times(now_s)
        return Forecast(queue_position, waits_s, first_s, likely, promise, self._grain_s)


@dataclass(slots=True)
class Pace:
    """What answers have been like: moving averages over those that ended."""

    token_s: float = 0.0
    """Between two tokens of an answer; 0 while unknown."""
    _share: float = 1.0
    _num_ended: int = 0

    def ended(self, num_tokens: int, max_tokens: int, seconds: float | None) -> None:
        """Note an answer of so many tokens. `seconds` are from its first to its last; None if they say nothing."""
        self._num_ended += 1
        weight = max(NEWEST, 1 / self._num_ended)
        self._share += weight * (num_tokens / max_tokens - self._share)
        if num_tokens > 1 and seconds is not None:
            each_s = seconds / (num_tokens - 1)
            self.token_s += (weight if self.token_s else 1.0) * (each_s - self.token_s)

    def tokens_left(self, num_tokens: int, max_tokens: int) -> float:
        """How many more an answer that has `num_tokens` will probably get."""
        expected = self._share * max_tokens
        return expected - num_tokens if num_tokens < expected else self._share * (max_tokens - num_tokens)


def wait_s(left_s: Iterable[float], held_s: Iterable[float]) -> float:
    """Until a place is free for who comes now: `left_s` of those served, `held_s` of those before it, in order."""
    free_at_s = list(left_s)
    if not free_at_s:
        return 0.0
    heapq.heapify(free_at_s)
    for seconds in held_s:
        heapq.heapreplace(free_at_s, free_at_s[0] + seconds)
    return free_at_s[0]
