"""What is hurt when: a schedule made of a seed. Pure; who is hit is decided when it is time, by `pick`."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

T = TypeVar("T")


class Action(StrEnum):
    KILL = "kill"
    """SIGKILL: `tandem up` starts the worker again."""
    STOP = "stop"
    """SIGSTOP, and SIGCONT after a while."""
    CUT = "cut"
    """Every connection of a KV link is broken."""
    DELAY = "delay"
    """A KV link carries nothing for a while."""
    CORRUPT = "corrupt"
    """A few bytes on a KV link are changed."""


class Moment(StrEnum):
    """What the load sees when a fault is due; the fault waits for it."""

    ANY = "any"
    PROMPT = "prompt"
    """A request has just been sent: its prompt waits, or is computed."""
    HANDOVER = "handover"
    """A first token has just come: its KV moves, or has just moved."""
    STREAM = "stream"
    """An answer is well under way."""
    STARTING = "start"
    """The victim has just been killed, and is being started again."""


LINK_ACTIONS = (Action.CUT, Action.DELAY, Action.CORRUPT)
SHORT_STOP_S = (0.2, 4.0)
LONG_STOP_S = (17.0, 20.0)
"""Longer than the 15 s after which a frontend gives up a silent worker, and than a lease."""
DELAY_S = (0.2, 3.0)
CORRUPT_S = 3.0
"""How long a corruption waits for something to corrupt."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing to do."""

    number: int
    at_s: float
    """Not before this; seconds after the load began."""
    action: Action
    role: str
    """Of the worker, prefill or decode; of a link, its receiver's."""
    moment: Moment
    pick: int
    """Which of the workers there are then, modulo their number."""
    lasts_s: float = 0.0


def schedule(seed: int, duration_s: float, every_s: float, *, roles: tuple[str, ...], links: bool) -> tuple[Fault, ...]:
    """Faults about `every_s` apart, the first a little after the beginning. Links are hurt where there are proxies."""
    rng = random.Random(f"faults {seed}")
    deeds = [(action, role) for action in (Action.KILL, Action.STOP) for role in roles]
    deeds += [(action, "decode") for action in LINK_ACTIONS if links]
    # Long stops would leave no time for anything else in a short run.
    drawn, lengths = _shuffled(rng, deeds), _shuffled(rng, ["short"] * 3 + ["long"] * (duration_s >= 60))
    moments = {deed: _shuffled(rng, _moments(deed[0])) for deed in deeds}
    faults: list[Fault] = []
    at_s = every_s * rng.uniform(0.2, 0.5)
    while at_s < duration_s:
        action, role = next(drawn)
        lasts_s = _lasting(rng, action, lengths)
        faults.append(
            Fault(len(faults), at_s, action, role, next(moments[action, role]), rng.randrange(1 << 16), lasts_s)
        )
        at_s += every_s * rng.uniform(0.5, 1.5)
    return tuple(faults)


def _moments(action: Action) -> list[Moment]:
    always = [Moment.ANY, Moment.PROMPT, Moment.HANDOVER, Moment.STREAM]
    return [*always, Moment.STARTING] if action is Action.KILL else always


def _lasting(rng: random.Random, action: Action, lengths: Iterator[str]) -> float:
    match action:
        case Action.STOP:
            return rng.uniform(*(LONG_STOP_S if next(lengths) == "long" else SHORT_STOP_S))
        case Action.DELAY:
            return rng.uniform(*DELAY_S)
        case Action.CORRUPT:
            return CORRUPT_S
        case _:
            return 0.0


def _shuffled(rng: random.Random, cards: list[T]) -> Iterator[T]:
    """All of them in some order, again and again: a short run has a bit of everything."""
    while True:
        yield from rng.sample(cards, len(cards))
