"""The last minute in numbers: how long first tokens took and where that time went, and what got no answer.

Kept as samples, of which there are only so many: under heavy load they are of less than a minute, and that is said.
Does not know whose requests they are.
"""

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from frontend.ledger import IF_ANY, TTFT_SEGMENTS
from frontend.records import RequestRecord

WINDOW_S = 60.0
MAX_SAMPLES = 2048
_FIGURES = 5
"""Of a sample before its segments: when, TTFT, prompt, cached and output tokens."""


class LastMinute(msgspec.Struct, frozen=True, kw_only=True):
    """Of requests that ended in it."""

    over_s: float
    """A minute; less where the server is younger, or had more requests than are looked at."""
    num_answered: int
    """That had a first token."""
    num_failed: dict[str, int]
    """That had no whole answer, by reason."""
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    ttft_mean_ms: float | None
    """None where there is no first token to tell of, as for the others."""
    ttft_p50_ms: float | None
    ttft_p95_ms: float | None
    ttft_max_ms: float | None
    ttft_segments: dict[str, float]
    """Means; they sum to that of the time to first token."""
    answers_per_s: float
    """This and what follows: the counts above, over that time."""
    prompt_tokens_per_s: float
    output_tokens_per_s: float
    cached_share: float
    """Of the prompts' tokens."""


@dataclass(slots=True)
class Minute:
    """Takes what ended, tells of the last minute."""

    now: Callable[[], float] = time.monotonic
    _began_s: float = field(init=False)
    _answered: deque[tuple[float, ...]] = field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))
    _failed: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))

    def __post_init__(self) -> None:
        self._began_s = self.now()

    def add(self, record: RequestRecord) -> None:
        if record.ttft_ms is not None:
            counts = record.prompt_tokens, record.cached_tokens, record.output_tokens
            parts = (record.ttft_segments.get(name, 0.0) for name in TTFT_SEGMENTS)
            self._answered.append((self.now(), record.ttft_ms, *counts, *parts))
        if record.failed:
            self._failed.append((self.now(), record.limit if record.used_up_key else record.outcome))

    def summary(self) -> LastMinute:
        now_s = self.now()
        samples = [sample for sample in self._answered if sample[0] > now_s - WINDOW_S]
        failures = Counter(reason for at_s, reason in self._failed if at_s > now_s - WINDOW_S)
        since_s = samples[0][0] if len(samples) == MAX_SAMPLES else self._began_s
        over_s = min(now_s - since_s, WINDOW_S)
        _, ttfts, prompt, cached, output, *parts = zip(*samples, strict=True) if samples else ((),) * _width()
        ordered = sorted(ttfts)
        return LastMinute(
            over_s=round(over_s, 1),
            num_answered=len(samples),
            num_failed=dict(failures),
            prompt_tokens=int(sum(prompt)),
            cached_tokens=int(sum(cached)),
            output_tokens=int(sum(output)),
            ttft_mean_ms=_mean(ordered),
            ttft_p50_ms=_quantile(ordered, 0.5),
            ttft_p95_ms=_quantile(ordered, 0.95),
            ttft_max_ms=ordered[-1] if ordered else None,
            ttft_segments={
                name: round(sum(values) / len(samples), 3)
                for name, values in zip(TTFT_SEGMENTS, parts, strict=True)
                if values and (name not in IF_ANY or any(values))
            },
            answers_per_s=_rate(len(samples), over_s),
            prompt_tokens_per_s=_rate(sum(prompt), over_s),
            output_tokens_per_s=_rate(sum(output), over_s),
            cached_share=round(sum(cached) / sum(prompt), 4) if any(prompt) else 0.0,
        )


def _width() -> int:
    return _FIGURES + len(TTFT_SEGMENTS)


def _rate(number: float, over_s: float) -> float:
    return round(number / over_s, 3) if over_s else 0.0


def _mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 3) if values else None


def _quantile(ordered: list[float], share: float) -> float | None:
    """The smallest of the values than which `share` of them are no larger."""
    return ordered[max(-(-int(share * 1000) * len(ordered) // 1000) - 1, 0)] if ordered else None
