"""What each key has used of each model since the frontend began: requests that workers took, and their tokens.

A request counts when it ends, however it ends: what was computed for a client that left in the middle was used as well.
Knows who may see which. Does not know limits (`frontend.callers`), or how requests go.
"""

import time
from dataclasses import dataclass, field

import msgspec

from frontend.callers import Caller
from frontend.records import RequestRecord

MAX_ACCOUNTS = 4096
"""Keys come and go with their file, and a frontend may run for a year."""
OTHERS = "(others)"
"""The key that everything counts for beyond that."""


class Used(msgspec.Struct, kw_only=True):
    """By one key, of one model."""

    key: str
    """Its name; empty: the server's own key, or none is needed."""
    model: str
    """The one that answered."""
    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Those of the prompt's that were not computed again."""
    completion_tokens: int = 0


class UsageReport(msgspec.Struct, frozen=True, kw_only=True):
    """What this key may see: its own, or everybody's."""

    since_s: float
    """Unix: when this frontend began to count, from zero."""
    at_s: float
    used: list[Used]
    """By key, then by model."""


@dataclass(slots=True)
class Accounts:
    """Of one frontend. Called on its event loop alone."""

    since_s: float = field(default_factory=time.time)
    _used: dict[tuple[str, str], Used] = field(default_factory=dict)

    def add(self, record: RequestRecord) -> None:
        """A request has ended."""
        if not any(attempt.decision for attempt in record.attempts):
            return  # no worker had it
        used = self._of(record.key, record.model)
        used.requests += 1
        used.prompt_tokens += record.prompt_tokens
        used.cached_tokens += record.cached_tokens
        used.completion_tokens += record.output_tokens

    def all(self) -> list[Used]:
        return [self._used[place] for place in sorted(self._used)]

    def report(self, caller: Caller) -> UsageReport:
        """For who asks: an operator sees all, a key its own."""
        used = [each for each in self.all() if caller.is_operator or each.key == caller.name]
        return UsageReport(since_s=round(self.since_s, 3), at_s=round(time.time(), 3), used=used)

    def _of(self, key: str, model: str) -> Used:
        place = key, model
        if place not in self._used and len(self._used) >= MAX_ACCOUNTS:
            place = OTHERS, model
        if place not in self._used:
            self._used[place] = Used(key=place[0], model=model)
        return self._used[place]
