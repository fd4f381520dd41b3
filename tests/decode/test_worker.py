"""The decode worker: each leg hears its end, tickets are revoked first, and any order of commands empties the pool."""

import random
from collections.abc import Sequence as Many
from dataclasses import dataclass, field, replace

import pytest
import torch

from decode.messages import (
    Command,
    DeadEnd,
    Event,
    Freed,
    GiveUp,
    Granted,
    Joined,
    PrefillHere,
    PromptDone,
    Refused,
    Regrant,
    Reserve,
    Stepped,
)
from decode.scheduler import DecodeScheduler
from decode.worker import DecodeWorker, TicketTemplate
from engine.batch import Batch
from engine.cost import Costs, Slowdown
from engine.custody import Custody, Inspect
from engine.sampled import Sampled
from engine.sequence import FinishReason, Sequence, SequenceId, TokenLogprobs
from kvtransfer.transport import Arrived, Commit, Endpoint, Fence, Ticket, TicketId
from tests.workload import prompt, sequence

P = 4


@dataclass
class FakeReceiver:
    """Knows which blocks may be written now."""

    open_tickets: dict[TicketId, tuple[int, ...]] = field(default_factory=dict)
    fences: dict[TicketId, Fence] = field(default_factory=dict)
    revoked: list[TicketId] = field(default_factory=list)
    endpoint: Endpoint = Endpoint("fake", "here")
    fenced_writes: int = 0

    def open(self, ticket: Ticket, slots: Many[int]) -> None:
        assert len(slots) == ticket.num_blocks - ticket.first_block
        assert ticket.fence.ticket_id not in self.open_tickets, "an earlier attempt's is revoked first"
        self.fences[ticket.fence.ticket_id] = ticket.fence
        self.open_tickets[ticket.fence.ticket_id] = tuple(slots)

    def revoke(self, ticket_id: TicketId) -> None:
        self.revoked.append(ticket_id)
        self.open_tickets.pop(ticket_id, None)

    def close(self) -> None: ...

    def complete(self, ticket_id: TicketId, token: int) -> Arrived:
        """Take the commit, as a transport does: the ticket is closed before it is delivered."""
        del self.open_tickets[ticket_id]
        return Arrived(self.fences[ticket_id], Commit(token), 10, 1, 2)


class NowhereToGo:
    """Constrains an answer to what cannot be."""

    def take(self, token: int) -> bool:
        raise AssertionError("a token was taken that was not drawn")


def run(batch: Batch) -> torch.Tensor:
    return torch.zeros(len(batch.sampled), 1)


def sample(_: torch.Tensor, sequences: Many[Sequence]) -> Sampled:
    """Each token is its number in the answer; who asks for log-probabilities gets some."""
    asked = tuple(None if s.params.num_logprobs is None else TokenLogprobs(-1.0, (), ()) for s in sequences)
    dead_ends = {row: "no way" for row, s in enumerate(sequences) if isinstance(s.constraint, NowhereToGo)}
    return Sampled([s.num_output for s in sequences], asked if any(asked) else None, dead_ends)


class Scene:
    def __init__(
        self,
        num_blocks: int = 16,
        *,
        max_sequences: int = 8,
        max_step_tokens: int = 8,
        slowdown: Slowdown | None = None,
    ) -> None:
        self.receiver = FakeReceiver()
        template = TicketTemplate("w", "i", 10, "l", (self.receiver,))
        scheduler = DecodeScheduler(num_blocks, P, max_step_tokens=max_step_tokens, max_sequences=max_sequences)
        self.worker = DecodeWorker(scheduler, run, sample, template, slowdown)  # type: ignore[arg-type]

    def do(self, *commands: Command) -> list[Event]:
        """Take in commands without stepping."""
        return self.worker.apply(commands)

    def step(self) -> list[Event]:
        return self.worker.step()

    def check(self) -> None:
        """Whatever may be written is owned by who was promised it."""
        self.worker.check()
        pool = self.worker.scheduler.pool
        owned = {block for owner in pool.owners for block in pool.blocks_of(owner)}
        for slots in self.receiver.open_tickets.values():
            assert set(slots) <= owned, "a ticket outlives its blocks"

    def custody(self) -> Custody:
        answers: list[Custody] = []
        assert self.do(Inspect(answers.append)) == []
        return answers[0]


def request(name: str, num_tokens: int = 6, max_tokens: int = 3) -> Sequence:
    return sequence(name, list(range(num_tokens)), block_tokens=P, max_tokens=max_tokens)


def reserve(scene: Scene, name: str, **sizes: int) -> tuple[SequenceId, Ticket]:
    (granted,) = scene.do(Reserve(request(name, **sizes), attempt=2))
    assert isinstance(granted, Granted)
    assert granted.ticket is not None
    return granted.id, granted.ticket


def stepped(events: list[Event]) -> Stepped:
    return next(event for event in events if isinstance(event, Stepped))


def test_a_reservation_is_a_ticket_then_kv_then_tokens() -> None:
    scene = Scene()
    a, ticket = reserve(scene, "a")
    assert (ticket.num_blocks, ticket.first_block, ticket.fence.attempt, ticket.worker_id) == (2, 0, 2, "w")
    assert scene.step() == []
    assert scene.worker.load.promised_blocks == 2

    arrived = scene.receiver.complete(ticket.fence.ticket_id, 0)
    assert scene.do(arrived) == [Joined(a, arrived)]
    tokens = [stepped(scene.step()).tokens[0] for _ in range(2)]

    assert [(t.index, t.token, t.finish) for t in tokens] == [(1, 1, None), (2, 2, FinishReason.LENGTH)]
    assert scene.custody().holders == ()
    assert (scene.worker.load.running, scene.worker.load.promised_blocks) == (0, 0)


def test_a_cached_prefix_is_not_in_the_ticket() -> None:
    scene = Scene()
    _, ticket = reserve(scene, "a", num_tokens=8)
    scene.do(scene.receiver.complete(ticket.fence.ticket_id, 0))

    _, ticket = reserve(scene, "b", num_tokens=9)

    assert (ticket.first_block, ticket.num_blocks) == (2, 3)
    assert len(scene.receiver.open_tickets[ticket.fence.ticket_id]) == 1


def test_a_prompt_computed_here_says_how_long_it_took() -> None:
    scene = Scene(max_step_tokens=4)
    (granted,) = scene.do(PrefillHere(request("a", num_tokens=6)))
    assert granted == Granted(SequenceId("a"), None, 0)
    assert stepped(scene.step()).tokens == []
    events = scene.step()
    done = next(event for event in events if isinstance(event, PromptDone))
    assert (done.prefilled.num_cached, done.prefilled.num_chunks) == (0, 2)
    assert done.queued_ns <= done.start_ns <= done.end_ns
    assert events.index(done) < events.index(stepped(events))


def test_what_never_fits_and_what_does_not_fit_now_are_told_apart() -> None:
    scene = Scene(num_blocks=4)
    (large,) = scene.do(Reserve(request("a", num_tokens=10, max_tokens=7), 1))
    assert isinstance(large, Refused)
    assert large.too_large
    reserve(scene, "b", num_tokens=13)
    (full,) = scene.do(PrefillHere(request("c")))
    assert isinstance(full, Refused)
    assert not full.too_large
    assert scene.do(GiveUp(SequenceId("c"))) == [Freed(SequenceId("c"))], "a refused one may be given up"


def test_a_ticket_that_is_given_up_can_not_be_written_any_more() -> None:
    scene = Scene()
    a, ticket = reserve(scene, "a")
    arrived = Arrived(ticket.fence, Commit(0), 10, 1, 2)
    assert scene.do(GiveUp(a), GiveUp(a)) == [Freed(a), Freed(a)]
    assert scene.receiver.open_tickets == {}
    assert scene.do(arrived) == [], "its commit was on its way"
    assert scene.worker.scheduler.pool.num_available == 16


def test_a_regrant_keeps_the_blocks_and_keeps_the_earlier_attempt_out() -> None:
    scene = Scene()
    a, ticket = reserve(scene, "a")
    slots = scene.receiver.open_tickets[ticket.fence.ticket_id]
    late = Arrived(ticket.fence, Commit(0), 10, 1, 2)
    (granted,) = scene.do(Regrant(a, attempt=3, local=False))
    assert isinstance(granted, Granted)
    assert granted.ticket is not None
    assert granted.ticket.fence == replace(ticket.fence, attempt=3)
    assert replace(granted.ticket, fence=ticket.fence) == ticket
    assert scene.receiver.revoked == [ticket.fence.ticket_id], "first"
    assert scene.receiver.open_tickets == {ticket.fence.ticket_id: slots}
    assert scene.do(late) == [], "its commit was on its way"
    scene.check()
    arrived = scene.receiver.complete(ticket.fence.ticket_id, 0)
    assert scene.do(arrived) == [Joined(a, arrived)]
    assert [token.index for token in stepped(scene.step()).tokens] == [1]


def test_a_regrant_that_is_said_again_or_late_changes_nothing() -> None:
    scene = Scene()
    a, ticket = reserve(scene, "a")
    scene.do(Regrant(a, attempt=4, local=False))
    for attempt in (2, 3, 4):
        assert scene.do(Regrant(a, attempt, local=False)) == []
    assert scene.do(Regrant(a, attempt=3, local=True)) == []
    scene.do(scene.receiver.complete(ticket.fence.ticket_id, 0))
    for local in (False, True):
        assert scene.do(Regrant(a, 5, local=local), Regrant(SequenceId("nobody"), 5, local=local)) == []
    scene.check()


def test_a_prompt_whose_prefill_worker_is_lost_is_computed_in_its_own_room() -> None:
    scene = Scene()
    a, ticket = reserve(scene, "a")
    free = scene.worker.load.free_blocks
    late = Arrived(ticket.fence, Commit(0), 10, 1, 2)
    assert scene.do(Regrant(a, attempt=2, local=True)) == [Granted(a, None, 0)]
    assert scene.receiver.open_tickets == {}
    assert (scene.worker.load.free_blocks, scene.worker.load.promised_blocks) == (free, 0)
    assert scene.worker.load.waiting_tokens == 6
    assert scene.do(late, Regrant(a, attempt=2, local=True)) == []
    events = scene.step()
    assert [event.prefilled.id for event in events if isinstance(event, PromptDone)] == [a]
    assert [token.index for token in stepped(events).tokens] == [0]
    scene.check()
    assert scene.do(GiveUp(a)) == [Freed(a)]
    assert scene.worker.scheduler.pool.num_available == 16


@pytest.mark.parametrize("local", [False, True])
def test_a_token_that_was_heard_stands_whatever_is_sampled_in_its_place(local: bool) -> None:
    scene = Scene()
    a, ticket = reserve(scene, "a")
    scene.do(Regrant(a, attempt=3, local=local, heard=77))
    if local:
        assert [token.token for token in stepped(scene.step()).tokens] == [77]
    else:
        scene.do(scene.receiver.complete(ticket.fence.ticket_id, 0))
    (token,) = stepped(scene.step()).tokens
    assert (token.index, token.token) == (1, 1)
    (holder,) = scene.worker.scheduler._residents.values()
    assert list(holder.sequence.tokens[6:]) == [77, 1]


@pytest.mark.parametrize("when", ["after the commit", "while it runs", "while it is prefilled"])
def test_giving_up_frees_at_any_moment(when: str) -> None:
    scene = Scene(max_step_tokens=2)
    if when == "while it is prefilled":
        scene.do(PrefillHere(request("a")))
        scene.step()
    else:
        _, ticket = reserve(scene, "a")
        scene.do(scene.receiver.complete(ticket.fence.ticket_id, 0))
        if when == "while it runs":
            scene.step()
    a = SequenceId("a")
    assert scene.do(GiveUp(a)) == [Freed(a)]
    assert stepped_ids(scene.step()) == []
    assert scene.worker.scheduler.pool.num_available == 16
    assert scene.worker._queued_ns == scene.worker._start_ns == {}


def stepped_ids(events: list[Event]) -> list[str]:
    return [token.id for event in events if isinstance(event, Stepped) for token in event.tokens]


def test_steps_are_compared_with_the_profile() -> None:
    scene = Scene(slowdown=Slowdown(Costs((1,), (1000.0,), decode_s=1000.0)))
    scene.do(PrefillHere(request("a")))
    assert scene.worker.load.slowdown == 0
    scene.step()
    scene.step()
    assert 0 < scene.worker.load.slowdown < 1


def test_the_load_is_right_before_anybody_hears_of_it() -> None:
    scene = Scene()
    a, _ = reserve(scene, "a")
    assert (scene.worker.load.free_blocks, scene.worker.load.running) == (14, 1)
    scene.do(GiveUp(a))
    assert (scene.worker.load.free_blocks, scene.worker.load.running, scene.worker.load.leaked_blocks) == (16, 0, 0)


@pytest.mark.parametrize("seed", range(40))
def test_any_order_of_commands_leaves_the_pool_empty_and_every_token_numbered_once(seed: int) -> None:
    rng = random.Random(seed)
    scene = Scene(rng.randint(6, 20), max_sequences=rng.randint(1, 6), max_step_tokens=rng.choice([2, 8, 64]))
    alive: set[SequenceId] = set()
    tickets: dict[SequenceId, TicketId] = {}
    late: list[Arrived] = []
    next_index: dict[SequenceId, int] = {}
    freed: list[SequenceId] = []

    def note(events: list[Event]) -> None:
        for event in events:
            match event:
                case Granted(sequence_id, ticket):
                    alive.add(sequence_id)
                    next_index[sequence_id] = 0
                    if ticket is not None:
                        tickets[sequence_id] = ticket.fence.ticket_id
                case Joined(sequence_id):
                    next_index[sequence_id] = 1
                case Freed(sequence_id):
                    freed.append(sequence_id)
                case Stepped():
                    for token in event.tokens:
                        assert token.index == next_index[token.id], "a gap or a repeat"
                        next_index[token.id] += 1
                        if token.finish is not None:
                            alive.remove(token.id)
        scene.check()

    def give_up(sequence_id: SequenceId) -> None:
        if (ticket_id := tickets.pop(sequence_id, None)) and rng.random() < 0.5:
            late.append(scene.receiver.complete(ticket_id, 0))  # its commit overtakes the abort, or does not
            if rng.random() < 0.5:
                note(scene.do(late.pop()))
        alive.discard(sequence_id)
        note(scene.do(GiveUp(sequence_id)))

    for number in range(200):
        action = rng.random()
        name = SequenceId(f"s{number}")
        if action < 0.3:
            tokens = prompt(rng, 3 * P)
            made = sequence(name, tokens, block_tokens=P, max_tokens=rng.randint(2, 5))
            note(scene.do(Reserve(made, 1) if rng.random() < 0.5 else PrefillHere(made)))
            if rng.random() < 0.1:
                give_up(name)
        elif action < 0.5 and tickets:
            sequence_id, ticket_id = rng.choice(sorted(tickets.items()))
            del tickets[sequence_id]
            note(scene.do(scene.receiver.complete(ticket_id, 0)))
        elif action < 0.6 and alive:
            give_up(rng.choice(sorted(alive)))
        elif action < 0.65 and late:
            note(scene.do(late.pop()))
        elif action < 0.75 and tickets:
            sequence_id, ticket_id = rng.choice(sorted(tickets.items()))
            if rng.random() < 0.3:
                late.append(scene.receiver.complete(ticket_id, 0))  # of the attempt before
            if rng.random() < 0.5:
                del tickets[sequence_id]
                note(scene.do(Regrant(sequence_id, number + 2, local=True)))
            else:
                note(scene.do(Regrant(sequence_id, number + 2, local=False)))
                assert ticket_id in scene.receiver.open_tickets
        else:
            note(scene.step())
    for sequence_id in sorted(tickets):
        give_up(sequence_id)
    for _ in range(1000):
        if not alive:
            break
        assert scene.worker.has_work(), "somebody waits for nothing"
        note(scene.step())

    assert not alive
    assert scene.receiver.open_tickets == {}
    report = scene.custody()
    assert (report.holders, report.num_leaked) == ((), 0)
    assert report.num_free + report.num_cached == report.num_blocks
    assert scene.worker._tickets == scene.worker._reserved == scene.worker._queued_ns == scene.worker._start_ns == {}


def test_an_answer_that_cannot_go_on_is_given_up_and_others_are_not() -> None:
    scene = Scene()
    lost, fine = request("a", max_tokens=9), request("b", max_tokens=9)
    lost.constraint = NowhereToGo()
    scene.do(PrefillHere(lost), PrefillHere(fine))
    for _ in range(3):
        events = scene.step()
        scene.check()
        if any(isinstance(event, DeadEnd) for event in events):
            break
    stepped = next(event for event in events if isinstance(event, Stepped))
    assert lost.id not in {token.id for token in stepped.tokens}
    ends = [event for event in events if isinstance(event, DeadEnd | Freed)]
    assert ends == [DeadEnd(lost.id, "no way"), Freed(lost.id)]
    assert [holder.id for holder in scene.custody().holders] == [fine.id]
    assert scene.do(GiveUp(lost.id)) == [Freed(lost.id)], "an abort that crosses it is answered"
