"""Steps that overlap: the answers are those of steps in turn, and nobody touches what a launched step uses.

The device computes as late as can be, so whatever is freed or changed too early becomes a wrong token.
"""

import sys
from collections.abc import Sequence as Many
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from decode.messages import Command, Event, Freed, GiveUp, Granted, Joined, PrefillHere, Regrant, Reserve, Stepped
from decode.scheduler import DecodeScheduler
from decode.worker import DecodeWorker, TicketTemplate
from engine.audit import Auditor
from engine.batch import Batch
from engine.hashes import block_hashes
from engine.sampled import Sampled
from engine.sequence import BlockHash, FinishReason, SamplingParams, Sequence, SequenceId, TokenLogprobs
from kvtransfer.transport import TicketId
from tests.custody.arithmetic import (
    BLOCK_BYTES,
    VOCAB_SIZE,
    Arithmetic,
    Memory,
    P,
    blocks_of,
    bytes_of,
    next_token,
    rows_of,
)
from tests.custody.late import LateDevice, Row, drawn
from tests.decode.test_worker import FakeReceiver
from tests.workload import ROOT

NUM_BLOCKS = 7
WHICH = st.integers(0, 7)
PROMPTS = st.tuples(st.integers(0, 9), st.lists(st.integers(1, 3), min_size=1, max_size=5))
"""How much a prompt shares with others, and what is its own."""
PARAMS = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 12),
    seed=st.integers(0, 5),
    min_tokens=st.sampled_from([0, 0, 2]),
    presence_penalty=st.sampled_from([0.0, 0.0, 0.0, 1.0]),
    stop_token_ids=st.sampled_from([frozenset[int](), frozenset(range(0, VOCAB_SIZE, 4))]),
    num_logprobs=st.sampled_from([None, None, 0]),
)


def draw(rows: Many[int], row: Row) -> tuple[int, TokenLogprobs | None]:
    """By all that a token may be drawn by: the KV before it, its number, the tokens that the answer has."""
    params = row.sequence.params
    token = (next_token(rows) + params.seed * (row.index + 1)) % VOCAB_SIZE
    if params.has_penalties:
        token = (token + sum(each * times for each, times in row.counts.items())) % VOCAB_SIZE
    while row.index < params.min_tokens and token in params.stop_token_ids:
        token = (token + 1) % VOCAB_SIZE
    asked = params.num_logprobs is not None
    return token, TokenLogprobs(-float(rows[-1] % 97), (), ()) if asked else None


@dataclass(eq=False)
class Asked:
    """A request, what must come of it and what has."""

    prompt: list[int]
    params: SamplingParams
    answer: list[int]
    logprobs: list[TokenLogprobs | None]
    finish: FinishReason
    num_heard: int = 0
    given_up: bool = False
    num_freed: int = 0

    @classmethod
    def of(cls, prompt: list[int], params: SamplingParams, heard: int | None = None) -> "Asked":
        """Computed token by token, by nobody's schedule; `heard` stands in place of the first."""
        made = Sequence.of(SequenceId("alone"), prompt, params)
        finish: FinishReason | None = None
        logprobs: list[TokenLogprobs | None] = []
        while finish is None:
            token, logprob = draw(rows_of(made.tokens), Row(made, made.num_output, made.output_counts))
            finish = made.append(heard if heard is not None and not made.num_output else token)
            logprobs.append(logprob)
        return cls(prompt, params, list(made.tokens[len(prompt) :]), logprobs, finish)

    @property
    def over(self) -> bool:
        return self.given_up or self.num_heard == len(self.answer)


class Scene:
    """A decode worker with a device of either kind, and what its clients hear."""

    def __init__(self, *, overlaps: bool, max_step_tokens: int = 6) -> None:
        memory = Memory(NUM_BLOCKS)
        self.memory = memory
        self.receiver = FakeReceiver()
        self.scheduler = DecodeScheduler(NUM_BLOCKS, P, max_step_tokens=max_step_tokens, max_sequences=5)
        self.device = LateDevice(memory, lambda: self.scheduler.pool, draw)
        model = Arithmetic(memory)

        def run(batch: Batch) -> list[list[int]]:
            return model.compute(batch, batch.token_ids.tolist())

        def sample(kv: list[list[int]], sequences: Many[Sequence]) -> Sampled:
            return drawn(kv, [Row(s, s.num_output, s.output_counts) for s in sequences], draw)

        template = TicketTemplate("w", "i", BLOCK_BYTES, "l", (self.receiver,))
        launch = self.device if overlaps else None
        self.worker = DecodeWorker(self.scheduler, run, sample, template, None, launch)  # type: ignore[arg-type]
        self.auditor = Auditor(self.worker)
        self.asked: dict[SequenceId, Asked] = {}
        self.tickets: dict[SequenceId, TicketId] = {}
        self.content: dict[BlockHash, bytes] = {}
        self._landed_ns = 0

    def ask(self, prompt: list[int], params: SamplingParams, *, here: bool = True) -> SequenceId:
        asked = Asked.of(prompt, params)
        sequence = Sequence.of(SequenceId(f"s{len(self.asked)}"), prompt, params)
        sequence.hash_root, sequence.hashes = ROOT, block_hashes(prompt, P, ROOT)
        self.expect(sequence.id, asked)
        alone = here or len(asked.answer) == 1  # prefill commits no token that ends the answer
        (reply,) = self.do(PrefillHere(sequence) if alone else Reserve(sequence, 1))
        if not isinstance(reply, Granted):
            asked.given_up, asked.num_freed = True, 1
        elif reply.ticket is not None:
            self.tickets[sequence.id] = reply.ticket.fence.ticket_id
        return sequence.id

    def expect(self, sequence_id: SequenceId, asked: Asked) -> None:
        self.asked[sequence_id] = asked
        self.content.update(blocks_of([*asked.prompt, *asked.answer], ROOT))

    def arrive(self, sequence_id: SequenceId) -> None:
        """A prefill worker fills the ticket."""
        ticket_id, asked = self.tickets.pop(sequence_id), self.asked[sequence_id]
        slots, rows = self.receiver.open_tickets[ticket_id], bytes_of(asked.prompt)
        first = -(-len(asked.prompt) // P) - len(slots)
        for index, slot in enumerate(slots, first):
            part = rows[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]
            self.memory.block_view(slot)[: len(part)] = part
        self.do(self.receiver.complete(ticket_id, asked.answer[0]))

    def compute_here(self, sequence_id: SequenceId, heard: int | None) -> None:
        """The prefill worker is lost; another token than it would be was heard from it."""
        del self.tickets[sequence_id]
        asked = self.asked[sequence_id]
        self.expect(sequence_id, Asked.of(asked.prompt, asked.params, heard))
        self.do(Regrant(sequence_id, 1, local=True, heard=heard))

    def give_up(self, sequence_id: SequenceId) -> None:
        self.tickets.pop(sequence_id, None)
        self.asked[sequence_id].given_up = True
        self.do(GiveUp(sequence_id))

    def do(self, *commands: Command) -> list[Event]:
        return self._note(self.worker.apply(commands))

    def step(self) -> list[Event]:
        return self._note(self.worker.step())

    def finish(self) -> None:
        """Everything comes, and every answer ends."""
        for sequence_id in list(self.tickets):
            self.arrive(sequence_id)
        for _ in range(1000):
            if not self.worker.has_work():
                break
            self.step()
            self.check()
        assert all(asked.over for asked in self.asked.values())
        assert all(asked.num_freed == 1 for asked in self.asked.values() if asked.given_up)
        assert self.worker.holders() == []
        pool = self.scheduler.pool
        assert (pool.num_available, pool.num_leaked()) == (NUM_BLOCKS, 0)
        assert self.worker._queued_ns == self.worker._start_ns == {}

    def check(self) -> None:
        self.auditor.look()
        self.device.check()
        for resident in self.scheduler._residents.values():
            expected = bytes_of(resident.sequence.tokens[: resident.sequence.num_computed])
            found = b"".join(self.memory.block(block) for block in resident.sequence.blocks)[: len(expected)]
            assert found == expected, f"the KV of {resident.sequence.id} is not its own"
        for block_hash, block in self.scheduler.pool._block_of.items():
            assert self.memory.block(block) == self.content[block_hash], f"{block} is not what the cache says"

    def _note(self, events: list[Event]) -> list[Event]:
        for event in events:
            match event:
                case Stepped():
                    assert self._landed_ns <= event.start_ns <= event.end_ns, "two steps at one time"
                    self._landed_ns = event.end_ns
                    self._hear(event)
                case Joined(sequence_id):
                    self.asked[sequence_id].num_heard = 1
                case Freed(sequence_id):
                    assert self.asked[sequence_id].over
                    assert sequence_id not in self.scheduler.pool.owners
                    self.asked[sequence_id].num_freed += 1
        return events

    def _hear(self, stepped: Stepped) -> None:
        for token in stepped.tokens:
            asked = self.asked[token.id]
            assert not asked.over, "nobody waits for it any more"
            assert (token.index, token.token) == (asked.num_heard, asked.answer[asked.num_heard])
            assert stepped.logprobs.get(token.id) == asked.logprobs[token.index]
            asked.num_heard += 1
            assert token.finish == (asked.finish if asked.over else None)


class Steps(RuleBasedStateMachine):
    """Each rule is one thing that may happen to a decode worker."""

    overlaps: bool

    def __init__(self) -> None:
        super().__init__()
        self.scene = Scene(overlaps=self.overlaps)

    @property
    def open(self) -> list[SequenceId]:
        return [sequence_id for sequence_id, asked in self.scene.asked.items() if not asked.over]

    @rule(prompt=PROMPTS, params=PARAMS, here=st.booleans())
    def ask(self, prompt: tuple[int, list[int]], params: SamplingParams, here: bool) -> None:
        num_shared, own = prompt
        self.scene.ask([7] * num_shared + own, params, here=here)

    @precondition(lambda self: self.scene.tickets)
    @rule(which=WHICH)
    def kv_arrives(self, which: int) -> None:
        self.scene.arrive(list(self.scene.tickets)[which % len(self.scene.tickets)])

    @precondition(lambda self: self.scene.tickets)
    @rule(which=WHICH, heard=st.sampled_from([None, 1, 2]))
    def prefill_is_lost(self, which: int, heard: int | None) -> None:
        self.scene.compute_here(list(self.scene.tickets)[which % len(self.scene.tickets)], heard)

    @precondition(lambda self: self.open)
    @rule(which=WHICH)
    def give_up(self, which: int) -> None:
        self.scene.give_up(self.open[which % len(self.open)])

    @rule(times=st.integers(1, 4))
    def step(self, times: int) -> None:
        for _ in range(times):
            self.scene.step()
            self.scene.check()

    @rule()
    def the_device_gets_on(self) -> None:
        self.scene.device.get_on()

    @invariant()
    def nothing_in_use_has_changed_hands(self) -> None:
        self.scene.check()

    def teardown(self) -> None:
        if sys.exc_info()[0] is None:  # else what has failed says more
            self.scene.finish()


class InTurn(Steps):
    overlaps = False


class Overlapping(Steps):
    overlaps = True


@pytest.mark.parametrize("machine", [InTurn, Overlapping])
def test_whatever_happens_answers_are_those_of_each_request_alone(machine: type[Steps]) -> None:
    any_speed = settings(deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(machine, settings=settings(any_speed, max_examples=150, stateful_step_count=40))


def plain(max_tokens: int = 6, **fields: object) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, seed=3, **fields)  # type: ignore[arg-type]


def test_each_step_is_launched_before_the_one_before_is_collected() -> None:
    scene = Scene(overlaps=True, max_step_tokens=4)
    scene.ask([1, 2, 3], plain())
    scene.ask([2] * 6, plain())
    scene.finish()

    order = scene.device.order
    assert order[0] == "launch"
    assert order[-1] == "collect"
    assert order[1:-1] == ["launch", "collect"] * (len(order) // 2 - 1)
    assert scene.device.num_continued == len(order) // 2 - 1, "every step but the first continues somebody"


def test_a_step_with_a_row_that_looks_back_waits_for_the_one_before() -> None:
    scene = Scene(overlaps=True)
    constrained = scene.ask([1, 2, 3], plain())
    scene.scheduler._residents[constrained].sequence.constraint = Anything()
    scene.ask([2] * 2, plain())
    scene.finish()

    assert scene.device.num_continued == 0
    assert scene.device.order == ["launch", "collect"] * 6


def test_a_row_with_penalties_does_not_wait() -> None:
    scene = Scene(overlaps=True)
    scene.ask([1, 2, 3], plain(presence_penalty=1.0))
    scene.ask([2] * 2, plain())
    scene.finish()

    assert scene.device.num_continued == 5, "every step but the first"


class Anything:
    """A grammar that allows every token."""

    def take(self, token: int) -> bool:
        return False


def test_who_is_given_up_while_a_step_computes_it_is_freed_with_that_step() -> None:
    scene = Scene(overlaps=True)
    a = scene.ask([1, 2, 3], plain())
    assert scene.step() == []
    assert scene.worker.has_work()

    scene.give_up(a)

    assert scene.asked[a].num_freed == 0
    assert [holder.state for holder in scene.worker.holders()] == ["leaving"]
    assert Freed(a) in scene.step()
    scene.finish()


def test_blocks_run_out_and_somebody_yields_between_two_steps() -> None:
    scene = Scene(overlaps=True, max_step_tokens=64)
    for token in (1, 2, 3):
        scene.ask([token] * 7, plain(8))
    scene.finish()

    assert scene.scheduler.num_preemptions > 0
    assert scene.device.num_continued > 0
