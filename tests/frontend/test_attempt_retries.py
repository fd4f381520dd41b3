"""Attempts whose workers fail them: tokens that came stand, and room that outlives its worker is filled by another."""

import asyncio

import pytest

from frontend.job import Job
from frontend.legs import Interrupted
from protos import worker_pb2 as pb
from tests.frontend.scene import LENGTH, Scene, admits, job, regranted, settle


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
