"""The prefill scheduler: order, budget, chunks, custody under any history."""

import random

import pytest

from engine.sequence import FinishReason, SequenceId
from prefill.scheduler import BlocksReady, Freed, PrefillScheduler, PromptDone, State
from tests.workload import prompt, sequence

P = 4


def make(num_blocks: int = 16, max_step_tokens: int = 8, max_sequences: int = 8) -> PrefillScheduler:
    return PrefillScheduler(
        num_blocks, P, max_step_tokens=max_step_tokens, max_sequences=max_sequences, max_queued_tokens=100
    )


def admit(scheduler: PrefillScheduler, name: str, tokens: list[int], **kwargs: int) -> SequenceId:
    made = sequence(name, tokens, block_tokens=P, **kwargs)
    scheduler.admit(made)
    return made.id


def step(scheduler: PrefillScheduler, token: int = 1) -> list[object]:
    chunks = scheduler.plan()
    sampled = [(chunk.sequence, token) for chunk in chunks if chunk.samples]
    return list(scheduler.commit(chunks, sampled))


def test_a_long_prompt_takes_several_steps_and_its_blocks_are_ready_as_they_fill() -> None:
    scheduler = make(max_step_tokens=6)
    a = admit(scheduler, "a", list(range(14)))

    assert step(scheduler) == [BlocksReady(a, 0, (0,))]
    assert step(scheduler) == [BlocksReady(a, 1, (1, 2))]
    assert step(scheduler) == [BlocksReady(a, 3, (3,)), PromptDone(a, 1, 0, None, 0, 3)]
    assert step(scheduler) == []


def test_short_prompts_share_a_step_in_the_order_they_came() -> None:
    scheduler = make(max_step_tokens=8)
    a, b, c = (admit(scheduler, name, [ord(name)] * 3) for name in "abc")

    chunks = scheduler.plan()

    assert [(chunk.sequence.id, chunk.start, chunk.end) for chunk in chunks] == [(a, 0, 3), (b, 0, 3), (c, 0, 2)]


def test_a_cached_prefix_is_not_computed_but_ready_at_once() -> None:
    scheduler = make()
    a = admit(scheduler, "a", list(range(8)))
    step(scheduler)
    scheduler.close(a)

    b = admit(scheduler, "b", [*range(8), 9])
    events = step(scheduler)

    assert events == [BlocksReady(b, 0, (0, 1, 2)), PromptDone(b, 1, 0, None, 8, 1)]


def test_the_last_token_is_computed_even_if_all_blocks_are_cached() -> None:
    scheduler = make()
    a = admit(scheduler, "a", list(range(8)))
    step(scheduler)
    scheduler.close(a)

    admit(scheduler, "b", list(range(8)))
    chunks = scheduler.plan()

    assert [(chunk.start, chunk.end) for chunk in chunks] == [(4, 8)]


def test_the_first_token_may_end_the_answer() -> None:
    scheduler = make()
    a = admit(scheduler, "a", [1, 2], max_tokens=1)

    assert step(scheduler)[-1] == PromptDone(a, 1, 0, FinishReason.LENGTH, 0, 1)


def test_the_head_of_the_queue_waits_for_blocks_and_nobody_overtakes_it() -> None:
    scheduler = make(num_blocks=4)
    a = admit(scheduler, "a", [1] * 12)
    step(scheduler)
    step(scheduler)
    b = admit(scheduler, "b", [2] * 8)
    admit(scheduler, "c", [3])

    assert scheduler.plan() == []
    assert not scheduler.has_work(), "it would spin"
    assert scheduler.close(a) == [Freed(a)]
    assert scheduler.has_work()
    assert scheduler.plan()[0].sequence.id == b


def test_blocks_that_a_transfer_may_read_outlive_an_abort() -> None:
    scheduler = make()
    a = admit(scheduler, "a", [1] * 6)
    step(scheduler)

    assert scheduler.abort(a) == []
    assert [holder.state for holder in scheduler.holders()] == [State.DRAINING]
    assert scheduler.close(a) == [Freed(a)]
    assert scheduler.holders() == []


@pytest.mark.parametrize("computed", [False, True])
def test_a_prompt_nothing_was_sent_of_is_freed_at_once(computed: bool) -> None:
    scheduler = make(max_step_tokens=2)
    a = admit(scheduler, "a", [1] * 6)
    if computed:
        step(scheduler)  # half a block: nothing to send yet

    assert scheduler.abort(a) == [Freed(a)]
    assert scheduler.close(a) == [], "the service closes what it aborts; twice is harmless"
    assert scheduler.queued_tokens == 0


@pytest.mark.parametrize("seed", range(20))
def test_any_history_keeps_custody_and_loses_nobody(seed: int) -> None:
    rng = random.Random(seed)
    scheduler = make(num_blocks=rng.randint(4, 24), max_step_tokens=rng.choice([1, 3, 8, 64]))
    admitted: set[SequenceId] = set()
    freed: set[SequenceId] = set()
    done: set[SequenceId] = set()
    given_up: set[SequenceId] = set()

    def note(events: list[object]) -> None:
        for event in events:
            if isinstance(event, Freed):
                assert event.id not in freed, "freed twice"
                freed.add(event.id)
            elif isinstance(event, PromptDone):
                assert event.id not in given_up, "computed after it was given up"
                done.add(event.id)

    for number in range(400):
        action = rng.random()
        if action < 0.35:
            tokens = prompt(rng, 4 * P)
            if scheduler.fits(len(tokens)) and scheduler.has_room(len(tokens)):
                admitted.add(admit(scheduler, f"s{number}", tokens))
        elif action < 0.5 and admitted - freed:
            victim = rng.choice(sorted(admitted - freed))
            note(list(scheduler.abort(victim)))
            given_up.add(victim)
        elif action < 0.75 and (done | given_up) - freed:
            note(list(scheduler.close(rng.choice(sorted((done | given_up) - freed)))))
        else:
            note(step(scheduler))
        scheduler.pool.check()
    for _ in range(10_000):
        for name in (done | given_up) - freed:
            note(list(scheduler.close(name)))
        if freed == admitted:
            break
        note(step(scheduler))

    assert freed == admitted
    assert scheduler.pool.num_available == scheduler.pool.num_blocks
    assert scheduler.pool.num_leaked() == 0
