"""Who is in the decode scheduler: the states of a sequence here, and how those in one state are kept."""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter

from engine.custody import Moves
from engine.sequence import Sequence

by_age = attrgetter("age")


class State(StrEnum):
    RESERVED = "reserved"
    PREFILLING = "prefilling"
    RUNNING = "running"
    PREEMPTED = "preempted"
    LEAVING = "leaving"


MOVES: Moves = {
    State.RESERVED: frozenset({State.RUNNING, State.PREFILLING}),
    State.PREFILLING: frozenset({State.RUNNING, State.PREEMPTED, State.LEAVING}),
    State.RUNNING: frozenset({State.PREEMPTED, State.LEAVING}),
    State.PREEMPTED: frozenset({State.PREFILLING}),
    State.LEAVING: frozenset(),
}
"""From state to state; from each of them a sequence may also leave for good. It comes as RESERVED or PREFILLING."""


@dataclass(slots=True)
class Resident:
    """A sequence in the scheduler."""

    sequence: Sequence
    state: State
    age: int
    """Counts admissions: who was admitted later is newer."""
    num_cached: int
    """Leading tokens that the prefix cache held when room was granted."""
    num_chunks: int = 0
    prefilled: bool = False
    """Whether the prompt was ever complete; computing it again after a preemption is not news."""
    heard: int | None = None
    """The token after the prompt, if its client has it from a prefill worker that is lost: it stands."""

    @property
    def goes_on(self) -> bool:
        """Whether the token that is being computed can be followed by another, before anybody has seen it.

        Not if it is the last that may be, nor if what is drawn is not what stands.
        """
        sequence = self.sequence
        if self.heard is not None and not self.prefilled:
            return False
        return sequence.num_output + 1 < sequence.params.max_tokens

    @property
    def reason(self) -> str:
        """In words: what it does with its blocks, or waits for."""
        sequence = self.sequence
        match self.state:
            case State.RESERVED:
                missing = len(sequence.tokens) - self.num_cached
                return f"the KV of {missing} tokens is to come from a prefill worker"
            case State.PREFILLING:
                return f"{sequence.num_computed} of {len(sequence.tokens)} tokens are computed, here"
            case State.RUNNING:
                return f"{sequence.num_output} of at most {sequence.params.max_tokens} tokens are sampled"
            case State.PREEMPTED:
                return f"it gave its blocks to older ones; {len(sequence.tokens)} tokens wait to be computed again"
            case State.LEAVING:
                return "it has ended, and a step that was launched before still computes it"


class ByAge:
    """Residents in one state, oldest first, whenever they came into it."""

    def __init__(self) -> None:
        self._residents: list[Resident] = []

    def __len__(self) -> int:
        return len(self._residents)

    def __iter__(self) -> Iterator[Resident]:
        return iter(self._residents)

    @property
    def newest(self) -> Resident | None:
        return self._residents[-1] if self._residents else None

    def add(self, resident: Resident) -> None:
        insort(self._residents, resident, key=by_age)

    def remove(self, resident: Resident) -> None:
        del self._residents[bisect_left(self._residents, resident.age, key=by_age)]
