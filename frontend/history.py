"""The last half hour in periods of ten seconds: where the time to first tokens went, and who was served in time.

Sums and counts alone, so that periods can be added up; a period costs what a few records do, and one in which nothing
ended costs nothing. Does not know whose requests they are.
"""

import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from engine.errors import CODES
from frontend.events import Finish
from frontend.records import RequestRecord, RouterDecision

PERIOD_S = 10
NUM_PERIODS = 180
TTFT_LIMITS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
TPOT_LIMITS_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.5)
LINKS_OVER_S = 60.0
MAX_ROUTED = 4096
SERVER_FAULTS = frozenset(kind.reason for kind, code in CODES.items() if code.http in (429, 500, 503, 504))
"""Outcomes that are not the caller's fault. Overload is among them, unless it is a key's own limit."""
WHOLE = frozenset(finish.value for finish in Finish)
"""Outcomes of answers that came to their end."""


class Period(msgspec.Struct, kw_only=True):
    """Requests that ended in it, added up."""

    at_s: int
    """Unix, of its beginning."""
    num_answered: int = 0
    """That had a first token."""
    num_faults: int = 0
    """That had no whole answer, and not by their caller's doing."""
    ttft_ms: float = 0.0
    ttft_segments: dict[str, float] = msgspec.field(default_factory=dict)
    """They sum to `ttft_ms`."""
    num_second: int = 0
    """That had a second token."""
    second_token_ms: float = 0.0
    second_token_segments: dict[str, float] = msgspec.field(default_factory=dict)
    ttft_within: list[int] = msgspec.field(default_factory=lambda: [0] * len(TTFT_LIMITS_S))
    """How many had their first token within each limit."""
    num_paced: int = 0
    """Whole answers of several tokens."""
    tpot_within: list[int] = msgspec.field(default_factory=lambda: [0] * len(TPOT_LIMITS_S))
    """How many of those had each further token, on average, within each limit."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    for_prefill_ms: float = 0.0
    """Waited for a prefill worker."""
    for_decode_ms: float = 0.0
    """Waited for a decode worker: for room, for a prompt to be computed there, for the step that joins it."""
    computing_ms: float = 0.0
    """Of prompts, on prefill workers."""


class LinkTraffic(msgspec.Struct, frozen=True):
    """Requests that were sent one way lately."""

    prefill: str | None
    """None: the decode worker computed the prompt."""
    decode: str
    num_requests: int


@dataclass(slots=True)
class History:
    """Takes what ended and where requests were sent, tells of the last half hour."""

    now: Callable[[], float] = time.monotonic
    unix_now: Callable[[], float] = time.time
    _periods: deque[tuple[int, Period]] = field(default_factory=lambda: deque(maxlen=NUM_PERIODS))
    """By number, of those in which anything ended."""
    _routed: deque[tuple[float, str | None, str]] = field(default_factory=lambda: deque(maxlen=MAX_ROUTED))

    def add(self, record: RequestRecord) -> None:
        period = self._current()
        if record.outcome in SERVER_FAULTS and not record.used_up_key:
            period.num_faults += 1
        if record.ttft_ms is None:
            return
        period.num_answered += 1
        period.ttft_ms += record.ttft_ms
        _add_up(period.ttft_segments, record.ttft_segments)
        _count(period.ttft_within, TTFT_LIMITS_S, record.ttft_ms)
        period.prompt_tokens += record.prompt_tokens
        period.cached_tokens += record.cached_tokens
        period.output_tokens += record.output_tokens
        if record.second_token_ms is not None:
            period.num_second += 1
            period.second_token_ms += record.second_token_ms
            _add_up(period.second_token_segments, record.second_token_segments)
        if record.outcome in WHOLE and record.output_tokens > 1:
            period.num_paced += 1
            _count(period.tpot_within, TPOT_LIMITS_S, (record.e2e_ms - record.ttft_ms) / (record.output_tokens - 1))
        _note_sides(period, record)

    def decided(self, decision: RouterDecision) -> None:
        self._routed.append((self.now(), decision.prefill, decision.decode))

    def periods(self) -> list[Period]:
        """Oldest first, without those in which nothing ended."""
        oldest = self._number() - NUM_PERIODS
        return [period for number, period in self._periods if number > oldest]

    def links(self) -> list[LinkTraffic]:
        """Of the last `LINKS_OVER_S`, or of the latest `MAX_ROUTED`."""
        since_s = self.now() - LINKS_OVER_S
        counts = Counter((prefill, decode) for at_s, prefill, decode in self._routed if at_s > since_s)
        return [LinkTraffic(prefill, decode, number) for (prefill, decode), number in counts.items()]

    def _current(self) -> Period:
        number = self._number()
        if not self._periods or self._periods[-1][0] != number:
            at_s = self.unix_now() - (self.now() - number * PERIOD_S)
            self._periods.append((number, Period(at_s=round(at_s))))
        return self._periods[-1][1]

    def _number(self) -> int:
        return int(self.now() // PERIOD_S)


def _add_up(sums: dict[str, float], segments: Mapping[str, float]) -> None:
    for name, ms in segments.items():
        sums[name] = round(sums.get(name, 0.0) + ms, 3)


def _count(within: list[int], limits_s: tuple[float, ...], ms: float) -> None:
    for index in range(bisect_left(limits_s, ms / 1e3), len(limits_s)):
        within[index] += 1


def _note_sides(period: Period, record: RequestRecord) -> None:
    """Whom a request waited for: a prompt's queue is that of whoever computed it."""
    decision = record.attempts[-1].decision if record.attempts else None
    queued_ms = record.ttft_segments.get("prefill_queue", 0.0)
    period.for_decode_ms += record.ttft_segments.get("grant", 0.0)
    period.for_decode_ms += record.second_token_segments.get("decode_queue", 0.0)
    if decision is not None and decision.prefill is not None:
        period.for_prefill_ms += queued_ms
        period.computing_ms += record.ttft_segments.get("prefill_compute", 0.0)
    else:
        period.for_decode_ms += queued_ms
