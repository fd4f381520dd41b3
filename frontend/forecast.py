"""When a request that comes now would have its first token. Pure.

Workers that are full let one in as one ends, so the wait follows from who is served, who waits before the newcomer, and
how long answers are:

    left      of an answer under way: to its first token what the router predicted, from there the tokens that it will
              probably still have, times the time between two tokens
    wait      places come free as answers end; those who wait take them in turn and keep them for their own answers

What comes of that is corrected by how forecasts have turned out. What is *likely* is what half of the first tokens came
within lately; those who are taken at once and those who wait are told apart, for what a wait is underestimated by says
nothing of the router's estimate. What is *promised* leaves a margin to that: as much as it takes that all but a few of
those who have a limit, and could miss it, do not. Who is let in is judged by what can be promised, for nobody is helped
by a promise that is right on average; when to come back is said by what is likely, for a promise that is kept early is
none. While nobody comes near his limit there is no margin: it is for those times when everybody does.

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
"""The share of first tokens that shall come within their limit, of those that might not."""
BIAS_STEP = 0.2
BIAS_HALF_LIFE_S = 20.0
MOST_TIMES = 8.0
MOST_MARGIN = 1.5
"""Those who come at one moment are late together: a margin cannot mend that, and a large one lets nobody in."""
NEAR = 0.25
"""Of its limit: who is likely to take a smaller share of it does not miss it for what the margin is for."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a request takes, as known when it comes."""

    prompt_tokens: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """For a request that comes now: times as computed, and how they are corrected."""

    queue_position: int
    """How many requests go before it; 0 is at once."""
    wait_s: float
    """Until a worker takes it; 0 where one has a place now."""
    first_s: float
    """From then to its first token."""
    likely: float = 1.0
    """Half of the first tokens come within so many times what was computed (`stretched`)."""
    promise: float = 1.0
    """And almost all that have a limit come within it if so many times what is likely does."""
    grain_s: float = 0.0

    @property
    def computed_s(self) -> float:
        return self.wait_s + self.first_s

    @property
    def ttft_s(self) -> float:
        """As it is likely to be."""
        return stretched(self.computed_s, self.likely, self.grain_s)

    @property
    def promised_s(self) -> float:
        """Until the first token, for all but a few."""
        return self.promised(self.computed_s)

    @property
    def promised_wait_s(self) -> float:
        return self.promise * self.likely * self.wait_s

    def promised(self, computed_s: float) -> float:
        """What is computed to take so long takes no longer than that, for all but a few."""
        return stretched(stretched(computed_s, self.likely, self.grain_s), self.promise, self.grain_s)

    def until_promised_s(self, computed_s: float, limit_s: float) -> float:
        """Until what takes `computed_s` for a request that comes now will be promised within `limit_s` to another."""
        most_s = (limit_s + self.grain_s) / self.promise - self.grain_s
        return stretched(computed_s, self.likely, self.grain_s) - most_s


def stretched(computed_s: float, times: float, grain_s: float) -> float:
    """So many times as long; where that is longer, `grain_s` more is stretched, too: short forecasts are off by more of
    themselves than long ones, for a step under way is as long for either."""
    return times * computed_s if times < 1 else times * (computed_s + grain_s) - grain_s


@dataclass(slots=True)
class Quantile:
    """What to multiply by so that a share of times is no longer than that: a quantile, by stochastic gradient.

    It is forgotten in time: one so high that everybody is refused would never be proved wrong. Times are of one clock.
    """

    share: float
    least: float = 1 / MOST_TIMES
    most: float = MOST_TIMES
    _log: float = 0.0
    _noted_at_s: float = 0.0

    def times(self, now_s: float) -> float:
        return math.exp(self._log * 0.5 ** ((now_s - self._noted_at_s) / BIAS_HALF_LIFE_S))

    def note(self, *, longer: bool, now_s: float) -> None:
        """Whether one has taken longer than that."""
        step = BIAS_STEP * (self.share if longer else self.share - 1)
        after = math.log(self.times(now_s)) + step
        self._log = min(max(after, math.log(self.least)), math.log(self.most))
        self._noted_at_s = now_s


@dataclass(slots=True)
class Bias:
    """How first tokens have come against what was computed."""

    likely: Quantile = field(default_factory=lambda: Quantile(0.5))
    grain_s: float = 0.0
    """What was computed lately, on average."""

    def came_true(self, computed_s: float, actual_s: float, now_s: float) -> None:
        self.grain_s += (NEWEST if self.grain_s else 1.0) * (computed_s - self.grain_s)
        expected_s = stretched(computed_s, self.likely.times(now_s), self.grain_s)
        self.likely.note(longer=actual_s > expected_s, now_s=now_s)


@dataclass(slots=True)
class Margin:
    """What is added to what is likely for a promise."""

    promise: Quantile = field(default_factory=lambda: Quantile(PROMISE, least=1.0, most=MOST_MARGIN))

    def came_true(self, likely_s: float, actual_s: float, limit_s: float, now_s: float) -> None:
        """Note a first token that had a limit. One that could not miss it says nothing."""
        if actual_s > limit_s or likely_s > NEAR * limit_s:
            self.promise.note(longer=actual_s > limit_s, now_s=now_s)


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
