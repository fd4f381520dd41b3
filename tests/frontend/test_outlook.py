"""What cannot be in time is refused at once, and what forecasts learn from."""

import asyncio
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace

import pytest

from engine.errors import Overloaded
from frontend.forecast import Bias, Forecast
from frontend.job import Job
from protos import worker_pb2 as pb
from tests.frontend.scene import Scene, admits, gave_up, job, settle


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


async def test_who_waited_teaches_those_who_wait_even_where_places_were_free() -> None:
    outlook, made = Scene().attempts.outlook, job()
    made.attempt, made.forecast = 1, Forecast(3, wait_s=0.0, first_s=1e-9)
    outlook.first_token(made)
    assert outlook._at_once == Bias()
    assert outlook._waiting != Bias()
