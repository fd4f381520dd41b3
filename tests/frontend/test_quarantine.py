"""Requests that workers die of are found out; those that were only beside them are not."""

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest

from engine.errors import Poisoned
from frontend.leg_events import Start
from frontend.link import Inbox, Leg, Link
from frontend.quarantine import PROGRESS_TOKENS, Quarantine
from frontend.request import GenerateRequest, TokenPrompt
from protos import worker_pb2 as pb
from tests.cluster import cluster
from tests.frontend.scene import job, settle
from tests.shared_data import shared_data


def starts() -> Iterator[Start]:
    return (Start("w", str(number)) for number in itertools.count())


def always(_: Start) -> bool:
    return True


def test_a_request_that_workers_keep_dying_of_is_refused_now_and_later() -> None:
    quarantine, poison, worker = Quarantine(3, always), job(), starts()
    quarantine.strike(poison, next(worker), 0)
    quarantine.strike(poison, next(worker), PROGRESS_TOKENS - 1)
    quarantine.check(job())
    quarantine.strike(poison, next(worker), 0)
    quarantine.check(job())
    poison.tried_alone = True
    with pytest.raises(Poisoned, match="4 workers died"):
        quarantine.strike(poison, next(worker), 0)
    with pytest.raises(Poisoned):
        quarantine.check(job(name="again"))
    quarantine.check(job(num_tokens=8))


def test_who_gets_on_loses_his_strikes() -> None:
    quarantine, innocent = Quarantine(2, always), job()
    for worker in itertools.islice(starts(), 10):
        quarantine.strike(innocent, worker, PROGRESS_TOKENS)
    assert len(innocent.lost_with) == 1


def test_a_stream_that_broke_is_no_death() -> None:
    dead: set[Start] = set()
    quarantine, unlucky = Quarantine(3, dead.__contains__), job()
    workers = list(itertools.islice(starts(), 10))
    for worker in workers:
        quarantine.strike(unlucky, worker, 0)
    dead.update(workers[:2])
    unlucky.tried_alone = True
    with pytest.raises(Poisoned):
        quarantine.strike(unlucky, Start("w", "last"), 0)


async def test_suspects_are_tried_one_at_a_time_and_others_go_on() -> None:
    quarantine = Quarantine(5, always)
    first, second, other = job(), job(), job()
    first.lost_with = second.lost_with = list(itertools.islice(starts(), 2))
    async with AsyncExitStack() as stack:
        watch = await stack.enter_async_context(quarantine.watched(first))
        await stack.enter_async_context(quarantine.watched(other))
        waits = asyncio.create_task(stack.enter_async_context(quarantine.watched(second)))
        await settle()
        assert not waits.done()
        first.tokens += range(PROGRESS_TOKENS - 1)
        watch.note_tokens()
        await settle()
        assert not waits.done()
        first.tokens.append(1)
        watch.note_tokens()
        assert (await waits).suspect, "the first one is cleared, and the next is tried"
    async with quarantine.watched(second):
        pass


async def test_a_suspect_that_is_given_up_lets_the_next_one_in() -> None:
    quarantine, suspect = Quarantine(5, always), job()
    suspect.lost_with = list(itertools.islice(starts(), 3))
    for _ in range(2):
        with pytest.raises(RuntimeError):
            async with quarantine.watched(suspect):
                raise RuntimeError
    waiting = [asyncio.create_task(_held(quarantine)) for _ in range(3)]
    await settle()
    waiting[1].cancel()
    waiting[0].cancel()
    await settle()
    assert not waiting[2].done()
    waiting[2].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    async with asyncio.timeout(5), quarantine.watched(suspect):
        pass


async def _held(quarantine: Quarantine) -> None:
    suspect = job()
    suspect.lost_with = list(itertools.islice(starts(), 3))
    async with quarantine.watched(suspect):
        await asyncio.Event().wait()


async def test_a_request_that_kills_is_refused_and_those_beside_it_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each time the worker takes it, the worker is gone, and comes back as another start of itself."""
    deaths = 0
    take_hello, send = Link._take_hello, Link.admit

    def take_hello_anew(link: Link, hello: pb.Hello) -> None:
        hello.incarnation += str(deaths)
        take_hello(link, hello)

    def send_and_die(link: Link, admit: pb.Admit, inbox: Inbox) -> Leg:
        nonlocal deaths
        if list(admit.token_ids[: len(POISON)]) == POISON:
            deaths += 1
            running.proxies["decode-0"].cut()
        return send(link, admit, inbox)

    monkeypatch.setattr(Link, "_take_hello", take_hello_anew)
    monkeypatch.setattr(Link, "admit", send_and_die)
    async with cluster(shared_data("models", "stories260K"), prefill=0) as running:
        good = [GenerateRequest(prompt=TokenPrompt((1, 5 + i)), temperature=0.0, max_tokens=60) for i in range(4)]
        poison = GenerateRequest(prompt=TokenPrompt(tuple(POISON)), max_tokens=60)
        expected = [(await running.complete(each)).token_ids for each in good]
        answers = asyncio.gather(*(running.complete(each) for each in good))
        with pytest.raises(Poisoned):
            await running.complete(poison)
        assert [answer.token_ids for answer in await answers] == expected
        assert deaths == 3
        with pytest.raises(Poisoned):
            await running.complete(poison)
        assert deaths == 3, "it was not tried again"


POISON = [1, 66, 6, 99]
