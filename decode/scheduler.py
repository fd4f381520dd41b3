"""Who decodes in the next step, who prefills here, who waits, and who holds which blocks. Pure.

A sequence is `reserved` while its KV is on the way from a prefill worker, or `prefilling` here in chunks (also one that
was reserved, when its prefill worker is lost); then it is `running`. When blocks run out the newest running or
prefilling sequence is `preempted`: its blocks are taken back and it is computed again later, before anyone new is let
in. Blocks promised to a ticket are never taken back for that; who finds no block beside them waits until tickets are
complete, aborted or expired.

Those who wait cost a step nothing, however many they are: each state has its own keeping, and sums are kept, not made.
"""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter

from engine.batch import Chunk
from engine.blocks import BlockPool
from engine.custody import Holder, Moves, check_holders
from engine.prefix import PrefixCache
from engine.sequence import FinishReason, Sequence, SequenceId


class State(StrEnum):
    RESERVED = "reserved"
    PREFILLING = "prefilling"
    RUNNING = "running"
    PREEMPTED = "preempted"


MOVES: Moves = {
    State.RESERVED: frozenset({State.RUNNING, State.PREFILLING}),
    State.PREFILLING: frozenset({State.RUNNING, State.PREEMPTED}),
    State.RUNNING: frozenset({State.PREEMPTED}),
    State.PREEMPTED: frozenset({State.PREFILLING}),
}
"""From state to state; from each of them a sequence may also leave for good. It comes as RESERVED or PREFILLING."""


@dataclass(slots=True)
class Resident:
    """A sequence in this scheduler."""

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


@dataclass(frozen=True, slots=True)
class Room:
    """Room was made for a sequence: `blocks` are to hold its KV, and hold that of `num_cached` tokens already."""

    blocks: tuple[int, ...]
    num_cached: int


@dataclass(frozen=True, slots=True)
class Token:
    """One sampled token: the answer's token number `index`. `finish` says that it is the last; then nothing is held."""

    id: SequenceId
    token: int
    index: int
    finish: FinishReason | None


@dataclass(frozen=True, slots=True)
class Prefilled:
    """A prompt was computed here; precedes its first token."""

    id: SequenceId
    num_cached: int
    num_chunks: int


Event = Token | Prefilled


_age = attrgetter("age")


class _ByAge:
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
        insort(self._residents, resident, key=_age)

    def remove(self, resident: Resident) -> None:
        del self._residents[bisect_left(self._residents, resident.age, key=_age)]


class DecodeScheduler:
    """Decodes everybody who runs in every step; what is left of the step's budget prefills."""

    def __init__(self, num_blocks: int, block_tokens: int, *, max_step_tokens: int, max_sequences: int) -> None:
        self.pool = BlockPool[SequenceId](num_blocks)
        self.cache = PrefixCache(self.pool, block_tokens)
        self.max_step_tokens = max_step_tokens
        self.max_sequences = max_sequences
        self.num_preemptions = 0
        self.num_promised_blocks = 0
        """Blocks in the hands of tickets that are not complete."""
        self.waiting_tokens = 0
        """Prompt tokens still to be computed here."""
        self._residents: dict[SequenceId, Resident] = {}  # oldest first
        self._num_admitted = 0
        self._prefilling = _ByAge()
        self._running = _ByAge()
        self._preempted: OrderedDict[SequenceId, Resident] = OrderedDict()  # first to come back first

    def fits(self, num_tokens: int) -> bool:
        """Whether a sequence may ever grow to this length here."""
        return self.cache.num_blocks(num_tokens) <= self.pool.num_blocks

    def admit(self, sequence: Sequence, *, local: bool) -> Room | None:
        """Make room for all of the sequence's tokens, or say None: too many are here, or too few blocks are free.

        Everybody who runs may soon need one more block: those are kept free.
        """
        assert sequence.id not in self._residents, f"{sequence.id} is here already"
        if len(self._residents) >= self.max_sequences or self._preempted:
            return None
        if not self.cache.take(sequence, keep_free=len(self._residents)):
            return None
        num_cached = sequence.num_computed
        self._num_admitted += 1
        resident = Resident(sequence, State.RESERVED, self._num_admitted, num_cached)
        self._residents[sequence.id] = resident
        if local:
            self._start_prefill(resident)
            self.waiting_tokens += sequence.num_uncomputed
        else:
            self.num_promised_blocks += len(sequence.blocks)
        return Room(tuple(sequence.blocks), num_cached)

    def regrant(self, sequence_id: SequenceId, heard: int | None, *, local: bool) -> Room:
        """The room of a reserved sequence is filled another way: here, or by another ticket. Revoke the old one first.

        `heard` is the token that the sequence goes on with, if its client has it already.
        """
        resident = self._residents[sequence_id]
        assert resident.state is State.RESERVED, f"{sequence_id} is {resident.state}"
        resident.heard = heard
        if local:
            self._leave_state(resident)
            self._start_prefill(resident)
            self.waiting_tokens += resident.sequence.num_uncomputed
        return Room(tuple(resident.sequence.blocks), resident.num_cached)

    def arrive(self, sequence_id: SequenceId, first_token: int) -> Token | None:
        """The KV of a reserved sequence is there, and the token that prefill sampled; None if nobody waits for it.

        A token that ends the answer, which prefill does not commit and frontends do not hear twice, ends it here, too.
        """
        resident = self._residents.get(sequence_id)
        if resident is None or resident.state is not State.RESERVED:
            return None
        sequence = resident.sequence
        num_promised = len(sequence.blocks)
        self.cache.advance(sequence, len(sequence.tokens))
        index = sequence.num_output
        token = first_token if resident.heard is None else resident.heard
        finish = sequence.append(token)
        if finish is not None:
            self.abort(sequence_id)
        else:
            self.num_promised_blocks -= num_promised
            self._run(resident)
            resident.prefilled = True
        return Token(sequence_id, token, index, finish)

    def abort(self, sequence_id: SequenceId) -> None:
        """Give up a sequence and free what it holds; harmless if it is not here. Revoke its ticket first."""
        resident = self._residents.pop(sequence_id, None)
        if resident is not None:
            self._leave_state(resident)
            self.cache.release(resident.sequence)

    def plan(self) -> list[Chunk]:
        """The chunks of one step: a token for everybody who runs, then prompts within `max_step_tokens`."""
        chunks = [
            Chunk(r.sequence, r.sequence.num_computed, len(r.sequence.tokens))
            for r in list(self._running)
            if self._make_room(r)
        ]
        # A later sequence's growth may have preempted one that was planned: only the newest are, so never an older one.
        budget = max(self.max_step_tokens - len(chunks), 1)  # prompts are not starved by those who run
        for resident in self._prefilling:
            if budget <= 0:
                break
            budget -= self._add(chunks, resident, budget)
        while budget > 0 and self._preempted:
            resident = next(iter(self._preempted.values()))
            num_waiting = resident.sequence.num_uncomputed
            if not self.cache.take(resident.sequence, keep_free=len(self._running)):
                break
            self.waiting_tokens += resident.sequence.num_uncomputed - num_waiting  # less what the cache holds
            del self._preempted[resident.sequence.id]
            self._start_prefill(resident)
            budget -= self._add(chunks, resident, budget)
        return chunks

    def commit(self, chunks: Many[Chunk], sampled: Iterable[tuple[Sequence, int]]) -> list[Event]:
        """Take in a computed step: tokens in the order of `sampled`."""
        for chunk in chunks:
            resident = self._residents[chunk.sequence.id]
            if resident.state is State.PREFILLING:
                resident.num_chunks += 1
                self.waiting_tokens -= chunk.end - chunk.sequence.num_computed
            self.cache.advance(chunk.sequence, chunk.end)
        events: list[Event] = []
        for sequence, token in sampled:
            resident = self._residents[sequence.id]
            index = sequence.num_output
            if resident.state is State.PREFILLING:
                self._prefilling.remove(resident)
                self._run(resident)
            if not resident.prefilled:
                resident.prefilled = True
                events.append(Prefilled(sequence.id, resident.num_cached, resident.num_chunks))
                token = token if resident.heard is None else resident.heard
            finish = sequence.append(token)
            events.append(Token(sequence.id, token, index, finish))
            if finish is not None:
                self.abort(sequence.id)
        return events

    def has_work(self) -> bool:
        """Whether `plan` would give chunks."""
        if self._running or self._prefilling:
            return True
        head = next(iter(self._preempted.values()), None)
        return head is not None and self.cache.can_take(head.sequence)

    def holders(self) -> list[Holder]:
        """Everybody here, in what state, and the blocks they hold."""
        return [Holder(r.sequence.id, r.state, tuple(r.sequence.blocks), _reason(r)) for r in self._residents.values()]

    def check(self) -> None:
        """Assert that blocks, states and sums agree."""
        check_holders(self.pool, self.holders())
        of: dict[State, list[Resident]] = {state: [] for state in State}
        for resident in self._residents.values():
            of[resident.state].append(resident)
        assert list(self._running) == of[State.RUNNING], "who runs is not who is in the batch"
        assert list(self._prefilling) == of[State.PREFILLING], "who is prefilled is not who is planned"
        assert set(self._preempted) == {r.sequence.id for r in of[State.PREEMPTED]}, "who yielded is not who waits"
        assert not any(r.sequence.blocks for r in of[State.PREEMPTED]), "who yielded its blocks has some"
        promised = sum(len(r.sequence.blocks) for r in of[State.RESERVED])
        assert self.num_promised_blocks == promised, f"{self.num_promised_blocks} blocks promised, held {promised}"
        waiting = sum(r.sequence.num_uncomputed for r in (*of[State.PREFILLING], *of[State.PREEMPTED]))
        assert self.waiting_tokens == waiting, f"{self.waiting_tokens} tokens wait, by their sequences {waiting}"

    @property
    def num_running(self) -> int:
        return len(self._residents) - len(self._preempted)

    @property
    def num_preempted(self) -> int:
        return len(self._preempted)

    def _run(self, resident: Resident) -> None:
        resident.state = State.RUNNING
        self._running.add(resident)

    def _start_prefill(self, resident: Resident) -> None:
        resident.state = State.PREFILLING
        self._prefilling.add(resident)

    def _leave_state(self, resident: Resident) -> None:
        """Take a resident, whose blocks are not released yet, out of its state's keeping and sums."""
        match resident.state:
            case State.RESERVED:
                self.num_promised_blocks -= len(resident.sequence.blocks)
            case State.RUNNING:
                self._running.remove(resident)
            case State.PREFILLING:
                self._prefilling.remove(resident)
                self.waiting_tokens -= resident.sequence.num_uncomputed
            case State.PREEMPTED:
                del self._preempted[resident.sequence.id]
                self.waiting_tokens -= resident.sequence.num_uncomputed

    def _add(self, chunks: list[Chunk], resident: Resident, budget: int) -> int:
        start = resident.sequence.num_computed
        end = min(start + budget, len(resident.sequence.tokens))
        chunks.append(Chunk(resident.sequence, start, end))
        return end - start

    def _make_room(self, resident: Resident) -> bool:
        """Find blocks for the next token, preempting the newest until there are some; False if that is this one."""
        if resident.state is not State.RUNNING:
            return False  # preempted for an older one in this very plan
        while not self.cache.grow(resident.sequence):
            newest = max(filter(None, (self._running.newest, self._prefilling.newest)), key=_age)
            self._preempt(newest)
            if newest is resident:
                return False
        return True

    def _preempt(self, resident: Resident) -> None:
        self._leave_state(resident)
        self.cache.release(resident.sequence)
        resident.state = State.PREEMPTED
        self.waiting_tokens += resident.sequence.num_uncomputed
        self.num_preemptions += 1
        self._preempted[resident.sequence.id] = resident
        self._preempted.move_to_end(resident.sequence.id, last=False)


def _reason(resident: Resident) -> str:
    sequence = resident.sequence
    match resident.state:
        case State.RESERVED:
            missing = len(sequence.tokens) - resident.num_cached
            return f"the KV of {missing} tokens is to come from a prefill worker"
        case State.PREFILLING:
            return f"{sequence.num_computed} of {len(sequence.tokens)} tokens are computed, here"
        case State.RUNNING:
            return f"{sequence.num_output} of at most {sequence.params.max_tokens} tokens are sampled"
        case State.PREEMPTED:
            return f"it gave its blocks to older ones; {len(sequence.tokens)} tokens wait to be computed again"
