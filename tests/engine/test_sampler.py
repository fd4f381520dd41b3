"""The sampler against plain numpy, as a distribution, and as a function of its own request alone."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernels.sample import philox_twin, sample, sample_twin
from engine.sampler import Sampler
from engine.sequence import Sequence
from tests.reference import sequence_of

V = 300


def one(logits: np.ndarray, *, seed: int = 0, index: int = 0, **filters: float) -> int:
    """Sample one row."""
    values = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, **filters}
    return int(
        sample(
            logits[None],
            np.array([values["temperature"]]),
            np.array([int(values["top_k"])], np.int64),
            np.array([values["top_p"]]),
            np.array([values["min_p"]]),
            np.array([seed], np.uint64),
            np.array([index], np.uint64),
        )[0]
    )


def row(seed: int, scale: float = 3.0, size: int = V) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=size) * scale).astype(np.float32)


def draw(sequence: Sequence, logits: torch.Tensor) -> int:
    return Sampler()(logits.clone()[None], [sequence]).token_ids[0]


@pytest.mark.parametrize(
    ("counter", "key", "first_two"),
    [
        (0, 0, (0x6627E8D5, 0xE169C58D)),
        ((1 << 64) - 1, (1 << 64) - 1, None),
        (123, 456 << 32 | 789, None),
    ],
)
def test_uniforms_are_those_of_philox(counter: int, key: int, first_two: tuple[int, int] | None) -> None:
    uniform = philox_twin(key, counter)

    assert 0 <= uniform < 1
    if first_two is not None:  # the known answer of Philox4x32-10 for zeros
        assert uniform == ((first_two[0] << 21) | (first_two[1] >> 11)) * 2.0**-53
    flat = np.zeros(1 << 16, np.float32)
    assert one(flat, seed=key, index=counter) == math.floor(uniform * (1 << 16))


@settings(max_examples=300, deadline=None)
@given(
    logits_seed=st.integers(0, 1000),
    size=st.sampled_from([1, 2, 50, V, 1000]),
    scale=st.sampled_from([0.0, 0.5, 3.0, 30.0]),
    seed=st.integers(0, 2**64 - 1),
    index=st.integers(0, 10_000),
    temperature=st.sampled_from([0.0, 0.1, 0.7, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 2, 7, 49, 10_000]),
    top_p=st.sampled_from([1e-6, 0.1, 0.5, 0.9, 0.99, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
)
def test_a_draw_agrees_with_its_twin(
    logits_seed: int,
    size: int,
    scale: float,
    seed: int,
    index: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
) -> None:
    logits = row(logits_seed, scale, size)
    if size > 2:
        logits[::3] = -np.inf if logits_seed % 2 else logits[::3]
    filters = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}

    token = one(logits, seed=seed, index=index, **filters)

    uniform = philox_twin(seed, index)
    # Weights are float32 in the kernel: a draw within rounding of a boundary may fall on either side.
    near = {sample_twin(logits, temperature, top_k, top_p, min_p, u) for u in (uniform - 1e-6, uniform, uniform + 1e-6)}
    assert token in near
    assert logits[token] > -np.inf


@pytest.mark.parametrize(
    "filters", [{}, {"temperature": 0.6}, {"top_k": 6}, {"top_p": 0.7}, {"min_p": 0.2}, {"top_k": 9, "top_p": 0.8}]
)
def test_frequencies_follow_the_distribution(filters: dict[str, Any]) -> None:
    logits, num_draws = row(5, scale=1.0, size=20), 20_000
    values = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, **filters}
    spread = np.linspace(0, 1, 200_001)[:-1] + 2.5e-6
    kept = Counter(sample_twin(logits, **values, uniform=u) for u in spread[::20])
    drawn = Counter(
        sample(
            np.repeat(logits[None], num_draws, axis=0),
            np.full(num_draws, values["temperature"]),
            np.full(num_draws, values["top_k"], np.int64),
            np.full(num_draws, values["top_p"]),
            np.full(num_draws, values["min_p"]),
            np.full(num_draws, 42, np.uint64),
            np.arange(num_draws, dtype=np.uint64),
        ).tolist()
    )

    assert drawn.keys() <= kept.keys()
    expected = {token: count / 10_000 * num_draws for token, count in kept.items()}
    chi_square = sum((drawn[token] - count) ** 2 / count for token, count in expected.items())
    freedom = len(expected) - 1
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom) + 5


def test_greedy_takes_the_lowest_id_among_equals() -> None:
    logits = torch.zeros(V)
    logits[[7, 40, 299]] = 2.0

    greedy, other = sequence_of("a", [1], temperature=0.0), sequence_of("b", [1])
    assert draw(greedy, logits) == 7
    assert Sampler()(torch.stack((logits, logits)), [greedy, other]).token_ids[0] == 7


def test_a_token_depends_on_its_own_request_alone() -> None:
    logits = torch.randn(6, V)
    params: list[dict[str, Any]] = [
        {"seed": 1},
        {"seed": 1, "top_p": 0.9, "repetition_penalty": 1.2},
        {"temperature": 0.0},
        {"seed": 9, "top_k": 5, "num_logprobs": 3},
        {"seed": 5, "min_p": 0.1, "presence_penalty": 0.5},
        {"seed": 2**64 - 1, "logit_bias": ((3, 2.0),)},
    ]

    def sequences() -> list[Sequence]:
        return [sequence_of(str(i), [1, 2, 3], **p) for i, p in enumerate(params)]

    together = Sampler()(logits.clone(), sequences()).token_ids
    backwards = Sampler()(logits.flip(0).clone(), sequences()[::-1]).token_ids

    assert backwards[::-1] == together
    assert [draw(s, logits[i]) for i, s in enumerate(sequences())] == together


def test_a_continued_sequence_draws_what_the_first_worker_would_have() -> None:
    logits, started = torch.randn(V), sequence_of("a", [1, 2], seed=77, presence_penalty=1.0)
    for _ in range(5):
        started.append(draw(started, logits))
    continued = Sequence.of(started.id, list(started.tokens), started.params, num_prompt=2)

    assert draw(continued, logits) == draw(started, logits)


def test_the_sequence_can_grow_after_penalties_looked_at_its_tokens() -> None:
    sequence = sequence_of("a", [1, 2], repetition_penalty=1.5)

    sequence.append(draw(sequence, torch.randn(V)))

    assert sequence.num_output == 1


def test_penalties_and_bias_change_greedy_choices() -> None:
    logits = torch.zeros(V)
    logits[[5, 6, 7]] = torch.tensor([3.0, 2.9, 2.8])

    def choice(tokens: list[int], num_prompt: int, **params: Any) -> int:
        return draw(sequence_of("a", tokens, num_prompt=num_prompt, temperature=0.0, **params), logits)

    assert choice([5], 1) == 5
    assert choice([5], 1, logit_bias=((5, -1.0), (7, 0.15), (10_000, 9.0))) == 7
    assert choice([5], 1, repetition_penalty=1.1) == 6, "repetition counts the prompt"
    assert choice([5], 1, presence_penalty=1.0) == 5, "presence does not"
    assert choice([9, 5], 1, presence_penalty=1.0) == 6
    assert choice([9, 5, 5, 6], 1, frequency_penalty=0.15) == 7
    assert choice([9, 5, 5, 6], 1, presence_penalty=-0.2, frequency_penalty=0.05) == 5


def test_stop_tokens_wait_for_min_tokens() -> None:
    logits = torch.zeros(V)
    logits[5] = 9.0
    sequence = sequence_of("a", [1], temperature=0.0, min_tokens=2, stop_token_ids=frozenset({5, 100_000}))

    answer = []
    for _ in range(3):
        answer.append(draw(sequence, logits))
        sequence.append(answer[-1])

    assert answer == [0, 0, 5]


def test_logprobs_are_those_of_the_raw_logits_and_only_where_asked() -> None:
    logits = torch.randn(3, V)
    sequences = [
        sequence_of("a", [1], temperature=0.0, num_logprobs=2, logit_bias=((9, 100.0),)),
        sequence_of("b", [1]),
        sequence_of("c", [1], num_logprobs=0, top_k=1),
    ]
    expected = logits.log_softmax(-1)
    top = expected[0].topk(2)

    sampled = Sampler()(logits.clone(), sequences)

    assert sampled.logprobs is not None
    first, second, third = sampled.logprobs
    assert sampled.token_ids[0] == 9
    assert first is not None
    assert first.logprob == pytest.approx(expected[0, 9].item(), abs=1e-5)
    assert first.top_ids == tuple(top.indices.tolist())
    assert first.top_logprobs == pytest.approx(top.values.tolist(), abs=1e-5)
    assert second is None
    assert third is not None
    assert third.logprob == pytest.approx(expected[2].max().item(), abs=1e-5)
    assert third.top_ids == ()
    assert Sampler()(logits.clone(), [sequence_of(n, [1]) for n in "xyz"]).logprobs is None


def test_no_rows_give_no_tokens() -> None:
    assert Sampler()(torch.empty(0, V), []).token_ids == []


def test_warm_up_compiles() -> None:
    Sampler().warm_up()
