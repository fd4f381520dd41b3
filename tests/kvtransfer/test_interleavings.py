"""Any order of open, send, revoke and commit, on every transport, against a model of what a receiver must do."""

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import TransferFailed
from kvtransfer.transport import Commit, KVReceiver, KVSender
from tests.kvtransfer.pools import TRANSPORTS, Pool, Transport, Wire, make_ticket, refenced

NUM_TICKETS = 3
NUM_BLOCKS = 4
BLOCK_BYTES = 70_001


@dataclass(frozen=True)
class Open:
    ticket: int
    attempt: int


@dataclass(frozen=True)
class Revoke:
    ticket: int


@dataclass(frozen=True)
class Send:
    ticket: int
    attempt: int
    first: int
    sources: tuple[int, ...]


@dataclass(frozen=True)
class Finish:
    ticket: int
    attempt: int


Step = Open | Revoke | Send | Finish
tickets, attempts = st.integers(0, NUM_TICKETS - 1), st.integers(1, 2)
steps = st.one_of(
    st.builds(Open, tickets, attempts),
    st.builds(Revoke, tickets),
    st.builds(Send, tickets, attempts, st.just(0), st.permutations(range(NUM_BLOCKS)).map(tuple)),
    st.builds(Send, tickets, attempts, st.integers(0, 3), st.integers(0, 7).map(lambda block: (block,))),
    st.builds(Finish, tickets, attempts),
)


@dataclass
class Model:
    """Which attempt of each ticket is open, which of its blocks have come, and what the target pool then holds."""

    source: Pool
    target: list[bytes]
    open: dict[int, int] = field(default_factory=dict)
    came: dict[int, set[int]] = field(default_factory=dict)
    completed: set[tuple[int, int]] = field(default_factory=set)
    delivered: int = 0

    def apply(self, step: Step) -> bool:
        """Whether the step is to succeed."""
        match step:
            case Open(ticket, attempt):
                self.open[ticket], self.came[ticket] = attempt, set()
                self.completed.discard((ticket, attempt))
                return True
            case Revoke(ticket):
                self.open.pop(ticket, None)
                return True
            case Send(ticket, attempt, first, sources):
                return self.open.get(ticket) == attempt and self._write(ticket, first, sources)
            case Finish(ticket, attempt):
                return (ticket, attempt) in self.completed or self._complete(ticket, attempt)

    def _write(self, ticket: int, first: int, sources: tuple[int, ...]) -> bool:
        for block, source in enumerate(sources, first):
            self.target[ticket * NUM_BLOCKS + block] = self.source.block(source)
            self.came[ticket].add(block)
        return True

    def _complete(self, ticket: int, attempt: int) -> bool:
        if self.open.get(ticket) != attempt or len(self.came[ticket]) < NUM_BLOCKS:
            return False
        del self.open[ticket]
        self.completed.add((ticket, attempt))
        self.delivered += 1
        return True


async def perform(step: Step, receiver: KVReceiver, sender: KVSender, target: Pool) -> bool:
    """Do a step for real; whether it succeeded."""
    ticket = make_ticket(receiver, target, NUM_BLOCKS, name=str(step.ticket))
    try:
        match step:
            case Open(number, attempt):
                slots = range(number * NUM_BLOCKS, (number + 1) * NUM_BLOCKS)
                receiver.open(refenced(ticket, attempt=attempt), slots)
            case Revoke():
                receiver.revoke(ticket.fence.ticket_id)
            case Send(_, attempt, first, sources):
                await sender.send(refenced(ticket, attempt=attempt), first, sources)
            case Finish(_, attempt):
                await sender.commit(refenced(ticket, attempt=attempt), Commit(1))
    except TransferFailed:
        return False
    return True


async def compare(transport: Transport, sequence: list[Step]) -> None:
    async with Wire(transport) as wire:
        source, target = Pool(8, BLOCK_BYTES, seed=1), Pool(NUM_TICKETS * NUM_BLOCKS, BLOCK_BYTES, seed=2)
        receiver, sender = wire.receiver(target), wire.sender(source, stall_limit_s=5.0)
        model = Model(source, target.blocks(range(target.num_blocks)))
        for step in sequence:
            assert await perform(step, receiver, sender, target) == model.apply(step)
            assert target.blocks(range(target.num_blocks)) == model.target
        assert len(wire.arrived) == model.delivered


@pytest.mark.parametrize("transport", TRANSPORTS)
@settings(max_examples=40, deadline=None)
@given(sequence=st.lists(steps, max_size=25))
def test_every_order_of_steps_does_what_the_model_says(transport: Transport, sequence: list[Step]) -> None:
    asyncio.run(compare(transport, sequence))
