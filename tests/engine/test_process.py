"""The frame of a worker: it drains when told to, and a fault in any part of it ends all of it."""

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from engine.config import WorkerConfig
from engine.custody import Custody, Inspect, inspect
from engine.process import NOT_SERVING, SERVING, serve
from engine.steploop import StepLoop
from protos import worker_pb2 as pb
from protos import worker_pb2_grpc
from tests.engine.test_session import FakeRole


class Echo:
    """Reports each command as an event; `boom` is a fault of the device."""

    def apply(self, commands: Sequence[str]) -> list[str]:
        assert "boom" not in commands
        return list(commands)

    def step(self) -> list[str]:
        return []

    def has_work(self) -> bool:
        return False


class Frame:
    """One worker process's inside."""

    def __init__(self, folder: str) -> None:
        self.role = FakeRole()
        self.loop: StepLoop[str, str] = StepLoop(Echo())
        self.stop = asyncio.Event()
        self.heard: asyncio.Queue[str] = asyncio.Queue()
        self.address = f"unix:{folder}/w"
        config = WorkerConfig(listen=self.address, drain_timeout_s=10)
        self.task = asyncio.create_task(serve(self.role.sessions, self.loop, self._deliver, config, self.stop))

    def _deliver(self, events: list[str]) -> None:
        for event in events:
            assert event != "nonsense"
            self.heard.put_nowait(event)


@asynccontextmanager
async def frame() -> AsyncIterator[Frame]:
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        yield Frame(folder)


async def test_events_are_delivered_and_stopping_drains() -> None:
    async with frame() as running:
        running.loop.submit("a")
        assert await asyncio.wait_for(running.heard.get(), 10) == "a"
        async with grpc.aio.insecure_channel(running.address) as channel:
            commands: asyncio.Queue[pb.WorkerCommand] = asyncio.Queue()

            async def stream() -> AsyncIterator[pb.WorkerCommand]:
                while True:
                    yield await commands.get()

            call = worker_pb2_grpc.WorkerStub(channel).Session(stream())
            commands.put_nowait(pb.WorkerCommand(admit=pb.Admit(leg=1)))
            await running.role.until(1)
            running.stop.set()
            while not (await call.read()).load.draining:
                pass
            assert not running.task.done()
            running.role.free(running.role.legs[1])
            while (event := await call.read()).HasField("load"):  # as often as it is due
                pass
            assert event.released.leg == 1
            assert await call.read() is grpc.aio.EOF
        await asyncio.wait_for(running.task, 10)


@pytest.mark.parametrize("fault", ["boom", "nonsense"])
async def test_a_fault_in_the_step_or_in_delivering_ends_everything(fault: str) -> None:
    async with frame() as running:
        running.loop.submit(fault)
        with pytest.raises(ExceptionGroup) as crash:
            await asyncio.wait_for(running.task, 10)
        assert crash.group_contains(AssertionError)


async def test_a_fault_of_a_timer_ends_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    async with frame() as running:
        monkeypatch.setattr(running.role, "load", lambda: 1 / 0)
        with pytest.raises(ExceptionGroup) as crash:
            await asyncio.wait_for(running.task, 10)
        assert crash.group_contains(ZeroDivisionError)


async def test_who_asks_for_custody_may_give_up_before_the_answer() -> None:
    questions: list[Inspect] = []
    asking = asyncio.create_task(inspect(questions.append))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))

    questions[0].reply(Custody((), 1, 1, 0, 0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert faults == []


class Gate:
    """A step that takes as long as the test wants."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.left = 1

    def apply(self, commands: Sequence[str]) -> list[str]:
        return []

    def step(self) -> list[str]:
        self.open.wait()
        self.left = 0
        return []

    def has_work(self) -> bool:
        return self.left > 0


async def test_a_worker_whose_step_does_not_end_is_not_serving_until_it_does() -> None:
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        role, gate, stop = FakeRole(), Gate(), asyncio.Event()
        loop: StepLoop[str, str] = StepLoop(gate)
        config = WorkerConfig(listen=f"unix:{folder}/w", stall_limit_s=0.3)
        task = asyncio.create_task(serve(role.sessions, loop, lambda _: None, config, stop))
        try:
            async with asyncio.timeout(20), grpc.aio.insecure_channel(config.listen) as channel:
                health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True)
                states = [(await health.read()).status for _ in range(2)]
                assert states == [SERVING, NOT_SERVING]
                call = worker_pb2_grpc.WorkerStub(channel).Session(no_commands())
                while not (event := await call.read()).HasField("load"):
                    pass
                assert event.load.stalled == "a step takes longer than 0.3 s"
                gate.open.set()
                assert (await health.read()).status == SERVING
                while (await call.read()).load.stalled:
                    pass
        finally:
            gate.open.set()
            stop.set()
            await task


async def no_commands() -> AsyncIterator[pb.WorkerCommand]:
    await asyncio.Event().wait()
    yield pb.WorkerCommand()
