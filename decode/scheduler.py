"""Who decodes in the next step, who prefills here, who waits, and who holds which blocks. Pure.

A sequence is `reserved` while its KV is on the way from a prefill worker, or `prefilling` here in chunks (also one that
was reserved, when its prefill worker is lost); then it is `running`. When blocks run out the newest running or
prefilling sequence is `preempted`: its blocks are taken back and it is computed again later, before anyone new is let
in. Blocks promised to a ticket are never taken back for that; who finds no block beside them waits until tickets are
complete, aborted or expired.

Where the host goes on while the device computes, a step is planned behind one that is not committed (`plan_ahead`). Who
ends, or is given up, while a launched step computes it is `leaving`: it holds its blocks until that step is committed,
and what the step computed of it is dropped.

Those who wait cost a step nothing, however many they are: each state has its own keeping, and sums are kept, not made.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass

from decode.residents import ByAge, Resident, State, by_age
from engine.batch import Chunk
from engine.blocks import BlockPool
from engine.custody import Holder, check_holders
from engine.prefix import PrefixCache
from engine.sequence import FinishReason, Sequence, SequenceId


@dataclass(frozen=True, slots=True)
class Room:
    """Room was made for a sequence: `blocks` are to hold its KV, and hold that of `num_cached` tokens already."""

    blocks: tuple[int, ...]
    num_cached: int


@dataclass(frozen=True, slots=True)
class Token:
    """One sampled token: the answer's token number `index`. `finish` says that it is the last: nothing is held then, or
    once a step that computes what would come behind it is over."""

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


@dataclass(frozen=True, slots=True)
class Left:
    """The step that computed a sequence when it ended, or was given up, is over: nothing is held for it any more."""

    id: SequenceId


Event = Token | Prefilled | Left


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
        self._prefilling = ByAge()
        self._running = ByAge()
        self._preempted: OrderedDict[SequenceId, Resident] = OrderedDict()  # first to come back first
        self._in_flight: dict[SequenceId, Chunk] = {}  # of steps launched and not committed; each one's latest

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

    def abort(self, sequence_id: SequenceId) -> bool:
        """Give up a sequence and free what it holds; harmless if it is not here. Revoke its ticket first.

        False if a launched step computes it: then it is freed when that step is committed, and `Left` says so.
        """
        resident = self._residents.get(sequence_id)
        if resident is None:
            return True
        self._leave_state(resident)
        if sequence_id in self._in_flight:
            resident.state = State.LEAVING
            return False
        del self._residents[sequence_id]
        self.cache.release(resident.sequence)
        return True

    def plan(self) -> list[Chunk]:
        """The chunks of one step: a token for everybody who runs, then prompts within `max_step_tokens`."""
        assert not self._in_flight, "who yields now may be in a step that is not committed"
        chunks = [
            Chunk(r.sequence, r.sequence.num_computed, len(r.sequence.tokens))
            for r in list(self._running)
            if self._make_room(r)
        ]
        # A later sequence's growth may have preempted one that was planned: only the newest are, so never an older one.
        return self._add_prompts(chunks)

    def plan_ahead(self) -> list[Chunk]:
        """The chunks of the step behind the one in flight, whose tokens nobody knows yet.

        Nobody yields for it: it is empty if somebody finds no block. It is, too, if somebody's next token cannot be
        drawn before the one in flight is known. Then that step must be committed first.
        """
        chunks: list[Chunk] = []
        for resident in self._decoding():
            sequence = resident.sequence
            before = self._in_flight.get(sequence.id)
            if before is not None and not resident.goes_on:
                continue
            if before is not None and sequence.looks_back:
                return []
            if not self.cache.grow(sequence, num_more=int(before is not None)):
                return []
            start = sequence.num_computed if before is None else before.end
            chunks.append(Chunk(sequence, start, start + 1))
        return self._add_prompts(chunks)

    def launched(self, chunks: Many[Chunk]) -> None:
        """A step of these chunks is on the device until it is committed; steps are committed in the same order."""
        self._in_flight.update((chunk.sequence.id, chunk) for chunk in chunks)

    def _decoding(self) -> Iterator[Resident]:
        """Who runs, and who will when the step in flight is committed."""
        yield from self._running
        for chunk in self._in_flight.values():
            resident = self._residents[chunk.sequence.id]
            if resident.state is State.PREFILLING and chunk.samples:
                yield resident

    def _add_prompts(self, chunks: list[Chunk]) -> list[Chunk]:
        """Add to those who decode what is left of the step's budget: chunks of prompts, then who was preempted."""
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
        """Take in a computed step: tokens in the order of `sampled`, less those of who left while it was computed."""
        events: list[Event] = []
        if self._in_flight:
            chunks = self._land(chunks, events)
        for chunk in chunks:
            resident = self._residents[chunk.sequence.id]
            if resident.state is State.PREFILLING:
                resident.num_chunks += 1
                self.waiting_tokens -= chunk.end - chunk.sequence.num_computed
            self.cache.advance(chunk.sequence, chunk.end)
        for sequence, token in sampled:
            if sequence.id not in self._residents:
                continue
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
        return [Holder(r.sequence.id, r.state, tuple(r.sequence.blocks), r.reason) for r in self._residents.values()]

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
        assert self._in_flight.keys() >= {r.sequence.id for r in of[State.LEAVING]}, "somebody leaves and never will"
        for sequence_id, chunk in self._in_flight.items():
            room = len(self._residents[sequence_id].sequence.blocks) * self.cache.block_tokens
            assert chunk.end <= room, f"{sequence_id} is computed up to {chunk.end}, and has room for {room}"

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
            case State.LEAVING:
                pass

    def _land(self, chunks: Many[Chunk], events: list[Event]) -> list[Chunk]:
        """A launched step is over: free those who were leaving. Returns the chunks of the others."""
        staying = []
        for chunk in chunks:
            sequence_id = chunk.sequence.id
            if self._in_flight[sequence_id] is chunk:
                del self._in_flight[sequence_id]
            if self._residents[sequence_id].state is not State.LEAVING:
                staying.append(chunk)
            elif self.abort(sequence_id):
                events.append(Left(sequence_id))
        return staying

    def _add(self, chunks: list[Chunk], resident: Resident, budget: int) -> int:
        before = self._in_flight.get(resident.sequence.id)
        start = resident.sequence.num_computed if before is None else before.end
        end = min(start + budget, len(resident.sequence.tokens))
        if start < end:
            chunks.append(Chunk(resident.sequence, start, end))
        return end - start

    def _make_room(self, resident: Resident) -> bool:
        """Find blocks for the next token, preempting the newest until there are some; False if that is this one."""
        if resident.state is not State.RUNNING:
            return False  # preempted for an older one in this very plan
        while not self.cache.grow(resident.sequence):
            newest = max(filter(None, (self._running.newest, self._prefilling.newest)), key=by_age)
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
