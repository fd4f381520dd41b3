"""Clients that ask until they are told to stop, each answer judged by the one that is known to be right."""

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cli.chaos.answers import Heard, beginning_differs, difference
from cli.chaos.asks import PATIENT, Ask, Behavior, choose_behavior
from cli.chaos.faults import Moment
from cli.chaos.talk import PATIENCE_S, Failed, OnPiece, PastDeadline, Talk
from engine.errors import Unavailable

REFERENCE_CLIENTS = 4
THINK_S = 0.3
"""Mean time between an answer and the client's next request."""
BURST = 16
BURSTS_EVERY_S = 10.0
MID_STREAM = 12
"""Pieces after which an answer is well under way."""
AGAIN_S = 0.5
"""Before a refused request is made again."""


class Verdict(StrEnum):
    """How a request ended."""

    RIGHT = "right"
    CANCELLED = "left"
    """Its client hung up; what had come was right."""
    LATE = "late"
    """Past its client's deadline; likewise."""
    WRONG = "wrong"
    LOST = "lost"
    """It broke off, failed, or never ended, though its client had waited."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request, over."""

    ask: Ask
    behavior: Behavior
    verdict: Verdict
    why: str
    request_id: str
    sent_s: float
    """Since the load began."""
    refusals: tuple[str, ...]
    """What it was told before it was taken."""


class Moments:
    """Tells those who wait that the load has come to some point."""

    def __init__(self) -> None:
        self._events = {moment: asyncio.Event() for moment in Moment}

    def reached(self, moment: Moment) -> None:
        event, self._events[moment] = self._events[moment], asyncio.Event()
        event.set()

    async def wait(self, moment: Moment) -> None:
        await self._events[moment].wait()


async def right_answers(talk: Talk, asks: tuple[Ask, ...]) -> dict[int, Heard]:
    """What each ask is answered when nothing is wrong, by its number. Raises Unavailable when one is not answered."""
    right: dict[int, Heard] = {}
    waiting = iter(asks)

    async def ask_on() -> None:
        for ask in waiting:
            try:
                right[ask.number] = await talk.ask(ask)
            except Failed as error:
                raise Unavailable(f"ask {ask.number} failed before anything was hurt: {error}") from error

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(REFERENCE_CLIENTS):
                tasks.create_task(ask_on())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None  # the others were cancelled, or failed likewise
    return right


@dataclass(slots=True)
class Load:
    """Asks at random, by a seed, with bursts; remembers every outcome."""

    talk: Talk
    asks: tuple[Ask, ...]
    right: Mapping[int, Heard]
    seed: int
    moments: Moments = field(default_factory=Moments)
    outcomes: list[Outcome] = field(default_factory=list)
    _start_s: float = 0.0

    async def run(self, num_clients: int, duration_s: float) -> None:
        """Return when every request that was made before `duration_s` has ended."""
        self._start_s = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for number in range(num_clients):
                tasks.create_task(self._client(random.Random(f"client {self.seed} {number}"), duration_s))
            tasks.create_task(self._bursts(random.Random(f"bursts {self.seed}"), duration_s))

    @property
    def now_s(self) -> float:
        return time.monotonic() - self._start_s

    async def _client(self, rng: random.Random, duration_s: float) -> None:
        await asyncio.sleep(rng.uniform(0.0, THINK_S))
        while self.now_s < duration_s:
            ask = rng.choice(self.asks)
            await self._one(ask, choose_behavior(rng, ask))
            await asyncio.sleep(rng.expovariate(1 / THINK_S))

    async def _bursts(self, rng: random.Random, duration_s: float) -> None:
        async with asyncio.TaskGroup() as tasks:
            while (wait_s := rng.uniform(0.5, 1.5) * BURSTS_EVERY_S) < duration_s - self.now_s:
                await asyncio.sleep(wait_s)
                for ask in rng.choices(self.asks, k=BURST):
                    tasks.create_task(self._one(ask, choose_behavior(rng, ask)))

    async def _one(self, ask: Ask, behavior: Behavior) -> None:
        sent_s, refusals = self.now_s, list[str]()
        while True:
            verdict, why, heard, is_refusal = await self._try(ask, behavior)
            if not is_refusal or self.now_s - sent_s > PATIENCE_S:
                break
            refusals.append(why)
            await asyncio.sleep(AGAIN_S)
        self.outcomes.append(Outcome(ask, behavior, verdict, why, heard.request_id, sent_s, tuple(refusals)))

    async def _try(self, ask: Ask, behavior: Behavior) -> tuple[Verdict, str, Heard, bool]:
        right = self.right[ask.number]
        asyncio.get_running_loop().call_later(0.005, self.moments.reached, Moment.PROMPT)  # it is on its way by then
        try:
            heard = await self.talk.ask(ask, behavior, self._listener())
        except PastDeadline as error:
            why = beginning_differs(right, error.heard)
            return (Verdict.WRONG if why else Verdict.LATE), why or "", error.heard, False
        except Failed as error:
            why = beginning_differs(right, error.heard)
            return (Verdict.WRONG if why else Verdict.LOST), why or str(error), error.heard, error.is_refusal
        is_whole = behavior == PATIENT or heard.num_tokens is not None
        why = difference(right, heard) if is_whole else beginning_differs(right, heard)
        verdict = Verdict.WRONG if why else Verdict.RIGHT if is_whole else Verdict.CANCELLED
        return verdict, why or "", heard, False

    def _listener(self) -> OnPiece:
        """For one request; several pieces may come at once."""
        seen = 0

        def note(num_pieces: int) -> None:
            nonlocal seen
            if seen < 1 <= num_pieces:
                self.moments.reached(Moment.HANDOVER)
            if seen < MID_STREAM <= num_pieces:
                self.moments.reached(Moment.STREAM)
            seen = num_pieces

        return note
