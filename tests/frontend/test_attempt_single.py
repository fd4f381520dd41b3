"""Answers of a single token: whoever computes the prompt gives it, and no decode worker has to have room."""

import asyncio
from contextlib import AsyncExitStack, aclosing

import pytest

from engine.errors import Overloaded
from frontend.legs import Interrupted
from frontend.router import Policy
from protos import worker_pb2 as pb
from tests.frontend.fake_worker import FakeWorker
from tests.frontend.scene import LENGTH, Hearing, Scene, admits, gave_up, job, settle

PROFILE = pb.Profile(chunk_tokens=[1, 9], chunk_s=[1.0, 2.0], decode_s=1.0)


async def wait_for_room(scene: Scene, stack: AsyncExitStack) -> None:
    """Let two jobs wait for a decode worker, all of which is taken."""
    scene.decode.load(free_blocks=0)
    for name in ("first", "second"):
        rows = await stack.enter_async_context(aclosing(scene.attempts.run(job(name=name))))
        stack.push_async_callback(gave_up, asyncio.ensure_future(anext(rows)))
    await settle()
    assert scene.admission.queued_requests == 2


async def answered(worker: FakeWorker, hearing: Hearing) -> None:
    """Play a prefill worker that gives all of the answer."""
    taken = hearing.next()
    (admit,) = await admits(worker)
    assert admit.WhichOneof("work") == "single_token"
    worker.grant(admit.leg)
    assert await taken == []
    worker.say(prefill_done=pb.PrefillDone(leg=admit.leg, queue_ns=5, compute_ns=7, cached_tokens=4))
    worker.tokens(admit.leg, 0, 50, finish=LENGTH)
    assert await hearing.tokens() == [50]


async def test_one_leg_is_enough() -> None:
    scene, made = Scene(), job(max_tokens=1)
    hop_s = scene.attempts.places.hop_s
    async with scene.attempt(made) as hearing:
        await answered(scene.prefill, hearing)
        with pytest.raises(StopAsyncIteration):
            await hearing.next()
    assert scene.decode.commands() == []
    assert (made.ledger.queue_ns, made.ledger.compute_ns, made.cached_tokens) == (5, 7, 4)
    assert scene.attempts.places.hop_s == hop_s, "that is what two legs cost"


async def test_a_full_decode_side_does_not_delay_it() -> None:
    scene = Scene()
    scene.decode.load(free_blocks=0)
    async with scene.attempt(job(max_tokens=1)) as hearing:
        await answered(scene.prefill, hearing)


async def test_it_passes_those_who_wait_for_decode_workers_and_a_queue_that_is_full_of_them() -> None:
    scene = Scene()
    async with AsyncExitStack() as stack:
        await wait_for_room(scene, stack)
        scene.admission.max_requests = 2
        hearing = Hearing(await stack.enter_async_context(aclosing(scene.attempts.run(job(max_tokens=1)))))
        await answered(scene.prefill, hearing)
        assert scene.admission.queued_requests == 2
    assert scene.left() == []


async def test_refused_by_the_prefill_worker_it_waits_with_the_others() -> None:
    scene = Scene()
    async with AsyncExitStack() as stack:
        await wait_for_room(scene, stack)
        hearing = Hearing(await stack.enter_async_context(aclosing(scene.attempts.run(job(max_tokens=1, name="it")))))
        taken = hearing.next()
        (admit,) = await admits(scene.prefill)
        scene.prefill.refuse(admit.leg)
        await settle()
        assert scene.admission.queued_requests == 3
        scene.prefill.load()
        scene.decode.load(free_blocks=3)  # for one of them
        assert [admit.request_id for admit in await admits(scene.decode)] == ["first"]
        assert scene.prefill.admits() == []
        await gave_up(taken)
    assert scene.left() == []


async def test_what_would_be_late_there_is_refused_as_ever() -> None:
    scene = Scene()
    for worker in (scene.prefill, scene.decode):
        worker._hello |= {"profile": PROFILE, "max_step_tokens": 9}
        worker.down()
        worker.up()
    async with AsyncExitStack() as stack:
        await wait_for_room(scene, stack)
        scene.attempts.outlook.ttft_slo_s = 1.5
        rows = await stack.enter_async_context(aclosing(scene.attempts.run(job(max_tokens=1))))
        with pytest.raises(Overloaded, match="the objective is 1.5 s"):
            await anext(rows)
    assert scene.prefill.admits() == []


async def test_the_prefill_worker_that_is_lost_is_replaced() -> None:
    scene, made = Scene(), job(max_tokens=1)
    async with scene.attempt(made, ends=Interrupted) as hearing:
        taken = hearing.next()
        (admit,) = await admits(scene.prefill)
        scene.prefill.grant(admit.leg)
        assert await taken == []
        scene.prefill.down()
        await hearing.next()
    scene.prefill.up()
    async with scene.attempt(made) as hearing:
        await answered(scene.prefill, hearing)
    assert made.attempt == 2


async def test_without_prefill_workers_a_decode_worker_with_room_gives_it() -> None:
    scene = Scene(prefill=False, policy=Policy())
    async with scene.attempt(job(max_tokens=1)) as hearing:
        taken = hearing.next()
        (admit,) = await admits(scene.decode)
        assert admit.WhichOneof("work") == "local"
        scene.decode.grant(admit.leg)
        assert await taken == []
        scene.decode.tokens(admit.leg, 0, 50, finish=LENGTH)
        assert await hearing.tokens() == [50]
