"""Custody of KV blocks under loss, doubling, reordering, delay, broken connections, crashes and restarts, at any step.

Everything that decides is the real thing: the frontend's links, attempts and router, the workers' sessions, services,
workers and schedulers, the senders with their links, the tickets. What computes, carries or tells the time is not.
After whatever happens the state is checked; at the end nobody may hold anything. docs/custody.md has the tables of it.
"""

import sys
from collections.abc import Sequence
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kvtransfer.endpoints import SHM
from tests.custody.network import Stream
from tests.custody.world import World

T = TypeVar("T")
WORKERS = st.sampled_from(["prefill", "decode", "prefill", "decode", "other"])
FATES = st.sampled_from(["arrives", "arrives", "is lost", "arrives twice"])
WHICH = st.integers(0, 7)
ASKED = st.tuples(st.integers(0, 9), st.lists(st.integers(1, 3), min_size=1, max_size=5), st.integers(1, 9))
"""How much a prompt shares with others, what is its own, and how many tokens are wanted."""
HELD_UP = st.sampled_from(["frames", "", "answers", "commands", "frames", "events"])
FAULTS = st.sampled_from(
    [
        "a worker dies",
        "the frontend dies",
        "a stream breaks",
        "a KV connection breaks",
        "who prefills dies",
        "who prefills is lost sight of",
    ]
)
MAX_OPEN = 6


def pick(items: Sequence[T], which: int) -> T:
    return items[which % len(items)]


class Custody(RuleBasedStateMachine):
    """Each rule is one thing that may happen to a small Tandem."""

    transport: str
    overlaps = False
    """Whether decode launches each step before the one before it is over."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.transport, overlaps=self.overlaps)
        self.held_up = ""

    # -- work --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.world.open_requests) < MAX_OPEN)
    @rule(asked=st.lists(ASKED, min_size=1, max_size=3))
    def ask(self, asked: list[tuple[int, list[int], int]]) -> None:
        for num_shared, own, max_tokens in asked:
            self.world.ask([7] * num_shared + own, max_tokens)

    @precondition(lambda self: self.world.open_requests)
    @rule(which=WHICH)
    def cancel(self, which: int) -> None:
        self.world.cancel(pick(self.world.open_requests, which))

    @rule(rounds=st.integers(1, 4))
    def go_on(self, rounds: int) -> None:
        self.world.go_on(rounds, self.held_up)

    @initialize(what=HELD_UP)
    def begin(self, what: str) -> None:
        self.held_up = what

    @rule(what=HELD_UP)
    def hold_up(self, what: str) -> None:
        """From now on these arrive one by one, when their own rule says so."""
        self.held_up = what

    @rule(name=WORKERS, num_meanwhile=st.integers(0, 2), heard=st.booleans())
    def step(self, name: str, num_meanwhile: int, heard: bool) -> None:
        self.world.turn(name, num_meanwhile)
        if heard:
            self.world.hear_steps(name)

    @rule(seconds=st.sampled_from([0.1, 0.3, 0.7, 1.6, 2.5]))
    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)

    # -- messages ----------------------------------------------------------------------------------------------------

    @property
    def telling(self) -> list[Stream]:
        return [stream for stream in self.world.streams if stream.commands]

    @precondition(lambda self: self.telling)
    @rule(stream=WHICH, which=WHICH, fate=FATES)
    def command(self, stream: int, which: int, fate: str) -> None:
        chosen = pick(self.telling, stream)
        which %= len(chosen.commands)
        if fate == "is lost":
            del chosen.commands[which]
        else:  # a leg's number is used once: `Admit` is not doubled
            twice = fate == "arrives twice" and not chosen.commands[which].HasField("admit")
            self.world.tell(chosen, which, keep=twice)

    @precondition(lambda self: any(stream.events for stream in self.world.streams))
    @rule(stream=WHICH, num_events=st.integers(1, 4))
    def events(self, stream: int, num_events: int) -> None:
        chosen = pick([stream for stream in self.world.streams if stream.events], stream)
        for _ in range(min(num_events, len(chosen.events))):
            self.world.hear(chosen)

    @precondition(lambda self: self.world.wires.frames)
    @rule(which=WHICH, fate=FATES)
    def frame(self, which: int, fate: str) -> None:
        chosen = pick(self.world.wires.next_frames(), which)
        if fate == "is lost" and chosen.channel.memory is None:
            self.world.wires.frames.remove(chosen)
        else:
            self.world.arrive(chosen, keep=fate == "arrives twice" and chosen.channel.memory is None)

    @precondition(lambda self: self.world.wires.answers)
    @rule(which=WHICH, fate=FATES)
    def answer(self, which: int, fate: str) -> None:
        chosen = pick(self.world.wires.answers, which)
        if fate == "is lost":
            self.world.wires.answers.remove(chosen)
        else:
            self.world.answer(chosen, keep=fate == "arrives twice")

    # -- faults ------------------------------------------------------------------------------------------------------

    @rule(name=WORKERS, soon_back=st.sampled_from([True, True, False]), fault=FAULTS, which=WHICH)
    def fault(self, fault: str, name: str, soon_back: bool, which: int) -> None:
        """One rule for all, so that they do not come so often that nothing else happens."""
        world = self.world
        match fault:
            case "a worker dies":
                if world.workers[name] is not None:
                    world.kill(name)
                if soon_back:
                    world.start(name)
            case "the frontend dies":
                world.kill_frontend()
            case "who prefills dies" if world.prefilling:
                busy = pick(world.prefilling, which).who.worker_id
                world.kill(busy)
                if soon_back:
                    world.start(busy)
            case "who prefills is lost sight of":  # and goes on, for as long as it does not know
                busy_ones = {worker.who.worker_id for worker in world.prefilling}
                for stream in [stream for stream in world.streams if stream.worker in busy_ones]:
                    stream.break_at_frontend()
                world.loop.settle()
            case "a stream breaks" if world.streams:
                stream = pick(world.streams, which)
                (stream.break_at_worker if soon_back else stream.break_at_frontend)()
                world.loop.settle()
            case "a KV connection breaks" if world.wires.channels:
                channel = pick(world.wires.channels, which)
                world.cut(channel)
                if soon_back:
                    channel.notice()
                    world.loop.settle()

    # -- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def every_block_is_where_it_belongs(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:  # else what has failed says more
                self.world.check_quiet()
                self.world.check_alive()
        finally:
            self.world.close()


class CopiedIntoFrames(Custody):
    transport = "zeromq"


class CopiedOutOfMemory(Custody):
    transport = SHM


class StepsOverlap(Custody):
    transport = "zeromq"
    overlaps = True


MACHINES = pytest.mark.parametrize("machine", [CopiedIntoFrames, CopiedOutOfMemory, StepsOverlap])
ANY_SPEED = settings(deadline=None, suppress_health_check=list(HealthCheck))


@MACHINES
def test_whatever_happens_no_block_is_lost_shared_or_written_by_a_stranger(machine: type[Custody]) -> None:
    run_state_machine_as_test(machine, settings=settings(ANY_SPEED, max_examples=120, stateful_step_count=40))


@pytest.mark.slow
@MACHINES
def test_the_same_at_length(machine: type[Custody]) -> None:
    run_state_machine_as_test(machine, settings=settings(ANY_SPEED, max_examples=2000, stateful_step_count=80))


def test_without_faults_everybody_is_answered_by_both_roles() -> None:
    for transport, overlaps in (("zeromq", False), (SHM, False), ("zeromq", True)):
        world = World(transport, overlaps=overlaps)
        try:
            requests = [world.ask([7] * length + [1, length % 3], 5) for length in range(8)]
            world.check_quiet()
            assert [request.outcome for request in requests] == ["answered"] * len(requests)
            assert world.seen["fenced"] == 0
        finally:
            world.close()
