"""The prefill worker: prompts in, chunks and first tokens out, and any order of commands empties the pool."""

import random
from collections.abc import Sequence as Many

import pytest
import torch

from engine.batch import Batch
from engine.cost import Costs, Slowdown
from engine.custody import Custody, Inspect
from engine.sampled import Sampled
from engine.sequence import Sequence, SequenceId, TokenLogprobs
from prefill.scheduler import BlocksReady, Freed, PrefillScheduler
from prefill.worker import (
    Close,
    Command,
    Compute,
    DeadEnd,
    Event,
    FirstToken,
    GiveUp,
    PrefillWorker,
    Queued,
    Refused,
)
from tests.workload import prompt, sequence

P = 4
LOGPROBS = TokenLogprobs(-1.0, (), ())


class NowhereToGo:
    """Constrains an answer to what cannot be."""

    def take(self, token: int) -> bool:
        raise AssertionError("a token was taken that was not drawn")


def run(batch: Batch) -> torch.Tensor:
    return torch.zeros(len(batch.sampled), 1)


def sample(_: torch.Tensor, sequences: Many[Sequence]) -> Sampled:
    dead_ends = {row: "no way" for row, s in enumerate(sequences) if isinstance(s.constraint, NowhereToGo)}
    return Sampled([9] * len(sequences), (LOGPROBS,) * len(sequences) if sequences else None, dead_ends)


class Scene:
    def __init__(
        self,
        num_blocks: int = 16,
        *,
        max_step_tokens: int = 8,
        max_queued_tokens: int = 40,
        slowdown: Slowdown | None = None,
    ) -> None:
        scheduler = PrefillScheduler(
            num_blocks, P, max_step_tokens=max_step_tokens, max_sequences=4, max_queued_tokens=max_queued_tokens
        )
        self.worker = PrefillWorker(scheduler, run, sample, slowdown)  # type: ignore[arg-type]

    def do(self, *commands: Command) -> list[Event]:
        return self.worker.apply(commands)

    def step(self) -> list[Event]:
        events = self.worker.step()
        self.worker.check()
        return events

    def custody(self) -> Custody:
        answers: list[Custody] = []
        assert self.do(Inspect(answers.append)) == []
        return answers[0]


def request(name: str, num_tokens: int = 10) -> Sequence:
    return sequence(name, list(range(num_tokens)), block_tokens=P)


def test_a_prompt_is_queued_computed_in_chunks_and_freed_when_its_transfer_is_over() -> None:
    scene, a = Scene(), SequenceId("a")
    assert scene.do(Compute(request("a"))) == [Queued(a)]
    assert scene.worker.load.waiting_tokens == 10
    assert scene.step()[0] == BlocksReady(a, 0, (0, 1))
    assert scene.worker.load.waiting_tokens == 2, "the rest of a prompt that was begun waits too"
    ready, first = scene.step()
    assert scene.worker.load.waiting_tokens == 0
    assert ready == BlocksReady(a, 2, (2,))
    assert isinstance(first, FirstToken)
    assert (first.done.token, first.logprobs, [chunk.num_tokens for chunk in first.chunks]) == (9, LOGPROBS, [8, 2])
    assert first.queued_ns <= first.chunks[0].start_ns <= first.chunks[1].start_ns <= first.end_ns
    assert [holder.state for holder in scene.custody().holders] == ["sending"]
    assert scene.do(GiveUp(a), Close(a)) == [Freed(a)]
    assert scene.worker.load.free_blocks == 16
    assert scene.do(GiveUp(a), Close(a)) == [], "twice is harmless"


@pytest.mark.parametrize(("costs", "known"), [(None, False), (Costs((1,), (1000.0,)), True)])
def test_steps_are_compared_with_the_profile(costs: Costs | None, known: bool) -> None:
    scene = Scene(slowdown=Slowdown(costs))
    scene.do(Compute(request("a")))
    assert scene.worker.load.slowdown == 0
    scene.step()
    assert (0 < scene.worker.load.slowdown < 1) == known


def test_what_never_fits_and_what_does_not_fit_now_are_told_apart() -> None:
    scene = Scene(num_blocks=4, max_queued_tokens=15)
    (large,) = scene.do(Compute(request("a", 17)))
    assert isinstance(large, Refused)
    assert large.too_large
    scene.do(Compute(request("b", 10)))
    (full,) = scene.do(Compute(request("c", 6)))
    assert isinstance(full, Refused)
    assert not full.too_large
    assert scene.do(GiveUp(SequenceId("c")), Close(SequenceId("c"))) == []


def test_a_prompt_given_up_halfway_keeps_its_blocks_until_nobody_reads_them() -> None:
    scene, a = Scene(), SequenceId("a")
    scene.do(Compute(request("a")))
    scene.step()
    assert scene.do(GiveUp(a)) == []
    assert scene.step() == [], "nothing more is computed"
    assert [holder.state for holder in scene.custody().holders] == ["draining"]
    assert scene.do(Close(a)) == [Freed(a)]


@pytest.mark.parametrize("seed", range(30))
def test_any_order_of_commands_leaves_the_pool_empty_and_frees_each_once(seed: int) -> None:
    rng = random.Random(seed)
    scene = Scene(rng.randint(4, 20), max_step_tokens=rng.choice([1, 3, 8, 64]))
    here: set[SequenceId] = set()
    reading: set[SequenceId] = set()
    given_up: set[SequenceId] = set()

    def note(events: list[Event]) -> None:
        for event in events:
            match event:
                case Queued(sequence_id):
                    here.add(sequence_id)
                case BlocksReady(sequence_id):
                    assert sequence_id not in given_up
                    reading.add(sequence_id)
                case Freed(sequence_id):
                    here.remove(sequence_id)
                    assert sequence_id not in reading, "freed while its transfer reads it"

    def close(sequence_id: SequenceId) -> None:
        reading.discard(sequence_id)
        given_up.add(sequence_id)
        note(scene.do(GiveUp(sequence_id), Close(sequence_id)))

    for number in range(300):
        action = rng.random()
        if action < 0.35:
            note(scene.do(Compute(sequence(f"s{number}", prompt(rng, 4 * P), block_tokens=P))))
        elif action < 0.5 and here:
            given_up.add(victim := rng.choice(sorted(here)))
            note(scene.do(GiveUp(victim)))
        elif action < 0.65 and here:
            close(rng.choice(sorted(here)))
        else:
            note(scene.step())
        scene.worker.check()
    for sequence_id in sorted(here):
        close(sequence_id)

    assert not here
    assert (scene.custody().holders, scene.custody().num_leaked) == ((), 0)
    assert scene.worker.load.free_blocks == scene.worker.scheduler.pool.num_blocks
    assert scene.worker._chunks == scene.worker._queued_ns == {}


def test_a_prompt_that_no_token_may_follow_is_given_up_and_others_are_not() -> None:
    scene = Scene(max_step_tokens=64)
    lost, fine = request("a"), request("b")
    lost.constraint = NowhereToGo()
    scene.do(Compute(lost), Compute(fine))
    events = scene.step()
    assert [event.done.id for event in events if isinstance(event, FirstToken)] == [fine.id]
    assert [event for event in events if isinstance(event, DeadEnd | Freed)] == [DeadEnd(lost.id, "no way")]
    states = {holder.id: holder.state for holder in scene.custody().holders}
    assert states == {lost.id: "draining", fine.id: "sending"}, "its blocks were handed to a transfer"
    assert scene.do(GiveUp(lost.id), Close(lost.id)) == [Freed(lost.id)]
