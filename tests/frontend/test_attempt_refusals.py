"""Attempts that find no room: who waits, who is asked instead, and what is refused for good."""

import asyncio
from contextlib import AsyncExitStack, aclosing

import pytest

from engine.errors import ContextOverflow, Overloaded, Unavailable
from frontend.callers import Caller
from frontend.leg_events import Row
from protos import worker_pb2 as pb
from tests.frontend.scene import LENGTH, Hearing, Scene, admits, gave_up, job, regranted, settle


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


async def test_who_waits_in_a_full_queue_is_refused_when_a_higher_priority_comes() -> None:
    scene = Scene(queue_timeout_s=5.0)
    scene.admission.max_requests = 2
    scene.decode.load(free_blocks=0)

    async def one(number: int, priority: int) -> None:
        waiting = job(name=f"r{number}")
        waiting.caller = Caller(priority=priority)
        async with aclosing(scene.attempts.run(waiting)) as rows:
            await anext(rows)

    tasks = []
    for number, priority in enumerate((0, 1, 0)):
        tasks.append(asyncio.create_task(one(number, priority)))
        await asyncio.sleep(0.01)
    with pytest.raises(Overloaded, match="the queue is full, and requests of higher priority came") as refused:
        await tasks[1]
    assert refused.value.limit == "queue"
    assert refused.value.queue_position == 2
    for task in (tasks[0], tasks[2]):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert scene.left() == []


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
