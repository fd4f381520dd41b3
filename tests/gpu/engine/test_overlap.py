"""The decode worker on the GPU's engine: steps that overlap give the answers of steps in turn."""

from typing import Any

import torch

from decode.messages import Freed, GiveUp, PrefillHere, Stepped
from decode.scheduler import DecodeScheduler
from decode.worker import DecodeWorker, TicketTemplate
from engine.batch import Batch, Chunk
from engine.gpu.launch import GpuLaunch
from engine.gpu.sampler import GpuSampler
from engine.gpu.sampler import Pending as GpuPending
from engine.sequence import Sequence, SequenceId, TokenLogprobs
from engine.steps import Launch, Pending
from tests.gpu.engine.models import NUM_BLOCKS, Engines, spec_of
from tests.reference import sequence_of

SPEC = spec_of(num_layers=1)
WISHES: dict[str, tuple[int, dict[str, Any]]] = {
    "greedy": (14, {"temperature": 0.0, "max_tokens": 6}),
    "seeded": (5, {"seed": 7, "temperature": 0.9, "top_p": 0.9, "max_tokens": 7, "num_logprobs": 2}),
    "stops": (3, {"seed": 2, "max_tokens": 9, "min_tokens": 2, "stop_token_ids": frozenset(range(0, 211, 3))}),
    "biased": (4, {"temperature": 0.0, "max_tokens": 6, "logit_bias": ((9, 4.0), (17, -3.0)), "presence_penalty": 2.0}),
    "given up": (6, {"seed": 4, "max_tokens": 9}),
}
"""How long each prompt is, and what is asked; each comes one step after the one before."""
Heard = dict[SequenceId, list[tuple[int, TokenLogprobs | None]]]


class Continued:
    """Counts the steps that begin with tokens which only the device knows."""

    def __init__(self, launch: Launch) -> None:
        self.count = 0
        self._launch = launch

    def __call__(self, batch: Batch, before: Pending | None) -> Pending:
        self.count += batch.continues is not None
        return self._launch(batch, before)


def asked(**wishes: tuple[int, dict[str, Any]]) -> list[Sequence]:
    generator = torch.Generator(device="cpu").manual_seed(3)
    return [
        sequence_of(name, torch.randint(3, 211, (length,), generator=generator, device="cpu").tolist(), **wish)
        for name, (length, wish) in wishes.items()
    ]


def answers(sequences: list[Sequence], *, overlaps: bool) -> tuple[Heard, int]:
    """What clients hear, and how many steps were continued."""
    runner = Engines.of(SPEC).gpu
    sampler = GpuSampler(SPEC.vocab_size, runner.limits.max_sequences, runner.decoder.device)
    scheduler = DecodeScheduler(NUM_BLOCKS, 16, max_step_tokens=8, max_sequences=runner.limits.max_sequences)
    continued = Continued(GpuLaunch(runner, sampler))
    tickets = TicketTemplate("w", "i", 1, "l", ())
    worker = DecodeWorker(scheduler, runner, sampler, tickets, None, continued if overlaps else None)
    heard: Heard = {sequence.id: [] for sequence in sequences}
    coming, freed = iter(sequences), False
    for number in range(60):
        if joins := next(coming, None):
            worker.apply([PrefillHere(joins)])
        elif not worker.has_work():
            break
        events = worker.step()
        if number == 6 and "given up" in heard:
            events += worker.apply([GiveUp(SequenceId("given up"))])
        worker.check()
        freed |= Freed(SequenceId("given up")) in events
        for stepped in (event for event in events if isinstance(event, Stepped)):
            for token in stepped.tokens:
                heard[token.id].append((token.token, stepped.logprobs.get(token.id)))
    assert worker.holders() == []
    assert freed == (SequenceId("given up") in heard)
    return heard, continued.count


def test_answers_are_those_of_steps_in_turn() -> None:
    overlapped, num_continued = answers(asked(**WISHES), overlaps=True)
    in_turn, none = answers(asked(**WISHES), overlaps=False)

    assert (num_continued > 5, none) == (True, 0)
    cut = SequenceId("given up")
    assert 0 < len(overlapped[cut]) <= len(in_turn[cut])
    for name, expected in in_turn.items():
        found = overlapped[name]
        expected = expected[: len(found)] if name == cut else expected
        assert [token for token, _ in found] == [token for token, _ in expected]
        for (_, here), (_, there) in zip(found, expected, strict=True):
            assert (here is None) == (there is None)
            if here is not None and there is not None:
                assert here.top_ids == there.top_ids
                torch.testing.assert_close(here.top_logprobs, there.top_logprobs)
    assert len(in_turn[SequenceId("stops")]) < 9


def test_penalties_count_tokens_that_only_the_device_knows() -> None:
    penalties: dict[str, Any] = {"temperature": 0.0, "repetition_penalty": 1.7, "frequency_penalty": 0.4}
    wishes = {
        "long": (5, {**penalties, "max_tokens": 12}),
        "plain": (3, {"temperature": 0.0, "max_tokens": 5}),
        "late": (9, {**penalties, "max_tokens": 6, "presence_penalty": 1.5}),
    }

    overlapped, num_continued = answers(asked(**wishes), overlaps=True)
    in_turn, _ = answers(asked(**wishes), overlaps=False)
    careless, _ = answers(asked(long=(5, {"temperature": 0.0, "max_tokens": 12})), overlaps=False)

    assert overlapped == in_turn
    assert careless[SequenceId("long")] != in_turn[SequenceId("long")], "penalties matter here"
    assert num_continued >= 10


def test_a_row_with_a_grammar_waits_for_the_token_before() -> None:
    class Anything:
        def take(self, token: int) -> bool:
            return False

    sequences = asked(held=(5, {"temperature": 0.0, "max_tokens": 4}), plain=(3, {"temperature": 0.0, "max_tokens": 2}))
    sequences[0].constraint = Anything()

    heard, num_continued = answers(sequences, overlaps=True)

    assert [len(tokens) for tokens in heard.values()] == [4, 2]
    assert num_continued == 0


def test_a_decode_step_begins_with_the_tokens_of_the_step_before() -> None:
    """Padded to a bucket, rows in another order, one of them known."""
    runners = [Engines.of(SPEC).gpu for _ in range(2)]
    logits = []
    for runner, is_known in zip(runners, (True, False), strict=True):
        a, b, c = (sequence_of(name, [5, 6, 7], num_prompt=3) for name in "abc")
        for index, sequence in enumerate((a, b, c)):
            sequence.blocks.append(index + 1)
        runner(Batch.build([Chunk(sequence, 0, 3) for sequence in (a, b, c)], 16))
        c.append(13)
        if is_known:
            a.append(11)
            b.append(12)
        batch = Batch.build([Chunk(sequence, 3, 4) for sequence in (b, c, a)], 16, before=(a, b))
        assert (batch.continues is None) == is_known
        logits.append(runner(batch, torch.tensor([11, 12])).clone())

    assert torch.equal(*logits)


def test_what_is_launched_can_be_collected_later() -> None:
    sampler = GpuSampler(SPEC.vocab_size, 2, torch.get_default_device())
    sequence = sequence_of("a", [1, 2], temperature=0.0, min_tokens=1, stop_token_ids=frozenset({4}))
    logits = torch.zeros(1, SPEC.vocab_size)
    logits[0, 4], logits[0, 5] = 2, 1

    banned: GpuPending = sampler.launch(logits.clone(), [sequence], [0])
    allowed = sampler.launch(logits.clone(), [sequence], [1])

    assert banned.token_ids.tolist() == banned.collect().token_ids == [5]
    assert allowed.collect().token_ids == [4], "by its number, though the token before it is not known"
