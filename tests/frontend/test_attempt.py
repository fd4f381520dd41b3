"""Attempts: tokens in order over streams that know nothing of each other, and nothing left behind however they end."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace

import pytest

from engine.errors import InvalidRequest
from engine.hashes import block_hashes
from frontend.callers import Caller
from frontend.legs import Interrupted
from protos import worker_pb2 as pb
from tests.frontend.fake_worker import FakeWorker
from tests.frontend.scene import LENGTH, Hearing, Scene, admits, job, settle


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
    async with scene.attempt(job()) as hearing:
        push, reserve = await scene.granted(hearing)
        scene.prefill.tokens(push, 0, 50, finish=pb.FINISH_REASON_STOP)
        assert await hearing.tokens() == [50]
        with pytest.raises(StopAsyncIteration):
            await hearing.next()
        assert scene.decode.release_aborted() == [reserve]


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


async def test_who_found_no_room_lets_those_before_whose_priority_says_so() -> None:
    """And is back at the head of its own afterwards."""
    scene = Scene(prefill=False)
    scene.decode.load(free_blocks=0)
    async with AsyncExitStack() as stack:
        hearings = []
        for name, priority in (("low", 1), ("low too", 1), ("high", 0), ("highest", -1)):
            one = replace(job(name=name), caller=Caller("c", priority=priority))
            run = await stack.enter_async_context(aclosing(scene.attempts.run(one)))
            hearings.append(Hearing(run).next())
            await settle()
        assert scene.admission.queued_requests == 4
        scene.decode.load()
        await settle()
        order = scene.decode.admits()
        for admit in order:
            scene.decode.grant(admit.leg)
        await asyncio.gather(*hearings)
    assert [admit.request_id for admit in order] == ["highest", "high", "low", "low too"]
    assert scene.admission.queued_tokens == 0


async def test_workers_with_other_blocks_get_hashes_of_those() -> None:
    scene = Scene(prefill=False)
    made = job()
    made.hashes, made.block_tokens = block_hashes(made.tokens, 2, made.hash_root), 2  # as workers were before
    async with scene.attempt(made) as hearing:
        taken = hearing.next()
        (admit,) = await admits(scene.decode)
        assert admit.block_hashes == b"".join(block_hashes(made.tokens, 4, made.hash_root))
        scene.decode.grant(admit.leg)
        assert await taken == []
