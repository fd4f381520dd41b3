"""Streams that never stop: of every kind of sampling, known prompts and new ones, a part left by their clients.

What is known is asked once before; what is new, again at the end, when nobody is hurt any more.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from cli.chaos.answers import Heard, beginning_differs, difference
from cli.chaos.asks import PATIENT, Ask, Behavior, Dialect, Kind, Served, make_asks
from cli.chaos.talk import Failed, Talk

NUM_KNOWN = 32
NEW = 0.2
IMPATIENT, HURRIED = 0.12, 0.6
"""The part of clients that hang up: usually, and while a moment is waited for that comes with them."""
AT_ONCE = 8
CLEARED_PIECES = 8
"""Messages, each with a token at least: so much clears a request that a worker died with (`frontend.quarantine`)."""


@dataclass(slots=True)
class Stream:
    """One that runs."""

    heard_s: float
    num_pieces: int = 0
    longest_s: float = 0.0

    def note(self, num_pieces: int) -> None:
        now = time.monotonic()
        self.longest_s, self.heard_s = max(self.longest_s, now - self.heard_s), now
        self.num_pieces = num_pieces


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one stream came to."""

    ask: Ask
    is_whole: bool
    """False: its client left."""
    heard: Heard
    error: str | None
    longest_s: float


@dataclass(slots=True)
class Load:
    talk: Talk
    served: Served
    rng: random.Random
    known: list[Ask] = field(default_factory=list)
    right: dict[int, Heard] = field(default_factory=dict)
    """By the asks' numbers, which are negative where they are new."""
    outcomes: list[Outcome] = field(default_factory=list)
    hurried: bool = False
    ending: bool = False
    _streams: dict[int, Stream] = field(default_factory=dict)
    _num_new: int = 0

    async def learn(self) -> None:
        """What the known asks' answers are, undisturbed."""
        seed = self.rng.randrange(1 << 30)
        self.known = [replace(ask, dialect=Dialect.GRPC) for ask in make_asks(seed, NUM_KNOWN, self.served)]
        await self._ask_undisturbed(self.known)

    async def run(self, at_once: int) -> None:
        """So many clients, until `ending` and all have their answers."""
        await asyncio.gather(*(self._client(number) for number in range(at_once)))

    def clearing(self) -> Callable[[], bool]:
        """Whether each stream that runs now has ended, or got on far enough that no death is held against it."""
        before = {number: (stream, stream.num_pieces) for number, stream in self._streams.items()}
        return lambda: (
            not any(
                self._streams.get(number) is stream and stream.num_pieces < pieces + CLEARED_PIECES
                for number, (stream, pieces) in before.items()
            )
        )

    async def judge(self) -> list[str]:
        """What is wrong with any answer; asks what was new once more."""
        answered = [outcome for outcome in self.outcomes if outcome.error is None]
        await self._ask_undisturbed([outcome.ask for outcome in answered if outcome.ask.number < 0])
        wrong = []
        for outcome in answered:
            compare = difference if outcome.is_whole else beginning_differs
            if why := compare(self.right[outcome.ask.number], outcome.heard):
                wrong.append(f"{outcome.heard.request_id} ({outcome.ask.kind}): {why}")
        return wrong

    async def _ask_undisturbed(self, asks: Sequence[Ask]) -> None:
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(ask: Ask) -> None:
            async with turns:
                self.right[ask.number] = await self.talk.ask(ask)

        await asyncio.gather(*map(one, asks))

    async def _client(self, number: int) -> None:
        while not self.ending:
            stream = self._streams[number] = Stream(time.monotonic())
            ask, behavior = self._choose()
            try:
                heard, error = await self.talk.ask(ask, behavior, stream.note), None
            except Failed as failed:
                heard, error = failed.heard, str(failed)
            finally:
                del self._streams[number]
            self.outcomes.append(Outcome(ask, heard.finish is not None, heard, error, stream.longest_s))

    def _choose(self) -> tuple[Ask, Behavior]:
        rng = self.rng
        if rng.random() < NEW:
            self._num_new += 1
            made = rng.choice(make_asks(rng.randrange(1 << 30), len(Kind), self.served))
            ask = replace(made, dialect=Dialect.GRPC, number=-self._num_new)
        else:
            ask = rng.choice(self.known)
        leaves = rng.random() < (HURRIED if self.hurried else IMPATIENT)
        return ask, Behavior(max_pieces=rng.choice((0, 0, 1, 5, 20))) if leaves else PATIENT
