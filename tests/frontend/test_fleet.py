"""A link: legs and their events, what the router is told, and streams that break, some of them real."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import grpc.aio
import msgspec
import pytest

from engine.errors import ProtocolError
from engine.tls import Tls, listen
from frontend import fleet as fleets
from frontend import link as link_module
from frontend.fleet import Fleet
from frontend.leg_events import LegEvent, Lost, Row, Start
from frontend.link import Leg, Link
from frontend.pulse import Pulse
from frontend.tally import Counts
from protos import worker_pb2 as pb
from protos import worker_pb2_grpc
from tests.certificates import Authority
from tests.frontend.fake_worker import FakeWorker

Inbox = asyncio.Queue[tuple[Leg, LegEvent]]
HOLDS = {"num_blocks": 8, "block_tokens": 4, "max_context": 32, "max_sequences": 2}


def decode(**hello: object) -> FakeWorker:
    return FakeWorker(pb.ROLE_DECODE, Pulse(), **hello)


def admit(worker: FakeWorker, inbox: Inbox | None = None, num_tokens: int = 9) -> Leg:
    return worker.link.admit(pb.Admit(token_ids=[1] * num_tokens), inbox or Inbox())


def sent(worker: FakeWorker) -> tuple[int, int, int]:
    view = worker.link.view
    assert view is not None
    return view.sent_legs, view.sent_blocks, view.sent_tokens


def events(inbox: Inbox) -> list[LegEvent]:
    told = [inbox.get_nowait()[1] for _ in range(inbox.qsize())]
    assert all(event.heard_ns for event in told if isinstance(event, Row))
    return [msgspec.structs.replace(event, heard_ns=0) if isinstance(event, Row) else event for event in told]


async def test_a_leg_is_numbered_and_sent_and_hears_its_own_events_alone() -> None:
    worker, mine, others = decode(), Inbox(), Inbox()
    a, b = admit(worker, mine), admit(worker, others)

    assert [command.leg for command in worker.admits()] == [a.number, b.number]
    worker.grant(a.number)
    worker.tokens(b.number, 0, 7)

    assert events(mine) == [pb.Granted(leg=a.number)]
    assert events(others) == [Row(0, 7, pb.FINISH_REASON_UNSPECIFIED, None, 10, 20)]


async def test_columns_give_each_row_its_logprobs() -> None:
    worker, inbox = decode(), Inbox()
    a, b = admit(worker, inbox), admit(worker, inbox)
    logprobs = pb.Logprobs(row=1, chosen=-0.5)
    columns = {"legs": [a.number, b.number, 99], "indices": [3, 4, 5], "token_ids": [7, 8, 9]}
    worker.say(step_output=pb.StepOutput(**columns, finish_reasons=[0, 0, 0], logprobs=[logprobs]))

    rows = events(inbox)

    assert [(row.index, row.token, row.logprobs) for row in rows] == [(3, 7, None), (4, 8, logprobs)]


async def test_what_was_sent_counts_until_a_report_that_knows_of_it() -> None:
    worker = decode()
    a, b = admit(worker), admit(worker, num_tokens=4)
    assert sent(worker) == (2, 4, 13)
    worker.grant(a.number)
    assert sent(worker) == (2, 4, 13), "no report has counted it"
    worker.load(free_blocks=97, running=1)
    assert sent(worker) == (1, 1, 4)
    worker.say(released=pb.Released(leg=a.number))
    assert sent(worker) == (1, 1, 4), "the report counts it, not we"
    worker.say(released=pb.Released(leg=b.number))
    assert sent(worker) == (0, 0, 0), "no report need come any more"
    assert worker.link.num_legs == 0


@pytest.mark.parametrize("end", ["refused", "released", "finished"])
async def test_whatever_ends_an_unreported_leg_gives_back_its_room_and_wakes_who_waits(end: str) -> None:
    worker = decode()
    leg = admit(worker)
    woken = asyncio.create_task(worker.link.pulse.wait())
    await asyncio.sleep(0)
    match end:
        case "refused":
            worker.refuse(leg.number, pb.REFUSAL_REASON_INVALID)
        case "released":
            worker.say(released=pb.Released(leg=leg.number))
        case _:
            worker.tokens(leg.number, 0, 1, finish=pb.FINISH_REASON_STOP)
    await woken
    assert sent(worker) == (0, 0, 0)
    assert worker.link.num_legs == 0


async def test_a_worker_that_refused_is_full_until_its_next_report() -> None:
    worker = decode()
    worker.refuse(admit(worker).number)
    assert worker.link.view.full
    worker.load()
    assert not worker.link.view.full


async def test_a_worker_that_drains_says_so_in_a_refusal_too() -> None:
    worker = decode()
    worker.refuse(admit(worker).number, pb.REFUSAL_REASON_DRAINING)
    assert worker.link.view.draining
    assert not worker.link.view.full


async def test_a_report_of_load_reaches_the_router() -> None:
    worker = decode()
    worker.load(free_blocks=5, running=2, waiting=1, waiting_tokens=9, prefill_tokens_per_s=3.0, draining=True)
    view = worker.link.view
    assert (view.free_blocks, view.running, view.waiting, view.waiting_tokens) == (5, 3, 1, 9)
    assert (view.costs.table_s(9), view.draining) == (3.0, True)


async def test_of_a_worker_that_is_gone_nothing_is_believed_any_more() -> None:
    worker = decode()
    worker.load(free_blocks=5, running=2, leaked_blocks=1)
    worker.down()
    assert worker.link.load == pb.Load()


async def test_what_a_worker_counts_goes_on_over_its_starts() -> None:
    worker = decode()

    def start(incarnation: str) -> None:
        worker.say(hello=pb.Hello(worker_id="decode", role=pb.ROLE_DECODE, incarnation=incarnation, **HOLDS))

    start("a")
    assert worker.link.tally.total == Counts()
    worker.load(preemptions=2, fenced_writes=1)
    worker.load(preemptions=3, fenced_writes=1)
    assert worker.link.tally.total == Counts(preemptions=3, fenced_writes=1)
    worker.down()
    assert worker.link.tally.total == Counts(preemptions=3, fenced_writes=1)
    start("a")
    worker.load(preemptions=4, fenced_writes=1)
    assert worker.link.tally.total == Counts(preemptions=4, fenced_writes=1), "a stream broke, nothing began anew"
    worker.down()
    start("b")
    assert worker.link.tally.total == Counts(preemptions=4, fenced_writes=1)
    worker.load(preemptions=1)
    assert worker.link.tally.total == Counts(preemptions=5, fenced_writes=1)


async def test_what_was_counted_where_nobody_is_any_more_stays_counted_and_is_not_counted_twice() -> None:
    fleet = Fleet((), ("dns:///decode:1",))
    there = {"a:1": pb.ROLE_DECODE, "b:1": pb.ROLE_DECODE}
    report = pb.WorkerEvent(load=pb.Load(preemptions=2))

    def both_say() -> None:
        for _, link in fleet.all_links:
            link._take(pb.WorkerEvent(hello=pb.Hello(incarnation=link.address, role=pb.ROLE_DECODE, **HOLDS)))
            link._take(report)

    async with asyncio.TaskGroup() as streams:
        fleet._update(there, streams)
        both_say()
        assert fleet.counts == Counts(preemptions=4)
        fleet._update({"b:1": pb.ROLE_DECODE}, streams)
        assert [link.address for _, link in fleet.all_links] == ["b:1"]
        assert fleet.counts == Counts(preemptions=4)
        fleet._update(there, streams)
        both_say()
        assert fleet.counts == Counts(preemptions=4)
        fleet._update({}, streams)


async def test_a_profile_is_taken_as_slow_as_the_worker_now_finds_it() -> None:
    profile = pb.Profile(chunk_tokens=[1, 11], chunk_s=[1.0, 2.0], decode_s=3.0)
    own = pb.Profile(chunk_tokens=[1, 11], chunk_s=[2.0, 4.0], decode_s=6.0)
    worker = decode(profile=profile, own_profile=own, cpu_board="board")
    view = worker.link.view
    assert (view.costs.table_s(6), view.own_costs.table_s(6)) == (1.5, 3.0)
    worker.load(slowdown=2.0, prefill_tokens_per_s=1e9)
    assert (view.costs.table_s(6), view.own_costs.table_s(6)) == (3.0, 6.0)
    worker.down()
    worker.up()
    assert worker.link.view.costs.table_s(6) == 1.5, "of a new start"
    assert worker.link.view.borrows_from(worker.link.view)


async def test_room_that_is_only_reserved_is_nothing_to_compute() -> None:
    worker = decode()
    worker.link.admit(pb.Admit(token_ids=[1] * 9, reserve=pb.Reserve()), Inbox())
    assert sent(worker) == (1, 3, 0)


async def test_hashes_follow_what_is_stored_and_evicted() -> None:
    worker = decode()
    worker.say(blocks_stored=pb.BlocksStored(hashes=b"a" * 16 + b"b" * 16))
    worker.say(blocks_evicted=pb.BlocksEvicted(hashes=b"a" * 16 + b"c" * 16))
    assert worker.link.view.hashes == {b"b" * 16}


async def test_an_abort_is_sent_once_and_only_while_the_worker_holds_something() -> None:
    worker = decode()
    a, b = admit(worker), admit(worker)
    worker.commands()
    a.abort()
    a.abort()
    worker.tokens(b.number, 0, 1, finish=pb.FINISH_REASON_LENGTH)
    b.abort()
    assert worker.release_aborted() == [a.number]
    assert worker.link.num_legs == 0


async def test_prefill_holds_blocks_after_the_last_token() -> None:
    worker = FakeWorker(pb.ROLE_PREFILL, Pulse())
    leg = admit(worker)
    worker.tokens(leg.number, 0, 1, finish=pb.FINISH_REASON_STOP)
    assert worker.link.num_legs == 1
    worker.say(released=pb.Released(leg=leg.number))
    assert worker.link.num_legs == 0


async def test_a_broken_stream_tells_every_leg_and_forgets_the_worker() -> None:
    worker, inbox = decode(), Inbox()
    leg = admit(worker, inbox)
    worker.say(blocks_stored=pb.BlocksStored(hashes=b"a" * 16))
    woken = asyncio.create_task(worker.link.pulse.wait())
    await asyncio.sleep(0)

    worker.down()
    await woken

    assert [type(event) for event in events(inbox)] == [Lost]
    assert worker.link.view is None
    leg.abort()
    worker.up()
    assert worker.link.view.hashes == set()
    assert admit(worker).number > leg.number, "numbers are never used again"


async def test_columns_that_differ_in_length_break_the_stream_not_the_frontend() -> None:
    with pytest.raises(ProtocolError):
        decode().say(step_output=pb.StepOutput(legs=[1], indices=[1]))


# -- over a real stream ----------------------------------------------------------------------------------------------


class Scripted(worker_pb2_grpc.WorkerServicer):
    """Says hello, then what the test puts into `events`; None ends the stream."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[pb.WorkerEvent | None] = asyncio.Queue()
        self.commands: asyncio.Queue[pb.WorkerCommand] = asyncio.Queue()
        self.probes: asyncio.Queue[pb.ClockProbe] = asyncio.Queue()

    async def Session(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.WorkerCommand], context: object
    ) -> AsyncIterator[pb.WorkerEvent]:
        yield pb.WorkerEvent(hello=pb.Hello(worker_id="w", role=pb.ROLE_DECODE, lease_ms=60, **HOLDS))
        reader = asyncio.create_task(self._read(request_iterator))
        while (event := await self.events.get()) is not None:
            yield event
        reader.cancel()

    async def _read(self, commands: AsyncIterator[pb.WorkerCommand]) -> None:
        async for command in commands:
            if command.HasField("clock_probe"):
                self.probes.put_nowait(command.clock_probe)
            else:
                self.commands.put_nowait(command)


@asynccontextmanager
async def scripted() -> AsyncIterator[tuple[Scripted, str]]:
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        server, servicer = grpc.aio.server(), Scripted()
        worker_pb2_grpc.add_WorkerServicer_to_server(servicer, server)
        server.add_insecure_port(f"unix:{folder}/w")
        await server.start()
        try:
            yield servicer, f"unix:{folder}/w"
        finally:
            servicer.events.put_nowait(None)
            await server.stop(grace=None)


@asynccontextmanager
async def running(*addresses: str, tls: Tls | None = None) -> AsyncIterator[Fleet]:
    fleet = Fleet((), addresses, tls)
    task = asyncio.create_task(fleet.run())
    try:
        yield fleet
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def up(fleet: Fleet) -> Link:
    async with asyncio.timeout(10):
        while not (links := fleet.links(pb.ROLE_DECODE)):
            await fleet.pulse.wait()
    return links[0]


async def down(fleet: Fleet) -> None:
    async with asyncio.timeout(10):
        while fleet.links(pb.ROLE_DECODE):
            await fleet.pulse.wait()


async def test_leases_of_wanted_legs_are_renewed_and_others_are_aborted_until_that_is_answered() -> None:
    async with scripted() as (worker, address), running(address) as fleet:
        link, inbox = await up(fleet), Inbox()
        kept, left = (link.admit(pb.Admit(token_ids=[1]), inbox) for _ in "ab")
        left.abort()
        async with asyncio.timeout(10):
            commands: list[pb.WorkerCommand] = []
            while sum(command.HasField("abort") for command in commands) < 2:
                commands.append(await worker.commands.get())
    assert {command.abort.leg for command in commands if command.HasField("abort")} == {left.number}
    renewed = [list(command.renew_lease.legs) for command in commands if command.HasField("renew_lease")]
    assert [kept.number] in renewed
    assert not any(left.number in legs for legs in renewed)


async def test_a_workers_clock_is_asked_again_and_again_and_told_what_that_gave() -> None:
    async with scripted() as (worker, address), running(address) as fleet:
        link = await up(fleet)
        async with asyncio.timeout(10):
            first = await worker.probes.get()
            assert not first.HasField("axis")
            assert link.clock.here(0) is None
            reply = pb.ClockReply(sent_ns=first.sent_ns, received_ns=5, answered_ns=5)
            worker.events.put_nowait(pb.WorkerEvent(clock_reply=reply))
            while not (probe := await worker.probes.get()).HasField("axis"):
                pass
        here = link.clock.here(5)
        assert here is not None
        assert here.within_ns is not None
        assert first.sent_ns - here.within_ns <= here.ns <= probe.sent_ns + here.within_ns
        assert probe.axis.within_ns > 0
        worker.events.put_nowait(None)
        await down(fleet)
        assert link.clock.here(5) is None, "its next start has another clock"


@pytest.mark.parametrize(
    "end",
    [
        None,
        pb.WorkerEvent(step_output=pb.StepOutput(legs=[1])),
        pb.WorkerEvent(hello=pb.Hello(worker_id="of another kind")),
    ],
)
async def test_a_stream_that_ended_or_made_no_sense_is_opened_again(end: pb.WorkerEvent | None) -> None:
    async with scripted() as (worker, address), running(address) as fleet:
        link, inbox = await up(fleet), Inbox()
        link.admit(pb.Admit(token_ids=[1]), inbox)
        worker.events.put_nowait(end)
        _, event = await asyncio.wait_for(inbox.get(), 10)
        assert isinstance(event, Lost)
        assert await up(fleet) is link
        assert link.num_legs == 0


async def test_what_is_no_event_ends_that_stream_and_nothing_else() -> None:
    async def babble(request_iterator: object, context: object) -> AsyncIterator[bytes]:
        came.release()
        yield b"\xff\xff no event"

    came = asyncio.Semaphore(0)
    methods = {"Session": grpc.stream_stream_rpc_method_handler(babble)}
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("tandem.worker.v1.Worker", methods)])
        server.add_insecure_port(f"unix:{folder}/w")
        await server.start()
        async with running(f"unix:{folder}/w"), asyncio.timeout(10):
            for _ in range(2):
                await came.acquire()
        await server.stop(grace=None)


async def test_a_worker_that_says_nothing_is_lost_and_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "SHORTEST_SILENCE_S", 0.3)
    monkeypatch.setattr(link_module, "LOOK_S", 0.0)
    async with scripted() as (worker, address), running(address) as fleet:
        link, inbox = await up(fleet), Inbox()
        link.admit(pb.Admit(token_ids=[1]), inbox)
        for _ in range(10):
            worker.events.put_nowait(pb.WorkerEvent(load=pb.Load()))
            await asyncio.sleep(0.1)
            assert inbox.empty(), "it was heard"
        _, event = await asyncio.wait_for(inbox.get(), 10)
        assert event == Lost(f"worker {address} is gone", Start(address, ""))
        assert await up(fleet) is link


async def test_a_worker_that_is_stalled_gets_nothing_and_what_it_has_goes_elsewhere() -> None:
    worker, inbox = decode(), Inbox()
    leg = admit(worker, inbox)
    worker.load(stalled="no step ends")
    assert inbox.get_nowait() == (leg, Lost("worker decode is stalled: no step ends"))
    assert not worker.link.view.takes_requests
    worker.load(stalled="no step ends")
    assert inbox.empty(), "it is said once"
    worker.load()
    assert worker.link.view.takes_requests


async def test_a_worker_that_drained_did_not_die() -> None:
    worker, inbox = decode(), Inbox()
    leg = admit(worker, inbox)
    worker.load(draining=True)
    worker.down()
    assert inbox.get_nowait() == (leg, Lost("worker decode is gone"))


async def test_an_event_that_crashes_a_link_ends_the_fleet_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Link, "_take_load", bug)
    async with scripted() as (worker, address):
        worker.events.put_nowait(pb.WorkerEvent(load=pb.Load()))
        with pytest.raises(ExceptionGroup) as crash:
            await asyncio.wait_for(Fleet((), (address,)).run(), 10)
    assert crash.group_contains(ZeroDivisionError)


async def test_a_name_that_does_not_resolve_for_a_while_keeps_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[list[str] | None] = [["a:1", "b:1"], None, ["b:1"]]

    async def resolve(_: str) -> list[str] | None:
        return answers.pop(0)

    monkeypatch.setattr(fleets, "_resolve", resolve)
    fleet = Fleet((), ("dns:///decode:1",))

    assert [sorted(await fleet._wanted()) for _ in range(3)] == [["a:1", "b:1"], ["a:1", "b:1"], ["b:1"]]


async def test_names_resolve_to_every_address_and_addresses_to_themselves() -> None:
    assert await fleets._resolve("unix:/w") == ["unix:/w"]
    assert "127.0.0.1:7" in (await fleets._resolve("dns:///localhost:7") or [])


@pytest.mark.parametrize(("names", "address"), [("DNS:localhost", "dns:///localhost:"), ("IP:127.0.0.1", "127.0.0.1:")])
async def test_a_worker_shows_the_certificate_of_the_name_behind_which_it_was_found(
    names: str, address: str, tmp_path: Path
) -> None:
    authority = Authority(tmp_path, "ours")
    own, frontends = authority.issue("worker", names), authority.issue("frontend")
    server = grpc.aio.server()
    worker_pb2_grpc.add_WorkerServicer_to_server(servicer := Scripted(), server)
    port = listen(server, "127.0.0.1:0", Tls(own.cert, own.key, authority.cert), field="listen")
    await server.start()
    try:
        async with running(f"{address}{port}", tls=Tls(frontends.cert, frontends.key, authority.cert)) as fleet:
            assert (await up(fleet)).hello is not None
    finally:
        servicer.events.put_nowait(None)
        await server.stop(grace=None)
