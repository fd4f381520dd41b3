"""The worker's end of the stream: legs end exactly once, whoever ends them; over real streams, with a fake role."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import grpc.aio
import pytest

from engine import session as sessions_module
from engine.blocks import CacheChanges
from engine.clock import Axis, own_axis
from engine.errors import InvalidRequest
from engine.leg import Leg, Row
from engine.sequence import BlockHash, SequenceId
from engine.session import Sessions
from protos import worker_pb2 as pb
from protos import worker_pb2_grpc


@dataclass
class FakeRole:
    """Holds the legs it was given until they are given up; frees those at once unless told to `hold`."""

    lease_s: float = 30.0
    legs: dict[int, Leg] = field(default_factory=dict)
    aborted: list[int] = field(default_factory=list)
    regranted: list[int] = field(default_factory=list)
    kept_traces: list[bytes] = field(default_factory=list)
    hold: bool = False
    told: pb.Load = field(default_factory=pb.Load)
    error: Exception | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.sessions = Sessions(self, self.lease_s)

    def hello(self) -> pb.Hello:
        return pb.Hello(worker_id="w")

    def admit(self, leg: Leg, admit: pb.Admit) -> None:
        if self.error:
            raise self.error
        self.legs[leg.number] = leg
        self._note()

    def regrant(self, leg: Leg, regrant: pb.Regrant) -> None:
        if self.error:
            raise self.error
        self.regranted.append(regrant.attempt)
        self._note()

    def abort(self, leg: Leg) -> None:
        self.aborted.append(leg.number)
        if not self.hold:
            self.free(leg)
        self._note()

    def free(self, leg: Leg) -> None:
        self.legs.pop(leg.number, None)
        self.sessions.released(leg.id)

    def keep_trace(self, trace_id: bytes) -> None:
        self.kept_traces.append(trace_id)

    def load(self) -> pb.Load:
        made = pb.Load()
        made.CopyFrom(self.told)
        return made

    async def custody(self) -> pb.GetCustodyResponse:
        holders = [pb.Holder(request_id=leg.id, state="running") for leg in self.legs.values()]
        return pb.GetCustodyResponse(holders=[*holders, pb.Holder(request_id="nobody's")])

    def _note(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def until(self, num_legs: int) -> None:
        async with asyncio.timeout(10):
            while len(self.legs) != num_legs:
                await self.changed.wait()


class Frontend:
    """One stream to the worker."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = worker_pb2_grpc.WorkerStub(channel)
        self.commands: asyncio.Queue[pb.WorkerCommand | None] = asyncio.Queue()
        self.call = self.stub.Session(self._stream())

    async def _stream(self) -> AsyncIterator[pb.WorkerCommand]:
        while (command := await self.commands.get()) is not None:
            yield command

    def send(self, **command: object) -> None:
        self.commands.put_nowait(pb.WorkerCommand(**command))

    def admit(self, leg: int) -> None:
        self.send(admit=pb.Admit(leg=leg, request_id=f"r{leg}"))

    async def hear(self, *, loads: bool = False) -> pb.WorkerEvent:
        """The next event; load reports come when they like, and are passed over unless asked for."""
        while True:
            event = await asyncio.wait_for(self.call.read(), 10)
            assert event is not grpc.aio.EOF, "the stream has ended"
            if loads or not event.HasField("load"):
                return event

    async def ended(self) -> None:
        async with asyncio.timeout(10):
            while await self.call.read() is not grpc.aio.EOF:
                pass


@asynccontextmanager
async def worker(role: FakeRole) -> AsyncIterator[str]:
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        server = grpc.aio.server()
        worker_pb2_grpc.add_WorkerServicer_to_server(role.sessions, server)
        server.add_insecure_port(f"unix:{folder}/w")
        await server.start()
        try:
            yield f"unix:{folder}/w"
        finally:
            role.sessions.close()
            await server.stop(grace=None)


@asynccontextmanager
async def frontend(address: str) -> AsyncIterator[Frontend]:
    async with grpc.aio.insecure_channel(address) as channel:
        made = Frontend(channel)
        assert (await made.hear()).hello.worker_id == "w"
        yield made
        made.call.cancel()


async def test_a_leg_is_admitted_answered_and_released() -> None:
    role = FakeRole()
    async with worker(role) as address, frontend(address) as f:
        f.admit(1)
        await role.until(1)
        leg = role.legs[1]
        assert (leg.number, leg.request_id) == (1, "r1")
        role.sessions.send(leg.id, granted=pb.Granted(leg=1))
        assert (await f.hear()).granted.leg == 1
        f.send(abort=pb.Abort(leg=1))
        assert (await f.hear()).released.leg == 1
        assert role.sessions.leg(leg.id) is None


async def test_an_abort_is_answered_even_for_a_leg_nobody_knows() -> None:
    async with worker(FakeRole()) as address, frontend(address) as f:
        f.send(abort=pb.Abort(leg=77))
        assert (await f.hear()).released.leg == 77


async def test_a_leg_is_given_up_once_however_often_it_is_asked() -> None:
    role = FakeRole(hold=True)
    async with worker(role) as address, frontend(address) as f:
        f.admit(1)
        f.send(abort=pb.Abort(leg=1))
        f.send(abort=pb.Abort(leg=1))
        f.send(abort=pb.Abort(leg=99))
        assert (await f.hear()).released.leg == 99
        assert role.aborted == [1]
        role.free(role.legs[1])
        assert (await f.hear()).released.leg == 1


async def test_what_the_role_cannot_make_sense_of_is_refused_and_forgotten() -> None:
    role = FakeRole(error=InvalidRequest("no"))
    async with worker(role) as address, frontend(address) as f:
        f.admit(1)
        refused = (await f.hear()).refused
        assert (refused.leg, refused.reason, refused.message) == (1, pb.REFUSAL_REASON_INVALID, "no")
        await asyncio.wait_for(role.sessions.drain(), 10)


async def test_a_leg_is_granted_anew_while_it_is_wanted() -> None:
    role = FakeRole(hold=True)
    async with worker(role) as address, frontend(address) as f:
        f.admit(1)
        f.send(regrant=pb.Regrant(leg=1, attempt=3))
        f.send(regrant=pb.Regrant(leg=1, attempt=2))
        f.send(abort=pb.Abort(leg=1))
        f.send(regrant=pb.Regrant(leg=1, attempt=4))
        f.send(regrant=pb.Regrant(leg=77, attempt=2))
        assert (await f.hear()).released.leg == 77, "nothing is held for a leg that nobody knows"
        assert role.regranted == [3, 2]
        assert role.legs[1].attempt == 3
        role.free(role.legs[1])
        assert (await f.hear()).released.leg == 1


async def test_what_the_role_cannot_grant_anew_is_given_up() -> None:
    role = FakeRole()
    async with worker(role) as address, frontend(address) as f:
        f.admit(1)
        await role.until(1)
        role.error = InvalidRequest("no")
        f.send(regrant=pb.Regrant(leg=1, attempt=2))
        failed = (await f.hear()).failed
        assert (failed.leg, failed.reason, failed.message) == (1, pb.FAILURE_REASON_INVALID, "no")
        assert (await f.hear()).released.leg == 1
        assert role.aborted == [1]


async def test_a_number_in_use_is_refused() -> None:
    role = FakeRole()
    async with worker(role) as address, frontend(address) as f:
        f.admit(1)
        f.admit(1)
        assert (await f.hear()).refused.reason == pb.REFUSAL_REASON_INVALID
        assert len(role.legs) == 1


async def test_a_fault_of_the_role_ends_that_stream_with_an_error() -> None:
    role = FakeRole(error=ZeroDivisionError())
    async with worker(role) as address, frontend(address) as f:
        f.admit(1)
        with pytest.raises(grpc.aio.AioRpcError):
            await f.ended()


@pytest.mark.parametrize("how", ["cancel", "half-close"])
async def test_a_stream_that_ends_gives_its_legs_up_and_no_others(how: str) -> None:
    role = FakeRole()
    async with worker(role) as address, frontend(address) as stays, frontend(address) as goes:
        stays.admit(1)
        for leg in (2, 3):
            goes.admit(leg)
        await role.until(3)
        if how == "cancel":
            goes.call.cancel()
        else:
            goes.commands.put_nowait(None)
        await role.until(1)
        assert sorted(role.aborted) == [2, 3]
        stays.send(abort=pb.Abort(leg=1))
        assert (await stays.hear()).released.leg == 1


async def test_two_frontends_may_use_the_same_numbers() -> None:
    role = FakeRole()
    async with worker(role) as address, frontend(address) as a, frontend(address) as b:
        a.admit(1)
        await role.until(1)
        first = role.legs.pop(1)
        b.admit(1)
        await role.until(1)
        second = role.legs[1]
        assert first.id != second.id
        rows = [Row(first.id, 0, 5, pb.FINISH_REASON_STOP, True), Row(second.id, 3, 6, pb.FINISH_REASON_STOP, True)]
        role.sessions.send_steps(10, 20, rows)
        for each, index, token in ((a, 0, 5), (b, 3, 6)):
            output = (await each.hear()).step_output
            assert (list(output.legs), list(output.indices), list(output.token_ids)) == ([1], [index], [token])


async def test_a_step_is_one_message_of_columns() -> None:
    role = FakeRole()
    async with worker(role) as address, frontend(address) as f:
        for leg in (1, 2, 3):
            f.admit(leg)
        await role.until(3)
        ids = {number: leg.id for number, leg in role.legs.items()}
        rows = [
            Row(ids[1], 4, 11, pb.FINISH_REASON_UNSPECIFIED, False),
            Row(ids[2], 0, 12, pb.FINISH_REASON_LENGTH, True, pb.Logprobs(chosen=-1.0)),
            Row(SequenceId("gone"), 0, 13, pb.FINISH_REASON_STOP, True),
            Row(ids[3], 9, 14, pb.FINISH_REASON_STOP, False),
        ]
        role.sessions.send_steps(10, 20, rows)
        output = (await f.hear()).step_output

        assert (output.start_ns, output.end_ns) == (10, 20)
        assert list(output.legs) == [1, 2, 3]
        assert list(output.indices) == [4, 0, 9]
        assert list(output.token_ids) == [11, 12, 14]
        assert list(output.finish_reasons) == [0, pb.FINISH_REASON_LENGTH, pb.FINISH_REASON_STOP]
        assert list(output.logprobs) == [pb.Logprobs(row=1, chosen=-1.0)]
        assert [number for number, name in ids.items() if role.sessions.leg(name)] == [1, 3]


async def test_a_question_to_its_clock_is_answered_and_every_frontend_has_its_own_axis() -> None:
    role = FakeRole()
    async with worker(role) as address, frontend(address) as f, frontend(address) as other:
        for number, each in ((1, f), (2, other)):
            each.admit(number)
            await role.until(number)
        asked_ns = time.monotonic_ns()
        f.send(clock_probe=pb.ClockProbe(sent_ns=7))
        reply = (await f.hear()).clock_reply
        assert reply.sent_ns == 7
        assert asked_ns <= reply.received_ns <= reply.answered_ns <= time.monotonic_ns()
        assert reply.unix_at_zero_ns == pytest.approx(own_axis().unix_at_zero_ns, abs=1e9)
        assert role.legs[1].axis.within_ns is None, "nobody has said where it stands"
        f.send(clock_probe=pb.ClockProbe(sent_ns=8, axis=pb.ClockAxis(unix_at_zero_ns=-5, within_ns=6)))
        assert (await f.hear()).clock_reply.sent_ns == 8
        assert role.legs[1].axis == Axis(-5, 6)
        assert role.legs[2].axis.within_ns is None


async def test_a_lease_that_is_not_renewed_ends_the_leg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, "LOAD_INTERVAL_S", 0.01)
    role = FakeRole(lease_s=0.3)
    async with worker(role) as address, frontend(address) as f:
        timers = asyncio.create_task(role.sessions.run_timers())
        for leg in (1, 2):
            f.admit(leg)
        await role.until(2)
        kept = role.legs[2]
        while 1 in role.legs:
            f.send(renew_lease=pb.RenewLease(legs=[2, 99]))
            await asyncio.sleep(0.01)
        events = [await f.hear(), await f.hear()]
        assert (events[0].failed.leg, events[0].failed.reason) == (1, pb.FAILURE_REASON_EXPIRED)
        assert events[1].released.leg == 1
        assert role.sessions.leg(kept.id) is kept
        timers.cancel()


async def test_a_trace_to_keep_is_handed_on() -> None:
    role = FakeRole()
    async with worker(role) as address, frontend(address) as f:
        f.send(keep_trace=pb.KeepTrace(trace_id=b"t" * 16))
        f.admit(1)
        await role.until(1)
    assert role.kept_traces == [b"t" * 16]


async def test_draining_takes_no_new_legs_and_waits_for_those_there_are() -> None:
    role = FakeRole()
    async with worker(role) as address, frontend(address) as f:
        f.admit(1)
        await role.until(1)
        draining = asyncio.create_task(role.sessions.drain())
        while not (event := await f.hear(loads=True)).load.draining:
            pass
        f.admit(2)
        while not (event := await f.hear()).HasField("refused"):
            pass
        assert event.refused.reason == pb.REFUSAL_REASON_DRAINING
        assert not draining.done()
        role.free(role.legs[1])
        await asyncio.wait_for(draining, 10)


async def test_a_refusal_is_followed_by_a_report_even_if_nothing_changed() -> None:
    role = FakeRole()
    async with worker(role) as address, frontend(address) as f:
        assert (await f.hear(loads=True)).HasField("load")
        role.sessions.report_load()
        assert (await f.hear(loads=True)).HasField("load")
        f.admit(1)
        await role.until(1)
        role.sessions.refuse(role.legs[1].id, "full", too_large=False)
        assert (await f.hear(loads=True)).refused.reason == pb.REFUSAL_REASON_FULL
        role.sessions.report_load()
        assert (await f.hear(loads=True)).HasField("load")
        role.sessions.report_load()
        f.send(abort=pb.Abort(leg=5))
        assert (await f.hear(loads=True)).released.leg == 5, "what has not changed is not said again"


async def test_who_connects_between_two_reports_hears_how_that_moment_ended() -> None:
    role = FakeRole()
    async with worker(role) as address, frontend(address):
        role.sessions.report_load()
        role.told = pb.Load(running=2)  # nobody was told, but who comes now
        async with frontend(address) as late:
            assert (await late.hear(loads=True)).load.running == 2
            role.told = pb.Load()
            role.sessions.report_load()
            assert (await late.hear(loads=True)).load.running == 0


async def test_a_new_frontend_is_told_of_every_cached_block() -> None:
    role = FakeRole()
    a, b, c = (BlockHash(bytes([n]) * 16) for n in range(3))
    async with worker(role) as address, frontend(address) as first:
        role.sessions.publish(CacheChanges((a, b), ()))
        role.sessions.publish(CacheChanges((c,), (a,)))
        async with frontend(address) as second:
            stored = (await second.hear()).blocks_stored.hashes
            assert {stored[:16], stored[16:]} == {b, c}
        heard = [await first.hear() for _ in range(3)]
        assert [event.WhichOneof("event") for event in heard] == ["blocks_stored", "blocks_stored", "blocks_evicted"]


async def test_custody_names_legs_by_their_requests() -> None:
    role = FakeRole()
    async with worker(role) as address, frontend(address) as f:
        f.admit(1)
        await role.until(1)
        report = await f.stub.GetCustody(pb.GetCustodyRequest())
        assert [(holder.request_id, holder.leg) for holder in report.holders] == [("r1", 1), ("nobody's", 0)]
        assert 0 < report.holders[0].lease_s <= 30
        assert "over" in report.holders[1].reason


async def test_custody_says_why_a_leg_was_given_up() -> None:
    role = FakeRole(hold=True)
    async with worker(role) as address, frontend(address) as f:
        f.admit(1)
        f.send(abort=pb.Abort(leg=1))
        f.send(abort=pb.Abort(leg=99))
        assert (await f.hear()).released.leg == 99
        (held, _) = (await f.stub.GetCustody(pb.GetCustodyRequest())).holders
        assert held.reason.endswith("given up: its frontend aborted it")


async def test_what_is_no_command_ends_its_stream_and_gives_its_legs_up() -> None:
    role = FakeRole()

    async def commands() -> AsyncIterator[bytes]:
        yield pb.WorkerCommand(admit=pb.Admit(leg=1)).SerializeToString()
        await role.until(1)
        yield b"\x0a\x7fshort"
        await asyncio.Event().wait()

    async with worker(role) as address, grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream("/tandem.worker.v1.Worker/Session")(commands())
        with suppress(grpc.aio.AioRpcError):
            async with asyncio.timeout(10):
                _ = [event async for event in call]
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        await role.until(0)
        async with frontend(address) as f:
            f.admit(2)
            await role.until(1)
