"""The GPU's sampler against the CPU's: tokens, log-probabilities, and counts that follow a sequence."""

import random

import torch

from engine.gpu.history import History
from engine.gpu.sampler import Continued, GpuSampler
from engine.grammar import Grammars
from engine.hub import DEMO_MODEL
from engine.masks import FORBIDDEN, Masks
from engine.sampled import Sampled
from engine.sampler import Sampler
from engine.sequence import SamplingParams, Sequence
from tests.reference import sequence_of

V = 600


def both(sampler: GpuSampler, logits: torch.Tensor, sequences: list[Sequence]) -> tuple[Sampled, Sampled]:
    return sampler(logits.clone(), sequences), Sampler()(logits.cpu().clone(), sequences)


def agree(found: Sampled, expected: Sampled) -> None:
    assert found.token_ids == expected.token_ids
    assert (found.logprobs is None) == (expected.logprobs is None)
    for here, there in zip(found.logprobs or (), expected.logprobs or (), strict=True):
        if here is None or there is None:
            assert here is there
            continue
        assert here.top_ids == there.top_ids
        values = [here.logprob, *here.top_logprobs]
        torch.testing.assert_close(torch.tensor(values), torch.tensor([there.logprob, *there.top_logprobs]))


def test_a_batch_of_every_wish_gets_the_tokens_of_the_cpu_step_after_step() -> None:
    generator = random.Random(0)
    wishes = [
        {"temperature": 0.0, "repetition_penalty": 1.7, "logit_bias": ((5, 3.0), (V + 9, 2.0)), "num_logprobs": 0},
        {"seed": 2, "presence_penalty": 1.5, "frequency_penalty": -0.5, "top_k": 20},
        {"seed": 2**64 - 3, "temperature": 0.8, "top_p": 0.9, "min_tokens": 8, "stop_token_ids": frozenset(range(50))},
        {"seed": 4, "temperature": 1.3, "frequency_penalty": 0.3, "min_p": 0.01, "num_logprobs": 5},
    ]
    sequences = [
        sequence_of(str(row), [generator.randrange(60) for _ in range(20)], num_prompt=14, **wish)
        for row, wish in enumerate(wishes)
    ]
    sampler = GpuSampler(V, len(sequences), torch.get_default_device())
    for _ in range(3):
        logits = torch.randn(len(sequences), V) * 2

        found, expected = both(sampler, logits, sequences)

        agree(found, expected)
        assert found.logprobs is not None
        for sequence, token in zip(sequences, found.token_ids, strict=True):
            sequence.append(token)


def test_no_rows_and_rows_that_want_nothing() -> None:
    sampler = GpuSampler(V, 2, torch.get_default_device())

    assert sampler(torch.zeros(0, V), []) == Sampled([], None)
    greedy = sequence_of("a", [1], temperature=0.0)
    logits = torch.zeros(1, V)
    logits[0, 17] = 1

    assert sampler(logits, [greedy]) == Sampled([17], None)


def test_warm_up_leaves_no_word_of_itself() -> None:
    sampler = GpuSampler(V, 2, torch.get_default_device())
    sampler.warm_up()
    sequence = sequence_of("warm-up", [3, 4], temperature=0.0, repetition_penalty=2.0)
    logits = torch.linspace(0.1, 1, V)[None]

    agree(*both(sampler, logits, [sequence]))


def penalised(name: str, tokens: list[int], num_prompt: int) -> Sequence:
    params = SamplingParams(max_tokens=99, seed=0, presence_penalty=1.0)
    return sequence_of(name, tokens, num_prompt=num_prompt, presence_penalty=params.presence_penalty)


def test_only_what_is_new_is_counted() -> None:
    history = History(2, 10, torch.device("cpu"))
    plain, a = sequence_of("plain", [1]), penalised("a", [1, 2, 3, 4], 3)

    first = history.news([plain, a])
    a.append(7)
    second = history.news([a, plain])

    slot = int(first.slots[1])
    assert first.slots.tolist() == [-1, slot]
    assert first.fresh == (slot,)
    assert [part.tolist() for part in first.prompt] == [[slot] * 3, [1, 2, 3]]
    assert [part.tolist() for part in first.answer] == [[slot], [4]]
    assert second.slots.tolist() == [slot, -1]
    assert second.fresh == ()
    assert [part.tolist() for part in (*second.prompt, *second.answer)] == [[], [], [slot], [7]]


def test_whoever_was_longest_without_a_step_loses_the_row_and_is_counted_again() -> None:
    history = History(2, 10, torch.device("cpu"))
    a, b, c = (penalised(name, [1, 2], 1) for name in "abc")
    for sequences in ([a, b], [a]):
        history.news(sequences)

    news = history.news([c, a])  # takes b's

    assert len(news.fresh) == 1
    assert set(news.slots.tolist()) == {0, 1}
    assert history.news([b]).answer[1].tolist() == [2]


def test_a_token_that_the_device_drew_is_counted_once() -> None:
    history = History(2, 10, torch.device("cpu"))
    plain, a = sequence_of("plain", [1]), penalised("a", [1, 2, 3], 3)
    history.news([a, plain])

    ahead = history.news([plain, a], [0, 1])
    a.append(7)
    again = history.news([a, plain], [1, -1])
    a.append(8)
    known = history.news([a])

    slot = int(ahead.slots[1])
    assert [part.tolist() for part in ahead.continued] == [[slot], [1]]
    assert [part.tolist() for part in again.continued] == [[slot], [1]]
    assert [news.answer[1].tolist() for news in (ahead, again, known)] == [[], [], []]
    assert known.continued[0].tolist() == []


def test_tokens_that_only_the_device_knows_are_penalised_as_those_that_the_cpu_is_told() -> None:
    wishes = [
        {"temperature": 0.0, "repetition_penalty": 1.9},
        {"temperature": 0.0},
        {
            "seed": 3,
            "presence_penalty": 1.1,
            "frequency_penalty": 0.7,
            "min_tokens": 7,
            "stop_token_ids": frozenset({4}),
        },
        {"seed": 4, "temperature": 1.2, "frequency_penalty": -0.9},
    ]
    ahead, told = (
        [sequence_of(str(row), [generator.randrange(9) for _ in range(5)], **wish) for row, wish in enumerate(wishes)]
        for generator in (random.Random(1), random.Random(1))
    )
    sampler = GpuSampler(V, len(wishes), torch.get_default_device())
    order, before = [0, 1, 2, 3], None
    for step in range(6):
        logits = torch.randn(len(wishes), V)
        logits[:, :9] += 4  # few tokens are likely, so that they come again
        rows = random.Random(step).sample(order, len(order))
        indices = [ahead[row].num_output + (before is not None) for row in rows]
        continued = None if before is None else Continued(before.token_ids, [order.index(row) for row in rows])

        pending = sampler.launch(logits.clone(), [ahead[row] for row in rows], indices, continued)
        if before is not None:
            for row, token in zip(order, before.collect().token_ids, strict=True):
                ahead[row].append(token)
        expected = Sampler()(logits.cpu().clone(), [told[row] for row in rows])

        assert pending.token_ids.tolist() == expected.token_ids, step
        for row, token in zip(rows, expected.token_ids, strict=True):
            told[row].append(token)
        order, before = rows, pending


def test_another_sequence_of_the_same_name_begins_anew() -> None:
    history = History(1, 10, torch.device("cpu"))
    history.news([penalised("a", [1, 2], 1)])

    news = history.news([penalised("a", [5, 6, 7], 2)])

    assert len(news.fresh) == 1
    assert news.prompt[1].tolist() == [5, 6]


def test_what_grammars_allow_is_what_they_allow_on_the_cpu() -> None:
    grammars = Grammars(DEMO_MODEL, 4096, (2, 0))
    sampler = GpuSampler(4096, 4, torch.get_default_device(), Masks())
    stops = frozenset(grammars.tokenizer.tokenize_str("x"))
    wishes = [
        {"temperature": 0.0},
        {"seed": 3, "num_logprobs": 2},
        {"seed": 4},
        {"min_tokens": 9, "stop_token_ids": stops},
    ]
    texts = ["start: /[0-9]{5,9}/", "", 'start: "{" /[a-z]+/ "}"', 'start: "x"']
    sequences = [sequence_of(str(row), [5], **wish) for row, wish in enumerate(wishes)]
    for sequence, text in zip(sequences, texts, strict=True):
        sequence.constraint = grammars.start(text) if text else None
    for step in range(3):
        found, expected = both(sampler, torch.randn(4, 4096), sequences)
        assert found.dead_ends == expected.dead_ends == {3: FORBIDDEN}, step
        agree(Sampled(found.token_ids[:3], found.logprobs), Sampled(expected.token_ids[:3], expected.logprobs))
        for sequence, token in found.drawn(sequences):
            sequence.append(token)
