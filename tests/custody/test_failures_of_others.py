"""What cost users of other systems most, played one by one; the numbers are those of the table in docs/custody.md."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from kvtransfer.endpoints import SHM
from tests.custody.arithmetic import VOCAB_SIZE
from tests.custody.parts import LEASE_S, STALL_S
from tests.custody.world import World

TRANSPORTS = ("zeromq", SHM)
LONG, OTHER = [7] * 6 + [1, 2, 3, 1, 2], [3, 3, 2, 2, 1, 1, 3, 3, 2, 2, 1]


@contextmanager
def ends_well(transport: str) -> Iterator[World]:
    made = World(transport)
    try:
        yield made
        made.check_quiet()
        made.check_alive()
    finally:
        made.close()


@pytest.fixture(params=TRANSPORTS)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with ends_well(request.param) as made:
        yield made


def until(world: World, condition: Callable[[], object], held_up: str = "") -> None:
    """Let everything go on but what is held up."""
    for _ in range(200):
        if condition():
            return
        world.go_on(1, held_up)
        world.check()
    raise AssertionError("that never came")


def states(world: World, name: str) -> list[str]:
    worker = world.workers[name]
    return [] if worker is None else [holder.state for holder in worker.worker.holders()]


def under_way(world: World) -> None:
    """A request's blocks are on their way to decode."""
    world.ask(LONG, 5)
    until(world, lambda: len(world.wires.frames) >= 2, held_up="frames")
    assert states(world, "decode") == ["reserved"]


def test_1_and_8_the_client_leaves_during_a_transfer_whose_frames_come_late(world: World) -> None:
    under_way(world)
    late = list(world.wires.frames)
    world.cancel(world.requests[0])
    until(world, lambda: states(world, "decode") == [], held_up="frames")
    world.ask(OTHER, 5)  # takes the blocks that were given back
    until(world, lambda: states(world, "decode") == ["reserved"], held_up="frames")
    for frame in late:
        world.arrive(frame)
        world.check()
    assert world.seen["fenced"] > 0


def test_2_a_lease_ends_although_nobody_asks_for_anything(world: World) -> None:
    under_way(world)
    until(world, lambda: states(world, "decode") == [], held_up="commands")
    until(world, lambda: states(world, "prefill") in ([], ["draining"]), held_up="commands")


def test_4_what_a_receiver_reads_is_not_freed_by_the_end_of_a_stream() -> None:
    with ends_well(SHM) as world:  # over ZeroMQ, frames have copies of the blocks
        under_way(world)
        stream = next(stream for stream in world.streams if stream.worker == "prefill")
        stream.break_at_worker()
        world.loop.settle()
        world.turn("prefill")
        assert states(world, "prefill") == ["draining"]
        world.check()


def test_5_an_abort_lands_in_the_step_that_ends_the_prompt(world: World) -> None:
    request = world.ask(LONG, 5)
    until(world, lambda: states(world, "prefill") == ["prefilling"])
    world.cancel(request)
    for stream in world.streams:
        while stream.commands:
            world.tell(stream, 0)
    world.turn("prefill")
    world.hear_steps("prefill")


def test_7_decode_needs_no_word_of_a_dead_prefill_worker(world: World) -> None:
    under_way(world)
    world.kill("prefill")
    world.cancel(world.requests[0])
    until(world, lambda: states(world, "decode") == [])


@pytest.mark.parametrize("name", ["prefill", "decode"])
def test_9_a_worker_dies_and_the_answer_goes_on(world: World, name: str) -> None:
    under_way(world)
    world.kill(name)
    world.start(name)
    world.check_quiet()
    assert world.requests[0].outcome == "answered"


def held(world: World) -> list[tuple[int, ...]]:
    assert world.decode is not None
    return [holder.blocks for holder in world.decode.worker.holders()]


@pytest.mark.parametrize("another", [True, False])
def test_9_a_prefill_worker_dies_and_the_room_on_decode_stays(world: World, another: bool) -> None:
    if not another:
        world.kill("other")
    under_way(world)
    late, room = list(world.wires.frames), held(world)
    world.kill("prefill")
    if another:
        until(world, lambda: any(frame not in late for frame in world.wires.frames), held_up="frames")
        assert (states(world, "decode"), held(world)) == (["reserved"], room)
    else:
        until(world, lambda: states(world, "decode") == ["running"], held_up="frames")
        assert held(world)[0][: len(room[0])] == room[0], "decode has computed it there itself"
    for frame in late:
        if frame in world.wires.frames:
            world.arrive(frame)
            world.check()
    assert world.seen["fenced"] == len(late)
    world.check_quiet()
    assert world.requests[0].outcome == "answered"


def test_9_a_prefill_worker_dies_after_its_token_was_heard(world: World) -> None:
    request = world.ask(LONG, 5)
    until(world, lambda: len(request.heard) == 1, held_up="frames")
    room = held(world)
    world.kill("prefill")
    until(world, lambda: states(world, "other") == ["sending"], held_up="frames")
    assert (states(world, "decode"), held(world)) == (["reserved"], room)
    world.check_quiet()
    assert request.heard == request.expected


def test_a_commit_of_no_token_fails_at_once_and_the_room_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sender = world.prefills[0].sender
    commit = sender.commit
    monkeypatch.setattr(sender, "commit", lambda ticket, made: commit(ticket, replace(made, first_token=VOCAB_SIZE)))
    request = world.ask(LONG, 5)
    until(world, lambda: states(world, "decode") == ["reserved"])
    room, began = held(world), world.clock.now
    until(world, lambda: states(world, "other"))
    assert world.clock.now - began < STALL_S
    assert (states(world, "decode"), held(world)) == (["reserved"], room)
    world.check_quiet()
    assert request.heard == request.expected


def test_10_frames_for_the_process_before_reach_its_successor() -> None:
    with ends_well("zeromq") as world:  # addresses of shared memory are never used again
        under_way(world)
        late = list(world.wires.frames)
        world.kill("decode")
        world.start("decode")
        decode = world.decode
        assert decode is not None
        until(world, lambda: decode.receiver.open_tickets, held_up="frames")
        assert {frame.header.fence.ticket_id for frame in late} == set(decode.receiver.open_tickets)
        for frame in late:
            world.arrive(frame)
        assert world.seen["fenced"] == len(late)


def test_a_frontend_dies_and_nobody_tells_the_workers(world: World) -> None:
    under_way(world)
    world.kill_frontend()
    world.wait(LEASE_S / 2)
    assert states(world, "decode") == ["reserved"]
    for _ in range(3):
        world.wait(LEASE_S)
        for name in world.workers:
            world.turn(name)
            world.hear_steps(name)
    assert states(world, "decode") == []


def test_an_abort_that_is_lost_is_said_again(world: World) -> None:
    under_way(world)
    world.cancel(world.requests[0])
    aborts = [command for stream in world.streams for command in stream.commands if command.HasField("abort")]
    assert len(aborts) == 2
    for stream in world.streams:
        stream.commands.clear()
    until(world, lambda: not world.frontend.num_held, held_up="frames")
    assert states(world, "decode") == states(world, "prefill") == []
