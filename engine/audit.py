"""Debug mode: custody of KV blocks is checked after whatever the step's thread does; what breaks it ends the process.

A worker that is audited computes as before, but every command and every step is followed by a look at each block and
at each sequence's state. Where it is off nothing is wrapped, and nothing costs anything.
"""

import logging
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Generic, Protocol, TypeVar

from engine.config import WorkerConfig
from engine.custody import Holder, Moves
from engine.sequence import SequenceId
from engine.steploop import Stepper

log = logging.getLogger(__name__)

Command = TypeVar("Command")
Event = TypeVar("Event")
C = TypeVar("C", contravariant=True)
E = TypeVar("E")


class Books(Protocol):
    """What can be checked of a worker."""

    @property
    def moves(self) -> Moves: ...

    def holders(self) -> list[Holder]: ...

    def check(self) -> None:
        """Assert that pool, sequences and tickets agree."""


class AuditableStepper(Books, Stepper[C, E], Protocol):
    """A worker."""


class Auditor:
    """Looks at a worker's books again and again."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._later = {state: _reachable(state, books.moves) for state in books.moves}
        self._states: dict[SequenceId, str] = {}

    def look(self) -> None:
        """Raise AssertionError, that says what is wrong, if anything is."""
        self._books.check()
        states = {holder.id: holder.state for holder in self._books.holders()}
        for sequence_id, state in states.items():
            before = self._states.get(sequence_id, state)
            assert state in self._later[before], f"{sequence_id} was {before} and is {state} now"
        self._states = states


class AuditedStepper(Generic[Command, Event]):
    """A worker's stepper, audited."""

    def __init__(self, stepper: Stepper[Command, Event], auditor: Auditor) -> None:
        self._stepper = stepper
        self._auditor = auditor

    def apply(self, commands: Sequence[Command]) -> list[Event]:
        events = self._stepper.apply(commands)
        self._look(commands)
        return events

    def step(self) -> list[Event]:
        events = self._stepper.step()
        self._look(())
        return events

    def has_work(self) -> bool:
        return self._stepper.has_work()

    def _look(self, commands: Sequence[Command]) -> None:
        try:
            self._auditor.look()
        except AssertionError as error:
            after = ", ".join(type(command).__name__ for command in commands) or "a step"
            log.critical("custody of KV blocks is broken after %s: %s; the worker ends", after, error)
            raise


def audited(worker: AuditableStepper[Command, Event], config: WorkerConfig) -> Stepper[Command, Event]:
    """The worker, audited if `config` says so."""
    return AuditedStepper(worker, Auditor(worker)) if config.debug_custody else worker


def _reachable(state: str, moves: Moves) -> AbstractSet[str]:
    """The state itself and all that may come after it: several moves lie between two looks."""
    found: set[str] = set()
    at_hand: Iterable[str] = {state}
    while at_hand:
        found.update(at_hand)
        at_hand = {after for before in at_hand for after in moves[before]} - found
    return found
