"""Attempts: tokens in order over streams that know nothing of each other, and nothing left behind however they end."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace

import pytest

from engine.errors import ContextOverflow, InvalidRequest, Overloaded, Unavailable
from engine.sequence import SamplingParams
from frontend.admission import Admission
from frontend.attempt import Attempts
from frontend.callers import ANYBODY
from frontend.forecast import Bias, Forecast
from frontend.job import Job
from frontend.ledger import Ledger
from frontend.leg_events import Row
from frontend.legs import Interrupted
from frontend.link import Link
from frontend.pulse import Pulse
from frontend.router import Policy
from protos import worker_pb2 as pb
from tests.frontend.fake_worker import FakeWorker

LENGTH = pb.FINISH_REASON_LENGTH


@dataclass
class FakeFleet:
    """Workers whose streams are the test; as `Fleet` to who makes attempts."""

    pulse: Pulse = field(default_factory=Pulse)
    workers: list[FakeWorker] = field(default_factory=list)

    def add(self, role: "pb.Role", name: str = "", **hello: object) -> FakeWorker:
        self.workers.append(FakeWorker(role, self.pulse, name, **hello))
        return self.workers[-1]

    def links(self, role: "pb.Role") -> list[Link]:
        return [worker.link for worker in self.workers if worker.role == role and worker.link.view is not None]


class Scene:
    """One prefill and one decode worker, and attempts at jobs over them."""

    def __init__(self, *, queue_timeout_s: float = 60.0, policy: Policy | None = None, prefill: bool = True) -> None:
        self.fleet = FakeFleet()
        if prefill:
            self.prefill = self.fleet.add(pb.ROLE_PREFILL)
        self.decode = self.fleet.add(pb.ROLE_DECODE)
        self.admission = Admission(100, 10_000)
        self.attempts = Attempts(
            self.fleet,  # type: ignore[arg-type]
            self.admission,
            policy or Policy(always_remote=True),
            queue_timeout_s,
        )

    @asynccontextmanager
    async def attempt(
        self, job: Job, ends: type[Exception] | None = None, *, keeps: bool = False
    ) -> AsyncIterator["Hearing"]:
        """Run one attempt, that `ends` in an error or not; at the end nothing may be left of it anywhere, but for the
        room on decode if it `keeps` that."""
        with pytest.raises(ends) if ends else nullcontext():
            async with aclosing(self.attempts.run(job)) as rows:
                yield Hearing(rows)
        if keeps:
            assert self.left() == [self.decode.name]
        else:
            self.attempts.let_go(job)
            assert self.left() == []
            assert self.attempts._kept == {}

    def left(self) -> list[object]:
        """Who holds something still, after every worker has answered the aborts it was sent."""
        for worker in self.fleet.workers:
            worker.release_aborted()
        left: list[object] = [w.name for w in self.fleet.workers for leg in w.link._legs.values() if leg.wanted]
        return left + [1] * self.admission.queued_requests

    async def granted(self, hearing: "Hearing") -> tuple[int, int]:
        """Play until both workers have taken the job; their legs on prefill and decode."""
        taken = hearing.next()
        (reserve,) = await admits(self.decode)
        self.decode.grant(reserve.leg, ticket={"id": "t"}, cached_tokens=4)
        (push,) = await admits(self.prefill)
        assert push.push.ticket.id == "t"
        self.prefill.grant(push.leg)
        assert await taken == []
        return push.leg, reserve.leg


class Hearing:
    """What an attempt says, one batch at a time."""

    def __init__(self, rows: AsyncIterator[list[Row]]) -> None:
        self._rows = rows

    def next(self) -> "asyncio.Task[list[Row]]":
        return asyncio.ensure_future(anext(self._rows))  # type: ignore[arg-type]

    async def tokens(self) -> list[int]:
        return [row.token for row in await asyncio.wait_for(self.next(), 5)]


async def admits(worker: FakeWorker) -> list[pb.Admit]:
    """The next `Admit` commands to come to a worker."""
    for _ in range(50):
        if found := worker.admits():
            return found
        await asyncio.sleep(0)
    return []


async def regranted(worker: FakeWorker) -> pb.Regrant:
    """The next `Regrant` to come to a worker."""
    for _ in range(50):
        if found := worker.regrants():
            (regrant,) = found
            return regrant
        await asyncio.sleep(0)
    raise AssertionError("nothing is asked of it")


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def job(max_tokens: int = 10, num_tokens: int = 9, name: str = "r") -> Job:
    return Job(
        request_id=name,
        model="m",
        tokens=list(range(num_tokens)),
        num_prompt=num_tokens,
        params=SamplingParams(max_tokens=max_tokens, seed=1),
        caller=ANYBODY,
        hashes=[],
        traceparent="",
        ledger=Ledger(),
    )


async def test_token_one_comes_from_prefill_and_the_rest_from_decode() -> None:
    scene, made = Scene(), job(max_tokens=3)
    async with scene.attempt(made) as hearing:
        push, reserve = await scene.granted(hearing)
        scene.prefill.say(prefill_done=pb.PrefillDone(leg=push, queue_ns=5, compute_ns=7, cached_tokens=8))
        scene.prefill.tokens(push, 0, 50)
        assert await hearing.tokens() == [50]
        scene.decode.say(kv_arrived=pb.KvArrived(leg=reserve, commit_ns=9))
        scene.prefill.say(released=pb.Released(leg=push))
        scene.decode.tokens(reserve, 1, 51)
        scene.decode.tokens(reserve, 2, 52, finish=LENGTH)
        assert await hearing.tokens() == [51, 52]
        with pytest.raises(StopAsyncIteration):
            await hearing.next()
    assert made.tokens[9:] == [50, 51, 52]
    assert (made.ledger.queue_ns, made.ledger.compute_ns, made.ledger.commit_ns) == (5, 7, 9)
    assert made.ledger.granted_ns <= made.ledger.sent_ns <= made.ledger.made[0].ns <= made.ledger.made[1].ns
    assert made.cached_tokens == 8


async def test_local_prefill_needs_one_leg() -> None:
    scene = Scene(prefill=False)
    async with scene.attempt(job()) as hearing:
        taken = hearing.next()
        (admit,) = await admits(scene.decode)
        assert admit.WhichOneof("work") == "local"
        scene.decode.grant(admit.leg)
        assert await taken == []
        scene.decode.tokens(admit.leg, 0, 50, finish=LENGTH)
        assert await hearing.tokens() == [50]


async def test_token_two_waits_for_token_one() -> None:
    scene = Scene()
    async with scene.attempt(job()) as hearing:
        push, reserve = await scene.granted(hearing)
        scene.decode.tokens(reserve, 1, 51)
        scene.decode.tokens(reserve, 2, 52, finish=LENGTH)
        waiting = hearing.next()
        await settle()
        assert not waiting.done()
        scene.prefill.tokens(push, 0, 50)
        assert [row.token for row in await waiting] == [50, 51, 52]


async def test_what_decode_says_before_prefill_has_answered_is_kept() -> None:
    scene = Scene()
    async with scene.attempt(job()) as hearing:
        taken = hearing.next()
        (reserve,) = await admits(scene.decode)
        scene.decode.grant(reserve.leg)
        (push,) = await admits(scene.prefill)
        scene.decode.tokens(reserve.leg, 1, 51, finish=LENGTH)
        await settle()
        scene.prefill.grant(push.leg)
        scene.prefill.tokens(push.leg, 0, 50)
        assert await taken == []
        assert await hearing.tokens() == [50, 51]


async def test_an_answer_that_ends_with_token_one_aborts_the_transfer() -> None:
    scene = Scene()
    async with scene.attempt(job(max_tokens=1)) as hearing:
        push, reserve = await scene.granted(hearing)
        scene.prefill.tokens(push, 0, 50, finish=LENGTH)
        assert await hearing.tokens() == [50]
        with pytest.raises(StopAsyncIteration):
            await hearing.next()
        assert scene.decode.release_aborted() == [reserve]


@pytest.mark.parametrize("worker", ["prefill", "decode"])
@pytest.mark.parametrize("how", ["lost", "failed"])
async def test_tokens_that_came_before_a_failure_stand(worker: str, how: str) -> None:
    scene, made = Scene(), job()
    async with scene.attempt(made, ends=Interrupted) as hearing:
        legs = await scene.granted(hearing)
        scene.prefill.tokens(legs[0], 0, 50)
        scene.decode.tokens(legs[1], 2, 52)
        failing, leg = (scene.prefill, legs[0]) if worker == "prefill" else (scene.decode, legs[1])
        if how == "lost":
            failing.down()
        else:
            failing.say(failed=pb.Failed(leg=leg, reason=pb.FAILURE_REASON_TRANSFER, message="x"))
        assert await hearing.tokens() == [50]
        await hearing.next()
    assert made.tokens[9:] == [50], "the token after the gap is sampled again"
    assert scene.left() == []


async def test_the_next_attempt_continues_where_the_last_one_ended() -> None:
    scene, made = Scene(), job()
    async with scene.attempt(made, ends=Interrupted) as hearing:
        push, _ = await scene.granted(hearing)
        scene.prefill.tokens(push, 0, 50)
        await hearing.tokens()
        scene.decode.down()
        await hearing.next()
    route_ns, granted_ns = made.ledger.route_ns, made.ledger.granted_ns
    scene.decode.up()
    async with scene.attempt(made) as hearing:
        taken = hearing.next()
        (reserve,) = await admits(scene.decode)
        assert list(reserve.token_ids) == [*range(9), 50]
        assert (reserve.num_prompt, reserve.attempt) == (9, 2)
        scene.decode.grant(reserve.leg)
        (push_again,) = await admits(scene.prefill)
        scene.prefill.grant(push_again.leg)
        await taken
        scene.prefill.tokens(push_again.leg, 1, 51, finish=LENGTH)
        assert await hearing.tokens() == [51]
    assert (made.ledger.route_ns, made.ledger.granted_ns) == (route_ns, granted_ns), "TTFT was over"


@pytest.mark.parametrize("worker", ["prefill", "decode"])
async def test_a_dead_end_is_nobodys_fault_and_is_not_tried_again(worker: str) -> None:
    scene, made = Scene(), replace(job(), grammar="start: /a/")
    async with scene.attempt(made, ends=InvalidRequest) as hearing:
        taken = hearing.next()
        (reserve,) = await admits(scene.decode)
        scene.decode.grant(reserve.leg, ticket={"id": "t"})
        (push,) = await admits(scene.prefill)
        assert reserve.grammar == push.grammar == "start: /a/"
        scene.prefill.grant(push.leg)
        await taken
        if worker == "decode":
            scene.prefill.tokens(push.leg, 0, 50)
        failing, leg = (scene.prefill, push.leg) if worker == "prefill" else (scene.decode, reserve.leg)
        failing.say(failed=pb.Failed(leg=leg, reason=pb.FAILURE_REASON_DEAD_END, message="no way"))
        if worker == "decode":
            assert await hearing.tokens() == [50]
        await hearing.next()


@pytest.mark.parametrize("when", ["before its answer", "after its answer"])
@pytest.mark.parametrize("worker", ["prefill", "decode"])
async def test_a_worker_lost_before_token_one_interrupts(worker: str, when: str) -> None:
    scene = Scene()
    async with scene.attempt(job(), ends=Interrupted) as hearing:
        if when == "after its answer":
            await scene.granted(hearing)
            taken = hearing.next()
        else:
            taken = hearing.next()
            (reserve,) = await admits(scene.decode)
            if worker == "prefill":
                scene.decode.grant(reserve.leg)
                await admits(scene.prefill)
        (scene.prefill if worker == "prefill" else scene.decode).down()
        await taken
    assert scene.left() == []


async def test_decode_lost_while_prefill_has_not_answered_interrupts() -> None:
    scene = Scene()
    async with scene.attempt(job(), ends=Interrupted) as hearing:
        taken = hearing.next()
        (reserve,) = await admits(scene.decode)
        scene.decode.grant(reserve.leg)
        await admits(scene.prefill)
        scene.decode.down()
        await taken
    assert scene.left() == []


async def test_a_refused_request_waits_for_the_next_report_and_not_in_a_loop() -> None:
    scene, made = Scene(), job()
    async with scene.attempt(made) as hearing:
        taken = hearing.next()
        (first,) = await admits(scene.decode)
        scene.decode.refuse(first.leg)
        scene.fleet.pulse.beat()
        assert await admits(scene.decode) == []
        assert scene.admission.queued_requests == 1, "it waits where it is seen"
        scene.decode.load()
        (second,) = await admits(scene.decode)
        scene.decode.grant(second.leg)
        (push,) = await admits(scene.prefill)
        scene.prefill.grant(push.leg)
        assert await taken == []
        scene.prefill.tokens(push.leg, 0, 50, finish=LENGTH)
        assert await hearing.tokens() == [50]
    assert made.attempt == 1


async def test_who_was_refused_goes_before_who_came_later() -> None:
    scene = Scene(prefill=False)
    async with AsyncExitStack() as stack:
        runs = [aclosing(scene.attempts.run(job(name=name))) for name in "abc"]
        a, b, c = [Hearing(await stack.enter_async_context(run)) for run in runs]
        hearings = [a.next()]
        (refused,) = await admits(scene.decode)
        scene.decode.load(free_blocks=0)
        hearings += [b.next(), c.next()]
        await settle()
        scene.decode.refuse(refused.leg)
        await settle()
        scene.decode.load()
        await settle()
        order = scene.decode.admits()
        for admit in order:
            scene.decode.grant(admit.leg)
        await asyncio.gather(*hearings)
    assert [admit.request_id for admit in order] == ["b", "a", "c"], "b had the turn already"


async def test_a_full_prefill_worker_costs_no_attempt_and_frees_the_ticket() -> None:
    scene, made = Scene(), job()
    async with scene.attempt(made) as hearing:
        taken = hearing.next()
        (reserve,) = await admits(scene.decode)
        scene.decode.grant(reserve.leg, ticket={"id": "t"})
        (push,) = await admits(scene.prefill)
        scene.prefill.refuse(push.leg)
        await settle()
        assert scene.decode.release_aborted() == [reserve.leg]
        assert await admits(scene.decode) == [], "it waits for the prefill worker's next report"
        scene.prefill.load()
        push_leg, reserve_leg = await granted_again(scene, taken)
        scene.prefill.tokens(push_leg, 0, 50, finish=LENGTH)
        assert await hearing.tokens() == [50]
    assert made.attempt == 1


async def granted_again(scene: Scene, taken: "asyncio.Task[list[Row]]") -> tuple[int, int]:
    (reserve,) = await admits(scene.decode)
    scene.decode.grant(reserve.leg)
    (push,) = await admits(scene.prefill)
    scene.prefill.grant(push.leg)
    assert await taken == []
    return push.leg, reserve.leg


async def test_kv_that_does_not_get_through_goes_another_way_for_a_while() -> None:
    scene = Scene()
    other = scene.fleet.add(pb.ROLE_PREFILL, "other")
    other.load(waiting_tokens=1000)
    async with scene.attempt(job(), ends=Interrupted) as hearing:
        push, _ = await scene.granted(hearing)
        scene.prefill.say(failed=pb.Failed(leg=push, reason=pb.FAILURE_REASON_TRANSFER, message="nothing was taken"))
        await hearing.next()
    kept = list(scene.attempts.places._cut)
    assert scene.attempts.places.find(job()).prefill is other.link.view
    other.down()
    assert scene.attempts.places.find(job()).prefill is None, "decode computes it"
    scene.attempts.places._cut = [(p, d, at - 5.1) for p, d, at in scene.attempts.places._cut]
    assert scene.attempts.places.find(job()).prefill is scene.prefill.link.view
    scene.attempts.places._cut = kept
    scene.decode.down()
    scene.decode.up()
    assert scene.attempts.places.find(job()).prefill is scene.prefill.link.view, "decode was started anew"


async def test_a_draining_prefill_worker_is_passed_over() -> None:
    scene = Scene()
    async with scene.attempt(job()) as hearing:
        taken = hearing.next()
        (reserve,) = await admits(scene.decode)
        scene.decode.grant(reserve.leg)
        (push,) = await admits(scene.prefill)
        scene.prefill.refuse(push.leg, pb.REFUSAL_REASON_DRAINING)
        regrant = await regranted(scene.decode)
        assert (regrant.leg, regrant.WhichOneof("work")) == (reserve.leg, "local"), "decode computes it, in its room"
        scene.decode.grant(reserve.leg)
        assert await taken == []


async def test_no_room_in_time_is_overload_wherever_it_waits() -> None:
    scene = Scene(queue_timeout_s=0.01)
    scene.decode.load(free_blocks=0)

    async def one() -> None:
        async with scene.attempt(job()) as hearing:
            await hearing.next()

    ends = await asyncio.gather(*(one() for _ in range(3)), return_exceptions=True)

    assert [type(end) for end in ends] == [Overloaded] * 3
    assert scene.left() == []


async def test_a_worker_that_never_answers_is_overload_too() -> None:
    scene = Scene(queue_timeout_s=0.01)
    async with scene.attempt(job(), ends=Overloaded) as hearing:
        await hearing.next()
    assert scene.decode.release_aborted() == [1]


async def test_a_full_queue_refuses() -> None:
    scene = Scene()
    scene.admission.max_requests = 0
    async with scene.attempt(job(), ends=Overloaded) as hearing:
        await hearing.next()


async def test_without_a_decode_worker_nobody_waits() -> None:
    scene = Scene()
    scene.decode.down()
    async with scene.attempt(job(), ends=Unavailable) as hearing:
        await hearing.next()


async def test_who_was_interrupted_waits_for_a_decode_worker_to_come_back() -> None:
    scene, made = Scene(prefill=False), job()
    made.attempt = 1
    scene.decode.down()
    async with scene.attempt(made) as hearing:
        taken = hearing.next()
        await settle()
        scene.decode.up()
        (admit,) = await admits(scene.decode)
        scene.decode.grant(admit.leg)
        assert await taken == []


@pytest.mark.parametrize("attempt", [0, 1])
async def test_what_no_worker_can_ever_hold_does_not_wait(attempt: int) -> None:
    scene = Scene()
    made = job(max_tokens=1000)
    made.attempt = attempt
    async with scene.attempt(made, ends=ContextOverflow) as hearing:
        await hearing.next()
    assert scene.left() == []


async def test_a_worker_that_finds_it_too_large_is_believed() -> None:
    scene = Scene()
    async with scene.attempt(job(), ends=ContextOverflow) as hearing:
        taken = hearing.next()
        (admit,) = await admits(scene.decode)
        scene.decode.refuse(admit.leg, pb.REFUSAL_REASON_TOO_LARGE)
        await taken


async def test_a_refusal_of_what_was_granted_interrupts() -> None:
    scene = Scene(prefill=False)
    async with scene.attempt(job(), ends=Interrupted) as hearing:
        taken = hearing.next()
        (admit,) = await admits(scene.decode)
        scene.decode.grant(admit.leg)
        assert await taken == []
        scene.decode.refuse(admit.leg)
        await asyncio.wait_for(hearing.next(), 10)


async def test_a_command_a_worker_cannot_make_sense_of_interrupts() -> None:
    scene = Scene()
    async with scene.attempt(job(), ends=Interrupted) as hearing:
        taken = hearing.next()
        (admit,) = await admits(scene.decode)
        scene.decode.refuse(admit.leg, pb.REFUSAL_REASON_INVALID)
        await taken


async def interrupted(scene: Scene, made: Job, *, heard: bool = False) -> int:
    """Play until the prefill worker is lost, before or after token 1 was heard; the leg on decode, which is kept."""
    async with scene.attempt(made, ends=Interrupted, keeps=True) as hearing:
        push, reserve = await scene.granted(hearing)
        if heard:
            scene.prefill.tokens(push, 0, 50)
            assert await hearing.tokens() == [50]
        scene.prefill.down()
        await hearing.next()
    return reserve


@pytest.mark.parametrize("heard", [False, True])
async def test_another_prefill_worker_fills_the_same_ticket(heard: bool) -> None:
    scene, made = Scene(), job()
    other = scene.fleet.add(pb.ROLE_PREFILL, "other")
    other.load(waiting_tokens=1000)
    reserve = await interrupted(scene, made, heard=heard)
    scene.decode.load(free_blocks=0)  # nobody else's turn, nobody else's blocks
    async with scene.attempt(made) as hearing:
        taken = hearing.next()
        regrant = await regranted(scene.decode)
        assert (regrant.leg, regrant.attempt, regrant.WhichOneof("work")) == (reserve, 2, "reserve")
        assert regrant.HasField("heard") == heard
        assert regrant.heard == (50 if heard else 0)
        assert other.admits() == [], "before the earlier attempt is kept out"
        scene.decode.grant(reserve, ticket={"id": "t", "attempt": 2})
        (push,) = await admits(other)
        assert (push.attempt, push.push.ticket.id, push.push.ticket.attempt) == (2, "t", 2)
        assert list(push.token_ids) == [*range(9)], "the prompt that the ticket is for"
        other.grant(push.leg)
        assert await taken == []
        other.tokens(push.leg, 0, 50)
        if not heard:
            assert await hearing.tokens() == [50]
        scene.decode.say(kv_arrived=pb.KvArrived(leg=reserve))
        scene.decode.tokens(reserve, 1, 51, finish=LENGTH)
        assert await hearing.tokens() == [51], "and token 1 is not heard twice"
    assert made.tokens[9:] == [50, 51]


async def test_decode_computes_it_in_the_room_it_has_when_nobody_else_can() -> None:
    scene, made = Scene(), job()
    reserve = await interrupted(scene, made, heard=True)
    async with scene.attempt(made) as hearing:
        taken = hearing.next()
        regrant = await regranted(scene.decode)
        assert (regrant.leg, regrant.WhichOneof("work"), regrant.heard) == (reserve, "local", 50)
        scene.decode.grant(reserve)
        assert await taken == []
        scene.decode.tokens(reserve, 0, 50)
        scene.decode.tokens(reserve, 1, 51, finish=LENGTH)
        assert await hearing.tokens() == [51]


async def test_a_transfer_that_failed_goes_another_way_into_the_same_room() -> None:
    scene, made = Scene(), job()
    other = scene.fleet.add(pb.ROLE_PREFILL, "other")
    other.load(waiting_tokens=1000)
    async with scene.attempt(made, ends=Interrupted, keeps=True) as hearing:
        push, reserve = await scene.granted(hearing)
        scene.prefill.say(failed=pb.Failed(leg=push, reason=pb.FAILURE_REASON_TRANSFER, message="x"))
        await hearing.next()
    async with scene.attempt(made) as hearing:
        taken = hearing.next()
        assert (await regranted(scene.decode)).leg == reserve
        scene.decode.grant(reserve, ticket={"id": "t", "attempt": 2})
        (push_again,) = await admits(other)
        other.grant(push_again.leg)
        assert await taken == []


async def test_a_prefill_worker_that_refuses_is_replaced_under_the_same_attempt() -> None:
    scene, made = Scene(), job()
    other = scene.fleet.add(pb.ROLE_PREFILL, "other")
    other.load(waiting_tokens=1000)
    async with scene.attempt(made) as hearing:
        taken = hearing.next()
        (reserve,) = await admits(scene.decode)
        scene.decode.grant(reserve.leg, ticket={"id": "t", "attempt": 1})
        (push,) = await admits(scene.prefill)
        scene.prefill.refuse(push.leg)
        (push,) = await admits(other)
        assert (push.push.ticket.id, push.push.ticket.attempt) == ("t", 1), "nothing was sent under it"
        other.grant(push.leg)
        assert await taken == []
    assert made.attempt == 1


async def test_a_prefill_worker_lost_after_the_kv_came_is_not_missed() -> None:
    scene = Scene()
    async with scene.attempt(job()) as hearing:
        push, reserve = await scene.granted(hearing)
        scene.prefill.tokens(push, 0, 50)
        scene.decode.say(kv_arrived=pb.KvArrived(leg=reserve))
        scene.prefill.down()
        scene.decode.tokens(reserve, 1, 51, finish=LENGTH)
        assert await hearing.tokens() == [50, 51]


@pytest.mark.parametrize("when", ["before the next attempt", "before it is asked", "when it is asked"])
@pytest.mark.parametrize("heard", [False, True])
async def test_kv_that_comes_after_its_worker_was_lost(heard: bool, when: str) -> None:
    scene, made = Scene(), job()
    reserve = await interrupted(scene, made, heard=heard)
    if when == "before the next attempt":
        scene.decode.say(kv_arrived=pb.KvArrived(leg=reserve))
    async with scene.attempt(made, ends=None if heard else Interrupted) as hearing:
        taken = hearing.next()
        if when == "when it is asked":
            await regranted(scene.decode)
        if when != "before the next attempt":
            scene.decode.say(kv_arrived=pb.KvArrived(leg=reserve))
        assert await taken == []  # not without token 1
        assert scene.decode.regrants() == []
        scene.decode.tokens(reserve, 1, 51, finish=LENGTH)
        assert await hearing.tokens() == [51]
    assert scene.admission.queued_requests == 0


@pytest.mark.parametrize("when", ["before the next attempt", "when it is asked"])
@pytest.mark.parametrize("how", ["lost", "expired", "released"])
async def test_room_that_is_lost_after_all_is_looked_for_anew(how: str, when: str) -> None:
    scene, made = Scene(), job()
    reserve = await interrupted(scene, made)

    def end() -> None:
        if how == "lost":
            scene.decode.down()
            scene.decode.up()
            return
        if how == "expired":
            scene.decode.say(failed=pb.Failed(leg=reserve, reason=pb.FAILURE_REASON_EXPIRED))
        scene.decode.say(released=pb.Released(leg=reserve))

    if when == "before the next attempt":
        end()
    async with scene.attempt(made, ends=Interrupted) as hearing:
        taken = hearing.next()
        if when == "when it is asked":
            await regranted(scene.decode)
            end()
        await taken
    async with scene.attempt(made) as hearing:
        taken = hearing.next()
        (admit,) = await admits(scene.decode)
        scene.decode.grant(admit.leg)
        assert await taken == []


async def test_room_that_nobody_can_fill_now_is_given_back() -> None:
    scene, made = Scene(), job()
    other = scene.fleet.add(pb.ROLE_PREFILL, "other")
    reserve = await interrupted(scene, made)
    other.link.view.full = True
    async with scene.attempt(made) as hearing:
        taken = hearing.next()
        await settle()
        assert scene.decode.release_aborted() == [reserve]
        other.load()
        (admit,) = await admits(scene.decode)
        scene.decode.grant(admit.leg)
        (push,) = await admits(other)
        other.grant(push.leg)
        assert await taken == []


async def test_room_is_let_go_when_no_further_attempt_is_made() -> None:
    scene, made = Scene(), job()
    reserve = await interrupted(scene, made)
    scene.attempts.let_go(made)
    scene.attempts.let_go(made)
    assert scene.decode.release_aborted() == [reserve]
    assert scene.left() == []


class Tickets:
    """Which attempt may fill each leg on decode; ids of tickets name worker and leg."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.attempts: dict[str, int] = {}

    def grant(self, worker: FakeWorker, leg: int, attempt: int, first: int) -> None:
        ticket = f"{worker.name} {leg} {first}"
        self.attempts[ticket] = attempt
        worker.grant(leg, ticket={"id": ticket, "attempt": attempt})

    def fill(self, ticket: pb.Admit) -> None:
        """The KV arrives, and the answer follows to its end."""
        if self.attempts[ticket.push.ticket.id] != ticket.push.ticket.attempt:
            return
        name, leg, first = ticket.push.ticket.id.split()
        worker = next(worker for worker in self.scene.fleet.workers if worker.name == name)
        worker.say(kv_arrived=pb.KvArrived(leg=int(leg)))
        worker.tokens(int(leg), int(first) + 1, *range(100 + int(first) + 1, 108), finish=LENGTH)


def script(scene: Scene, rng: random.Random) -> Iterator[None]:
    """Answers of workers to whatever they were sent, now and then a failure."""
    tickets = Tickets(scene)
    while True:
        for worker in scene.fleet.workers:
            commands = worker.commands()
            for regrant in [command.regrant for command in commands if command.HasField("regrant")]:
                first = next(
                    len(c.admit.token_ids) - c.admit.num_prompt for c in worker.seen[::-1] if c.admit.leg == regrant.leg
                )
                if regrant.HasField("local"):
                    worker.grant(regrant.leg)
                    worker.tokens(regrant.leg, first, *range(100 + first, 108), finish=LENGTH)
                else:
                    tickets.grant(worker, regrant.leg, regrant.attempt, first)
            for admit in [command.admit for command in commands if command.HasField("admit")]:
                draw = rng.random()
                if draw < 0.15:
                    worker.refuse(admit.leg)
                    worker.load()
                elif draw < 0.2:
                    worker.down()
                    worker.up()
                    break
                elif worker.role == pb.ROLE_DECODE:
                    tickets.grant(worker, admit.leg, admit.attempt, len(admit.token_ids) - admit.num_prompt)
                else:
                    first = len(admit.token_ids) - admit.num_prompt
                    worker.grant(admit.leg)
                    if draw < 0.6:
                        worker.tokens(admit.leg, first, 100 + first)
                    if draw < 0.5 or draw > 0.6:
                        tickets.fill(admit)
                    if draw < 0.4:
                        worker.say(released=pb.Released(leg=admit.leg))
                    else:  # it is lost before or after its token is heard, before or after the KV comes
                        worker.down()
                        worker.up()
                        break
            worker.release_aborted()
            worker.load()
        yield


@pytest.mark.parametrize("seed", range(20))
async def test_any_course_of_events_gives_each_its_tokens_once_and_leaves_nothing(seed: int) -> None:
    rng = random.Random(seed)
    scene = Scene()
    scene.fleet.add(pb.ROLE_DECODE, "decode-2")
    scene.fleet.add(pb.ROLE_PREFILL, "prefill-2")

    async def one() -> list[int]:
        made, tokens = job(max_tokens=8), []
        while True:
            try:
                async with aclosing(scene.attempts.run(made)) as rows:
                    async for batch in rows:
                        tokens += [row.token for row in batch]
                return tokens
            except Interrupted:
                assert made.tokens[9:] == tokens

    tasks = [asyncio.create_task(one()) for _ in range(12)]
    left = rng.sample(tasks, 3)
    steps = script(scene, rng)
    for number in range(2000):
        if all(task.done() for task in tasks):
            break
        next(steps)
        if number == 3:
            for task in left:
                task.cancel()
        await asyncio.sleep(0)
    answers = await asyncio.gather(*tasks, return_exceptions=True)

    for task, answer in zip(tasks, answers, strict=True):
        assert answer == [*range(100, 108)] or task in left, answer
    assert scene.left() == []
    assert all(worker.link.num_legs == 0 for worker in scene.fleet.workers)


# -- what cannot be in time ------------------------------------------------------------------------------------------


class Busy:
    """One decode worker with room for two, and how its answers have been."""

    def __init__(self, **settings: object) -> None:
        self.scene = Scene(prefill=False)
        self.attempts = replace(self.scene.attempts, **settings)
        self.scene.attempts = self.attempts
        self.scene.decode.down()
        self.scene.decode._hello |= {"max_sequences": 2}
        self.scene.decode.up()
        self.attempts.outlook.pace.token_s = 0.1

    async def serve(self, stack: AsyncExitStack, *lengths: int) -> None:
        """Have the worker take jobs of so many tokens."""
        for number, max_tokens in enumerate(lengths):
            rows = await stack.enter_async_context(aclosing(self.attempts.run(job(max_tokens, name=f"s{number}"))))
            taken = asyncio.ensure_future(anext(rows))
            (admit,) = await admits(self.scene.decode)
            self.scene.decode.grant(admit.leg)
            assert await taken == []
        self.scene.decode.load(running=len(lengths))

    async def wait(self, stack: AsyncExitStack, *jobs: Job) -> None:
        """Let jobs wait for a place."""
        for made in jobs:
            rows = await stack.enter_async_context(aclosing(self.attempts.run(made)))
            stack.push_async_callback(gave_up, asyncio.ensure_future(anext(rows)))
            await settle()

    async def refused(self, made: Job) -> Overloaded:
        with pytest.raises(Overloaded) as refused:
            async with aclosing(self.attempts.run(made)) as rows:
                await anext(rows)
        return refused.value


async def gave_up(waiting: "asyncio.Task[list[Row]]") -> None:
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_a_full_queue_says_when_its_next_place_is_free() -> None:
    busy = Busy()
    busy.scene.admission.max_requests = 1
    async with AsyncExitStack() as stack:
        await busy.serve(stack, 100, 300)
        await busy.wait(stack, job(50, name="w"))
        refused = await busy.refused(job())
    assert refused.retry_after_s == pytest.approx(10), "100 tokens of 0.1 s"
    assert refused.queue_position == 1
    assert refused.predicted_ttft_s == pytest.approx(15), "then the one that waits has its 50"


async def test_what_would_miss_the_objective_is_refused_at_once_and_told_when_it_would_not() -> None:
    busy = Busy(ttft_slo_s=12.0)
    async with AsyncExitStack() as stack:
        await busy.serve(stack, 100, 300)
        await busy.wait(stack, job(50, name="w"))
        refused = await busy.refused(job())
        assert refused.retry_after_s == pytest.approx(3)
        assert "the objective is 12 s; the first token would come in about 15 s after 1 that waits" in refused.message
        busy.attempts.outlook.ttft_slo_s = 16.0
        await busy.wait(stack, job(name="v"))


async def test_what_would_miss_its_deadline_is_refused_at_once() -> None:
    busy = Busy()
    async with AsyncExitStack() as stack:
        await busy.serve(stack, 100, 300)
        made = job()
        made.deadline = asyncio.get_running_loop().time() + 4
        refused = await busy.refused(made)
        assert refused.retry_after_s == pytest.approx(6, abs=0.1)
        assert (refused.queue_position, "the deadline leaves " in refused.message) == (0, True)
        made.deadline += 8
        await busy.wait(stack, made)
        assert busy.scene.admission.queued_requests == 1


async def test_what_would_wait_longer_than_anybody_may_is_not_let_wait() -> None:
    busy = Busy(queue_timeout_s=8.0)
    async with AsyncExitStack() as stack:
        await busy.serve(stack, 100, 300)
        await busy.wait(stack, job(1, name="w"))
        refused = await busy.refused(job())
    assert refused.retry_after_s == pytest.approx(2.1)


async def test_where_there_is_room_a_forecast_is_the_routers_estimate() -> None:
    profile = pb.Profile(chunk_tokens=[1, 11], chunk_s=[1.0, 2.0], decode_s=3.0)
    scene = Scene(prefill=False)
    scene.decode._hello |= {"profile": profile, "max_step_tokens": 11}
    scene.decode.down()
    scene.decode.up()
    forecast = scene.attempts.outlook.forecast(job(num_tokens=11))
    assert (forecast.queue_position, forecast.wait_s, forecast.ttft_s) == (0, 0, pytest.approx(2))


async def test_forecasts_that_no_first_token_has_borne_out_do_not_keep_everybody_out() -> None:
    profile = pb.Profile(chunk_tokens=[1, 11], chunk_s=[100.0, 200.0], decode_s=300.0)
    scene = Scene(prefill=False)
    scene.decode._hello |= {"profile": profile, "max_step_tokens": 11}
    scene.decode.down()
    scene.decode.up()
    outlook, first, second = scene.attempts.outlook, job(num_tokens=11), job(name="b", num_tokens=11)
    outlook.ttft_slo_s = 1.0
    outlook.check(first)
    outlook.taken(first)
    with pytest.raises(Overloaded, match="the objective is 1 s"):
        outlook.check(second)
    outlook.left(first)
    outlook.check(second)
    outlook.first_token(second)
    with pytest.raises(Overloaded, match="the objective is 1 s"):
        outlook.check(first)


async def test_what_the_loss_of_a_worker_costs_teaches_nothing() -> None:
    outlook, made = Scene().attempts.outlook, job()
    made.attempt, made.forecast = 2, Forecast(1, wait_s=1.0, first_s=1.0)
    outlook.first_token(made)
    outlook.ended(made)
    assert outlook.pace.token_s == 0
    assert outlook._waiting == Bias()


async def test_those_who_come_at_once_wait_only_for_places_that_are_not_free() -> None:
    profile = pb.Profile(chunk_tokens=[1, 11], chunk_s=[1.0, 2.0], decode_s=3.0)
    scene = Scene(prefill=False)
    scene.decode._hello |= {"profile": profile, "max_step_tokens": 11, "max_sequences": 3}
    scene.decode.down()
    scene.decode.up()
    admission, outlook, made = scene.admission, scene.attempts.outlook, job(num_tokens=11)
    async with AsyncExitStack() as stack:
        waits = []
        for _ in range(5):
            waits.append(outlook.forecast(made).wait_s > 0)
            turn = admission.turn(made.demand())
            stack.push_async_callback(cancelled, asyncio.create_task(stack.enter_async_context(turn)))
            await settle()
    assert waits == [False, False, False, True, True]


async def cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def test_an_answer_that_ends_teaches_the_pace() -> None:
    scene = Scene(prefill=False)
    async with scene.attempt(job(max_tokens=4)) as hearing:
        taken = hearing.next()
        (admit,) = await admits(scene.decode)
        scene.decode.grant(admit.leg)
        assert await taken == []
        scene.decode.tokens(admit.leg, 0, 5, finish=pb.FINISH_REASON_STOP)
        assert await hearing.tokens() == [5]
        with pytest.raises(StopAsyncIteration):
            await hearing.next()
    assert scene.attempts.outlook.pace.tokens_left(0, 4) == 1
    assert scene.attempts.outlook._served == {}


async def test_a_prompt_counts_where_it_will_be_computed_from_when_that_is_decided() -> None:
    """Decode promises room between two steps: those who come meanwhile must see who goes before them."""
    scene = Scene()
    view = scene.prefill.link.view
    assert view is not None
    async with scene.attempt(job(num_tokens=9)) as hearing:
        taken = hearing.next()
        (reserve,) = await admits(scene.decode)
        assert (view.coming_tokens, view.sent_tokens) == (9, 0)
        scene.decode.grant(reserve.leg, ticket={"id": "t"})
        (push,) = await admits(scene.prefill)
        assert (view.coming_tokens, view.sent_tokens) == (0, 9)
        scene.prefill.grant(push.leg)
        assert await taken == []
    async with scene.attempt(job(num_tokens=9, name="gone")) as hearing:
        taken = hearing.next()
        await admits(scene.decode)
        await gave_up(taken)
    assert view.coming_tokens == 0


async def test_who_waited_teaches_those_who_wait_even_where_places_were_free() -> None:
    outlook, made = Scene().attempts.outlook, job()
    made.attempt, made.forecast = 1, Forecast(3, wait_s=0.0, first_s=1e-9)
    outlook.first_token(made)
    assert outlook._at_once == Bias()
    assert outlook._waiting != Bias()
