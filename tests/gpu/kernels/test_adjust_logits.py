"""Bias, penalties and bans against their twins, and as a whole against the CPU's sampler."""

import random

import numpy as np
import pytest
import torch

from engine.kernels.gpu.adjust_logits import (
    add_bias,
    add_bias_reference,
    ban,
    ban_reference,
    note_tokens,
    note_tokens_reference,
    penalise,
    penalise_reference,
)
from engine.kernels.gpu.candidates import Scratch
from engine.kernels.gpu.sample import sample
from engine.sampler import Sampler
from engine.sequence import SamplingParams, Sequence, SequenceId

V = 1500


def starts_of(entries: list[list[int]]) -> torch.Tensor:
    return torch.tensor([0, *np.cumsum([len(ids) for ids in entries])], dtype=torch.int32)


def flat(entries: list[list[int]]) -> torch.Tensor:
    return torch.tensor([one for ids in entries for one in ids], dtype=torch.int64)


def test_bias_and_bans_agree_with_their_twins() -> None:
    entries = [random.sample(range(V + 50), 300), [], [0, V - 1, V]]
    starts, ids = starts_of(entries), flat(entries)
    values = torch.randn(len(ids))
    logits = torch.randn(3, V)
    twin = logits.clone()

    add_bias(logits, starts, ids, values)
    add_bias_reference(twin, starts, ids, values)
    assert torch.equal(logits, twin)
    ban(logits, starts, ids)
    ban_reference(twin, starts, ids)
    assert torch.equal(logits, twin)


def test_history_and_penalties_agree_with_their_twins() -> None:
    history, twin_history = torch.zeros(3, V, dtype=torch.int32), torch.zeros(3, V, dtype=torch.int32)
    for is_prompt in (True, False):
        slots, tokens = torch.randint(-1, 3, (600,)), torch.randint(0, 40, (600,))
        note_tokens(history, slots, tokens, is_prompt)
        note_tokens_reference(twin_history, slots, tokens, is_prompt)
    before, rows = torch.randint(0, 40, (7,)), torch.randint(0, 7, (600,))
    note_tokens(history, slots, before, is_prompt=False, rows=rows)
    note_tokens_reference(twin_history, slots, before, is_prompt=False, rows=rows)
    assert torch.equal(history, twin_history)
    logits, twin = torch.randn(4, V), torch.empty(4, V)
    twin.copy_(logits)
    columns = (torch.tensor([2, -1, 0, 1]), torch.tensor([1.3, 2.0, 0.5, 1.0]), torch.randn(4), torch.randn(4))

    penalise(logits, history, *columns)

    penalise_reference(twin, history, *columns)
    torch.testing.assert_close(logits, twin)


def test_no_rows_are_left_alone() -> None:
    none = torch.zeros(0, V)
    empty = torch.zeros(0, dtype=torch.int64)

    add_bias(none, torch.zeros(1, dtype=torch.int32), empty, torch.zeros(0))
    penalise(none, torch.zeros(1, V, dtype=torch.int32), empty, torch.zeros(0), torch.zeros(0), torch.zeros(0))
    note_tokens(torch.zeros(1, V, dtype=torch.int32), empty, empty, is_prompt=True)


def requests() -> list[SamplingParams]:
    plain = {"max_tokens": 9}
    return [
        SamplingParams(**plain, seed=1, temperature=0.0, repetition_penalty=1.7, logit_bias=((5, 3.0), (V + 9, 2.0))),
        SamplingParams(**plain, seed=2, presence_penalty=1.5, frequency_penalty=-0.5, top_k=20),
        SamplingParams(
            **plain, seed=2**64 - 3, temperature=0.8, top_p=0.9, min_tokens=7, stop_token_ids=frozenset(range(50))
        ),
        SamplingParams(**plain, seed=4, temperature=1.3, repetition_penalty=0.6, frequency_penalty=0.3, min_p=0.01),
        SamplingParams(**plain, seed=5, temperature=0.0),
    ]


@pytest.mark.parametrize("seed", range(4))
def test_a_step_gives_the_tokens_of_the_cpu(seed: int) -> None:
    generator = random.Random(seed)
    sequences = [
        Sequence.of(SequenceId(str(row)), [generator.randrange(60) for _ in range(30)], params, num_prompt=24)
        for row, params in enumerate(requests())
    ]
    torch.manual_seed(seed)
    logits = torch.randn(len(sequences), V) * 2
    expected = Sampler()(logits.cpu().clone(), sequences).token_ids

    params = [sequence.params for sequence in sequences]
    biases = [[token for token, _ in p.logit_bias] for p in params]
    values = torch.tensor([value for p in params for _, value in p.logit_bias])
    add_bias(logits, starts_of(biases), flat(biases), values)
    slots = torch.tensor([row if p.has_penalties else -1 for row, p in enumerate(params)])
    history = torch.zeros(len(sequences), V, dtype=torch.int32)
    for row, sequence in enumerate(sequences):
        tokens = torch.tensor(list(sequence.tokens))
        note_tokens(history, slots[row].repeat(24), tokens[:24], is_prompt=True)
        note_tokens(history, slots[row].repeat(6), tokens[24:], is_prompt=False)
    penalties = ("repetition_penalty", "presence_penalty", "frequency_penalty")
    penalise(logits, history, slots, *(torch.tensor([float(getattr(p, name)) for p in params]) for name in penalties))
    banned = [sorted(p.stop_token_ids) if p.min_tokens > 6 else [] for p in params]
    ban(logits, starts_of(banned), flat(banned))
    out = torch.empty(len(params), dtype=torch.int64)
    sample(
        logits,
        torch.tensor([p.temperature for p in params], dtype=torch.float64),
        torch.tensor([p.top_k for p in params]),
        torch.tensor([p.top_p for p in params], dtype=torch.float64),
        torch.tensor([p.min_p for p in params], dtype=torch.float64),
        torch.tensor(np.array([p.seed for p in params], np.uint64).view(np.int64)),
        torch.tensor([sequence.num_output for sequence in sequences]),
        Scratch.of(len(logits), V, logits.device),
        out,
    )

    assert out.tolist() == expected
