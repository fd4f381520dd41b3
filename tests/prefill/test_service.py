"""The prefill service: blocks are sent in order, and however a transfer ends the step learns that nobody reads them."""

import asyncio
from collections.abc import Sequence as Many
from dataclasses import dataclass, field, replace

import pytest

from engine.errors import TransferFailed
from engine.leg import FrontendSession
from engine.sampled import Sampled
from engine.telemetry import Telemetry
from kvtransfer.endpoints import Senders
from kvtransfer.transport import Commit, Endpoint, Fence, Ticket, TicketId
from kvtransfer.wire import ticket_to_proto
from prefill.scheduler import PrefillScheduler
from prefill.service import PrefillService
from prefill.spans import PrefillSpans
from prefill.worker import Close, Command, Compute, GiveUp, PrefillWorker
from protos import worker_pb2 as pb
from tests.engine.test_wire import WHO
from tests.prefill.test_worker import run, sample
from tests.workload import ROOT

P = 4


@dataclass
class FakeSender:
    """Writes down what is sent; waits at the `gate`, fails if told to."""

    sent: list[object] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None
    reading: bool = False
    bytes_per_s: float = 5.0

    async def send(self, ticket: Ticket, first: int, source_blocks: Many[int]) -> None:
        self.reading = True
        try:
            await self.gate.wait()
            if self.error:
                raise self.error
            self.sent.append((first, tuple(source_blocks)))
        finally:
            self.reading = False

    async def commit(self, ticket: Ticket, commit: Commit) -> None:
        self.sent.append(commit.first_token)

    async def aclose(self) -> None: ...


class FakeLoop:
    """Holds commands until the test lets the worker take them."""

    def __init__(self) -> None:
        self.commands: list[Command] = []

    def submit(self, command: Command) -> None:
        self.commands.append(command)


class Scene:
    def __init__(self, max_queued_tokens: int = 100) -> None:
        scheduler = PrefillScheduler(16, P, max_step_tokens=4, max_sequences=4, max_queued_tokens=max_queued_tokens)
        self.worker = PrefillWorker(scheduler, run, sample)  # type: ignore[arg-type]
        self.loop, self.sender = FakeLoop(), FakeSender()
        self.sender.gate.set()
        who = replace(WHO, role=pb.ROLE_PREFILL)
        spans = PrefillSpans(Telemetry(), "w")
        self.service = PrefillService(self.worker, self.loop, Senders({"fake": self.sender}), who, spans)  # type: ignore[arg-type]
        self.session = FrontendSession("f")
        self.service.sessions._sessions["f"] = self.session

    def handle(self, **command: object) -> None:
        self.service.sessions._handle(self.session, pb.WorkerCommand(**command))

    def admit_single(self, number: int = 1, *, num_tokens: int = 10, max_tokens: int = 1) -> None:
        sampling = pb.Sampling(max_tokens=max_tokens, repetition_penalty=1)
        tokens = {"token_ids": [number] * num_tokens, "num_prompt": num_tokens}
        self.handle(admit=pb.Admit(leg=number, single_token=pb.SingleToken(), sampling=sampling, **tokens))

    def admit(self, number: int = 1, *, num_tokens: int = 10, max_tokens: int = 5, first_block: int = 0) -> None:
        fence = Fence(TicketId("t"), "i", 1)
        ticket = Ticket(fence, "d", -(-num_tokens // P), first_block, 1, "l", (Endpoint("fake", "there"),))
        push = pb.Push(ticket=ticket_to_proto(ticket))
        sampling = pb.Sampling(max_tokens=max_tokens, repetition_penalty=1)
        hashes = bytes(16) * (num_tokens // P)
        tokens = {"token_ids": [number] * num_tokens, "num_prompt": num_tokens}
        self.handle(
            admit=pb.Admit(leg=number, push=push, sampling=sampling, hash_root=ROOT, block_hashes=hashes, **tokens)
        )

    async def turn(self, steps: int = 1) -> None:
        """Let the step's thread and the event loop go on."""
        for _ in range(steps):
            commands, self.loop.commands = self.loop.commands, []
            self.service.deliver(self.worker.apply(commands))
            self.service.deliver(self.worker.step())
            for _ in range(5):
                await asyncio.sleep(0)

    def heard(self) -> list[str]:
        events = [self.session.outbox.get_nowait() for _ in range(self.session.outbox.qsize())]
        kinds = [event.WhichOneof("event") for event in events if event is not None]
        return [kind for kind in kinds if kind not in ("load", "blocks_stored", "blocks_evicted")]

    def check_empty(self) -> None:
        assert self.worker.scheduler.holders() == []
        assert self.worker.load.free_blocks == 16
        assert self.service._outgoing == {}
        assert self.service.sessions._legs == {} == self.session.legs


async def test_blocks_are_sent_as_they_are_computed_and_token_one_before_the_commit() -> None:
    scene = Scene()
    scene.admit(first_block=1)
    await scene.turn(5)
    assert scene.sender.sent == [(1, (1,)), (2, (2,)), 9]
    assert scene.heard() == ["granted", "prefill_done", "step_output", "released"]
    scene.check_empty()


async def test_after_every_step_the_router_is_told_what_waits() -> None:
    scene = Scene()
    scene.admit()
    await scene.turn(4)
    events = [scene.session.outbox.get_nowait() for _ in range(scene.session.outbox.qsize())]
    assert [event.load.waiting_tokens for event in events if event and event.HasField("load")][:4] == [10, 6, 2, 0]


async def test_an_answer_of_one_token_is_not_sent_to_its_end() -> None:
    scene = Scene()
    scene.sender.gate.clear()
    scene.admit(max_tokens=1)
    await scene.turn(5)
    assert scene.sender.sent == []
    assert scene.heard() == ["granted", "prefill_done", "step_output", "released"]
    scene.check_empty()


async def test_an_answer_of_a_single_token_needs_no_ticket() -> None:
    scene = Scene()
    scene.admit_single()
    await scene.turn(5)
    assert scene.sender.sent == []
    assert scene.heard() == ["granted", "prefill_done", "step_output", "released"]
    scene.check_empty()


@pytest.mark.parametrize("num_steps", [0, 1, 2, 3])
async def test_an_answer_of_a_single_token_can_be_given_up(num_steps: int) -> None:
    scene = Scene()
    scene.admit_single()
    await scene.turn(num_steps)
    scene.handle(abort=pb.Abort(leg=1))
    await scene.turn(3)
    assert scene.heard()[-1] == "released"
    scene.check_empty()


async def test_an_answer_of_a_single_token_that_finds_no_room_leaves_nothing() -> None:
    scene = Scene(max_queued_tokens=10)
    scene.admit_single(1)
    scene.admit_single(2)
    await scene.turn(5)
    assert scene.heard().count("refused") == 1
    scene.check_empty()


async def test_an_answer_that_may_go_on_needs_a_ticket() -> None:
    scene = Scene()
    scene.admit_single(max_tokens=2)
    assert scene.heard() == ["refused"]
    scene.check_empty()


async def test_a_transfer_that_fails_is_told_and_freed() -> None:
    scene = Scene()
    scene.sender.error = TransferFailed("gone")
    scene.admit()
    await scene.turn(5)
    assert scene.heard() == ["granted", "failed", "released"]
    scene.check_empty()


async def test_a_fault_of_the_transport_is_told_and_freed_too() -> None:
    scene = Scene()
    scene.sender.error = ZeroDivisionError()
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    scene.admit()
    await scene.turn(5)
    assert scene.heard() == ["granted", "failed", "released"]
    scene.check_empty()


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("stuck", [False, True])
async def test_an_abort_at_any_moment_frees_everything(turns: int, stuck: bool) -> None:
    scene = Scene()
    if stuck:
        scene.sender.gate.clear()
    scene.admit()
    await scene.turn(turns)
    scene.handle(abort=pb.Abort(leg=1))
    await scene.turn(3)
    assert not scene.sender.reading
    assert scene.heard()[-1] == "released"
    scene.check_empty()


async def test_an_abort_before_the_transfer_s_task_began_still_closes_it() -> None:
    scene = Scene()
    scene.admit()
    commands, scene.loop.commands = scene.loop.commands, []
    scene.service.deliver(scene.worker.apply(commands))
    scene.service.deliver(scene.worker.step())  # its first block is ready, and the task has not run
    scene.handle(abort=pb.Abort(leg=1))
    await scene.turn(3)
    assert scene.heard()[-1] == "released"
    scene.check_empty()


async def test_an_abort_waits_for_the_transport_to_let_go() -> None:
    scene = Scene()
    scene.sender.gate.clear()
    scene.admit()
    await scene.turn(2)
    assert scene.sender.reading
    scene.handle(abort=pb.Abort(leg=1))
    assert [type(command) for command in scene.loop.commands] == [GiveUp], "it is closed once nobody reads"
    for _ in range(5):
        await asyncio.sleep(0)
    assert [type(command) for command in scene.loop.commands] == [GiveUp, GiveUp, Close]


async def test_a_full_queue_refuses_and_leaves_nothing() -> None:
    scene = Scene(max_queued_tokens=10)
    scene.admit(1)
    scene.admit(2)
    assert [type(command) for command in scene.loop.commands] == [Compute, Compute]
    await scene.turn(1)
    assert sorted(scene.heard()) == ["granted", "refused"]
    await scene.turn(5)
    scene.check_empty()


@pytest.mark.parametrize(("name", "value"), [("layout", "other"), ("block_bytes", 2), ("num_blocks", 9)])
async def test_a_ticket_that_does_not_fit_is_refused(name: str, value: object) -> None:
    scene = Scene()
    fence = Fence(TicketId("t"), "i", 1)
    ticket = replace(Ticket(fence, "d", 1, 0, 1, "l", (Endpoint("fake", "there"),)), **{name: value})
    sampling = pb.Sampling(max_tokens=1, repetition_penalty=1)
    push = pb.Push(ticket=ticket_to_proto(ticket))
    scene.handle(admit=pb.Admit(leg=1, push=push, sampling=sampling, token_ids=[1], num_prompt=1))
    assert scene.heard() == ["refused"]
    scene.check_empty()


async def test_work_of_another_role_is_refused() -> None:
    scene = Scene()
    scene.handle(admit=pb.Admit(leg=1, local=pb.Local()))
    assert scene.heard() == ["refused"]
    scene.check_empty()


async def test_closing_cancels_what_is_being_sent() -> None:
    scene = Scene()
    scene.sender.gate.clear()
    scene.admit()
    await scene.turn(2)
    await scene.service.aclose()
    assert not scene.sender.reading


def nowhere_to_go(_: object, rows: Many[object]) -> Sampled:
    return Sampled([9] * len(rows), None, dict.fromkeys(range(len(rows)), "no way"))


async def test_a_prompt_that_no_token_may_follow_is_told_and_freed() -> None:
    scene = Scene()
    scene.worker.sampler = nowhere_to_go  # type: ignore[assignment]
    scene.admit()
    await scene.turn(5)
    assert scene.sender.sent[-1] != 9, "nothing is committed"
    events = [scene.session.outbox.get_nowait() for _ in range(scene.session.outbox.qsize())]
    (failed,) = [event.failed for event in events if event and event.HasField("failed")]
    assert (failed.reason, failed.message) == (pb.FAILURE_REASON_DEAD_END, "no way")
    assert [event.released.leg for event in events if event and event.HasField("released")] == [1]
    scene.check_empty()
