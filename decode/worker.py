"""The decode worker's step: commands in, one token for everybody who runs, events out.

A request's life on this thread:
 1. `Reserve`: room for the prompt's KV is taken, a ticket is opened on the receiver, `Granted` carries it out.
    `PrefillHere`: room is taken and the prompt is computed in chunks of the next steps.
 2. `Arrived`: the ticket is complete; the sequence runs from the next step on, with the token that prefill sampled.
 3. Each step appends a token to everybody who runs (`Stepped`); who has ended is freed at once.
    Where a device need not be waited for, the next step is launched before that, with the tokens that only the device
    knows yet; who turns out to have ended is freed when that step is over.
 4. `Regrant`: the prefill worker is lost before 2. The blocks stay; the ticket is revoked and opened for another
    attempt, or the prompt is computed here.
 5. `GiveUp` may come at any moment: the ticket is revoked first, so that nothing is written into freed blocks.
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from decode.messages import (
    Command,
    DeadEnd,
    Event,
    Freed,
    GiveUp,
    Granted,
    Joined,
    Load,
    PrefillHere,
    PromptDone,
    Refused,
    Regrant,
    Reserve,
    Scored,
    Stepped,
)
from decode.residents import MOVES, State
from decode.scheduler import DecodeScheduler, Left, Prefilled, Room, Token
from engine.batch import Batch, Chunk
from engine.cost import Slowdown, work_of
from engine.custody import Custody, Holder, Inspect, Moves
from engine.histogram import StepMeter
from engine.meter import Rate
from engine.sampled import Sampled
from engine.sequence import Sequence as Answer
from engine.sequence import SequenceId
from engine.steps import Launch, Pending, StepRunner, StepSampler
from kvtransfer.transport import Arrived, Fence, KVReceiver, Ticket, TicketId


@dataclass(frozen=True, slots=True)
class _Flight:
    """A step that was launched and not taken in yet."""

    chunks: list[Chunk]
    batch: Batch
    pending: Pending
    launched_ns: int


class DecodeWorker:
    """Owns the device: scheduler, model and sampler; and the tickets that are open on the receivers."""

    moves: Moves = MOVES

    def __init__(
        self,
        scheduler: DecodeScheduler,
        runner: StepRunner,
        sampler: StepSampler,
        tickets: "TicketTemplate",
        slowdown: Slowdown | None = None,
        launch: Launch | None = None,
    ) -> None:
        """`launch` computes steps in place of `runner` and `sampler`, where one need not be waited for."""
        self.scheduler = scheduler
        self.runner = runner
        self.sampler = sampler
        self._template = tickets
        self._tickets: dict[SequenceId, Ticket] = {}
        self._reserved: dict[TicketId, SequenceId] = {}
        self._queued_ns: dict[SequenceId, int] = {}
        self._start_ns: dict[SequenceId, int] = {}
        self._prefill_speed = Rate()
        self._step_speed = Rate()
        self._slowdown = slowdown or Slowdown(None)
        self._steps = StepMeter()
        self._launch = launch
        self._flight: _Flight | None = None
        self._landed_ns = 0
        self.load = self._load()
        """Replaced when something happened; may be read by any thread."""

    def apply(self, commands: Sequence[Command]) -> list[Event]:
        events = [event for command in commands for event in self._apply(command)]
        self.load = self._load()
        return events

    def step(self) -> list[Event]:
        events = self._compute() if self._launch is None else self._compute_ahead(self._launch)
        changes = self.scheduler.pool.take_changes()
        if changes.stored or changes.evicted:
            events.append(changes)
        self.load = self._load()
        return events

    def has_work(self) -> bool:
        return self._flight is not None or self.scheduler.has_work()

    def holders(self) -> list[Holder]:
        return self.scheduler.holders()

    def check(self) -> None:
        """Assert that the books agree: those of the scheduler, and that only who is reserved can be written to."""
        self.scheduler.check()
        holders = {holder.id: holder for holder in self.holders()}
        reserved = {holder.id for holder in holders.values() if holder.state == State.RESERVED}
        assert set(self._tickets) == set(self._reserved.values()) == reserved, "who is reserved is not who has a ticket"
        assert self._queued_ns.keys() <= holders.keys() >= self._start_ns.keys(), "who is timed is not here"
        for receiver in self._template.receivers:  # a receiver closes tickets of itself, but never opens one
            assert self._reserved.keys() >= set(receiver.open_tickets), "a ticket outlives its blocks"

    def _apply(self, command: Command) -> list[Event]:
        match command:
            case Reserve(sequence, attempt):
                return [self._reserve(sequence, attempt)]
            case PrefillHere(sequence):
                return [self._prefill_here(sequence)]
            case Arrived():
                return self._join(command)
            case Regrant():
                return self._regrant(command)
            case GiveUp(sequence_id):
                return self._give_up(sequence_id)
            case Inspect(reply):
                reply(Custody.of(self.scheduler.pool, self.holders()))
                return []

    def _reserve(self, sequence: Answer, attempt: int) -> Event:
        room = None if self._too_large(sequence) else self.scheduler.admit(sequence, local=False)
        if room is None:
            return self._refuse(sequence)
        first_block = room.num_cached // self.scheduler.cache.block_tokens
        ticket = self._template.ticket(attempt, num_blocks=len(room.blocks), first_block=first_block)
        return self._grant(sequence.id, ticket, room)

    def _grant(self, sequence_id: SequenceId, ticket: Ticket, room: Room) -> Granted:
        self._tickets[sequence_id] = ticket
        self._reserved[ticket.fence.ticket_id] = sequence_id
        for receiver in self._template.receivers:
            receiver.open(ticket, room.blocks[ticket.first_block :])
        return Granted(sequence_id, ticket, room.num_cached)

    def _prefill_here(self, sequence: Answer) -> Event:
        room = None if self._too_large(sequence) else self.scheduler.admit(sequence, local=True)
        if room is None:
            return self._refuse(sequence)
        self._queued_ns[sequence.id] = time.monotonic_ns()
        return Granted(sequence.id, None, room.num_cached)

    def _too_large(self, sequence: Answer) -> bool:
        return not self.scheduler.fits(sequence.num_prompt + sequence.params.max_tokens)

    def _refuse(self, sequence: Answer) -> Refused:
        if self._too_large(sequence):
            tokens = sequence.num_prompt + sequence.params.max_tokens
            return Refused(sequence.id, True, f"{tokens} tokens never fit this worker's KV pool")
        return Refused(sequence.id, False, f"{self.scheduler.pool.num_available} blocks are free")

    def _join(self, arrived: Arrived) -> list[Event]:
        sequence_id = self._reserved.get(arrived.ticket_id)
        if sequence_id is None or self._tickets[sequence_id].fence != arrived.fence:
            return []  # given up, or granted anew, while the commit was on its way
        self._revoke(sequence_id)  # it came through one receiver; nothing may follow through another
        token = self.scheduler.arrive(sequence_id, arrived.commit.first_token)
        if token is None:
            return []
        joined: list[Event] = [Joined(sequence_id, arrived)]
        if token.finish is not None:
            now_ns = time.monotonic_ns()
            joined.append(Stepped([token], {}, now_ns, now_ns))
        return joined

    def _regrant(self, command: Regrant) -> list[Event]:
        ticket = self._tickets.get(command.id)
        if ticket is None or command.attempt < ticket.fence.attempt + (not command.local):
            return []  # the KV came after all, nobody wants it any more, or this was said before
        self._revoke(command.id)
        room = self.scheduler.regrant(command.id, command.heard, local=command.local)
        if command.local:
            self._queued_ns[command.id] = time.monotonic_ns()
            return [Granted(command.id, None, room.num_cached)]
        again = replace(ticket, fence=replace(ticket.fence, attempt=command.attempt))
        return [self._grant(command.id, again, room)]

    def _revoke(self, sequence_id: SequenceId) -> None:
        """See that nothing is written for this sequence any more."""
        if ticket := self._tickets.pop(sequence_id, None):
            del self._reserved[ticket.fence.ticket_id]
            for receiver in self._template.receivers:
                receiver.revoke(ticket.fence.ticket_id)

    def _give_up(self, sequence_id: SequenceId) -> list[Event]:
        self._revoke(sequence_id)
        self._queued_ns.pop(sequence_id, None)
        self._start_ns.pop(sequence_id, None)
        return [Freed(sequence_id)] if self.scheduler.abort(sequence_id) else []  # else it is said later

    def _compute(self) -> list[Event]:
        """A step, from its plan to its tokens."""
        if not (chunks := self.scheduler.plan()):
            return []
        start_ns = time.monotonic_ns()
        batch = Batch.build(chunks, self.scheduler.cache.block_tokens)
        return self._commit(chunks, batch, self.sampler(self.runner(batch), batch.sampled), start_ns)

    def _compute_ahead(self, launch: Launch) -> list[Event]:
        """Launch a step behind the one that the device computes; then wait for that one's tokens, and take them in.

        What cannot be planned without them is launched when they are there.
        """
        events: list[Event] = []
        before, self._flight = self._flight, None
        if before is not None:
            self._flight = self._take_off(launch, self.scheduler.plan_ahead(), before)
            sampled = before.pending.collect()
            start_ns = max(before.launched_ns, self._landed_ns)  # the device was at the step before until then
            events = self._commit(before.chunks, before.batch, sampled, start_ns)
        if self._flight is None:
            self._flight = self._take_off(launch, self.scheduler.plan(), None)
        return events

    def _take_off(self, launch: Launch, chunks: list[Chunk], before: _Flight | None) -> _Flight | None:
        if not chunks:
            return None
        now_ns = time.monotonic_ns()
        batch = Batch.build(chunks, self.scheduler.cache.block_tokens, before.batch.sampled if before else ())
        pending = launch(batch, before.pending if before else None)
        self.scheduler.launched(chunks)
        return _Flight(chunks, batch, pending, now_ns)

    def _commit(self, chunks: list[Chunk], batch: Batch, sampled: Sampled, start_ns: int) -> list[Event]:
        """Take in what a step has computed."""
        self._landed_ns = end_ns = time.monotonic_ns()
        self._measure(chunks, len(batch.token_ids), (end_ns - start_ns) / 1e9, is_plain=not batch.scored)
        for chunk in chunks:
            if chunk.sequence.id in self._queued_ns:
                self._start_ns.setdefault(chunk.sequence.id, start_ns)
        logprobs = {s.id: p for s, p in zip(batch.sampled, sampled.logprobs or (), strict=False) if p is not None}
        done = self.scheduler.commit(chunks, sampled.drawn(batch.sampled))
        events: list[Event] = [Scored(rows.id, scores) for rows in batch.scored for scores in rows.scoring.drain()]
        tokens: list[Token] = []
        left: set[SequenceId] = set()
        for event in done:
            match event:
                case Token():
                    tokens.append(event)
                case Prefilled():
                    events.append(self._timed(event, end_ns))
                case Left(sequence_id):
                    left.add(sequence_id)
                    events.append(Freed(sequence_id))
        vectors = {s.id: s.pooled.vector() for s in batch.sampled if s.pooled is not None}
        events.append(Stepped(tokens, logprobs, start_ns, end_ns, vectors))
        for row, message in sampled.dead_ends.items():
            if (sequence_id := batch.sampled[row].id) not in left:
                events += [DeadEnd(sequence_id, message), *self._give_up(sequence_id)]
        return events

    def _timed(self, prefilled: Prefilled, end_ns: int) -> Event:
        queued_ns = self._queued_ns.pop(prefilled.id)
        return PromptDone(prefilled, queued_ns, self._start_ns.pop(prefilled.id), end_ns)

    def _measure(self, chunks: Sequence[Chunk], num_tokens: int, seconds: float, *, is_plain: bool) -> None:
        """What a step took; one that is not plain had work that the profile knows nothing of."""
        if is_plain:
            self._slowdown.add(work_of((chunk.start, chunk.end) for chunk in chunks), seconds)
        self._steps.add(seconds, len(chunks), num_tokens)
        if num_tokens > len(chunks):
            self._prefill_speed.add(num_tokens, seconds)
        else:
            self._step_speed.add(1, seconds)

    def _load(self) -> Load:
        scheduler = self.scheduler
        steps_per_s = self._step_speed.per_s
        return Load(
            free_blocks=scheduler.pool.num_available,
            cached_blocks=scheduler.pool.num_cached,
            leaked_blocks=scheduler.pool.num_leaked_when_idle,
            promised_blocks=scheduler.num_promised_blocks,
            running=scheduler.num_running,
            waiting=scheduler.num_preempted,
            waiting_tokens=scheduler.waiting_tokens,
            prefill_tokens_per_s=self._prefill_speed.per_s,
            step_s=1 / steps_per_s if steps_per_s else 0.0,
            slowdown=self._slowdown.times,
            preemptions=scheduler.num_preemptions,
            steps=self._steps.now,
        )


@dataclass(frozen=True, slots=True)
class TicketTemplate:
    """What every ticket of this worker says."""

    worker_id: str
    incarnation: str
    block_bytes: int
    layout: str
    receivers: tuple[KVReceiver, ...]

    def ticket(self, attempt: int, *, num_blocks: int, first_block: int) -> Ticket:
        """A new ticket; its id cannot be guessed, so only who was handed it can fill it."""
        fence = Fence(TicketId(secrets.token_hex(16)), self.incarnation, attempt)
        endpoints = tuple(receiver.endpoint for receiver in self.receivers)
        return Ticket(fence, self.worker_id, num_blocks, first_block, self.block_bytes, self.layout, endpoints)
