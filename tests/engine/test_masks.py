"""What a grammar forbids is never drawn, whatever else is asked for, and nobody else's row is touched."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.grammar import Grammars
from engine.hub import DEMO_MODEL
from engine.kernels.keep import _keep, keep, keep_twin
from engine.masks import FORBIDDEN
from engine.sampler import Sampler
from engine.sequence import FinishReason, Sequence
from tests.engine.test_grammar import allowed
from tests.reference import sequence_of

GRAMMARS = Grammars(DEMO_MODEL, 4096, (2, 0))
VOCAB = 4096


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 1000), size=st.sampled_from([1, 31, 32, 33, 300]), extra=st.sampled_from([0, 2]))
def test_a_mask_agrees_with_its_twin(seed: int, size: int, extra: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(5, size)).astype(np.float32)
    logits[rng.random(logits.shape) < 0.3] = -np.inf
    rows = np.array(sorted(rng.choice(5, rng.integers(0, 6), replace=False)), np.int64)
    masks = rng.integers(0, 2**32, (len(rows), -(-size // 32) + extra), np.uint32)
    masks[rng.random(len(rows)) < 0.3] = 0
    expected = logits.copy()
    keep_twin(expected, rows, masks)

    keep(logits, rows, masks)

    assert np.array_equal(logits, expected)


def constrained(name: str, grammar: str, output: tuple[int, ...] = (), **params: object) -> Sequence:
    sequence = sequence_of(name, [5, *output], num_prompt=1, **params)
    sequence.constraint = GRAMMARS.start(grammar, output)
    return sequence


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_only_what_may_follow_is_drawn_and_others_draw_as_before(threads: int) -> None:
    logits = torch.randn(6, VOCAB, generator=torch.Generator().manual_seed(0)) * 3
    grammars = ["start: /[0-9]+/", None, 'start: "a" | "b"', None, 'start: "{" /[a-z]*/', "start: /[0-9]+/"]
    params = [{"temperature": float(row % 2), "seed": row, "top_k": 40 * (row % 3)} for row in range(6)]
    bare = [sequence_of(str(row), [5], **params[row]) for row in range(6)]
    sequences = [
        bare[row] if grammar is None else constrained(str(row), grammar, **params[row])
        for row, grammar in enumerate(grammars)
    ]
    free = Sampler()(logits.clone(), bare).token_ids

    sampled = Sampler()(logits.clone(), sequences)

    assert sampled.dead_ends == {}
    for row, grammar in enumerate(grammars):
        if grammar is None:
            assert sampled.token_ids[row] == free[row]
        else:
            assert sampled.token_ids[row] in allowed(GRAMMARS.start(grammar))
            alone = Sampler()(logits[row : row + 1].clone(), [constrained("x", grammar, **params[row])])
            assert sampled.token_ids[row] == alone.token_ids[0]


def test_bias_and_penalties_choose_among_what_may_follow() -> None:
    logits = torch.zeros(1, VOCAB)
    a, b, c = (GRAMMARS.tokenizer.tokenize_str(letter)[0] for letter in "abc")
    logits[0, c] = 50.0

    def choice(**params: object) -> int:
        sequence = constrained("a", 'start: ("a" | "b")*', (a, a), temperature=0.0, **params)
        return Sampler()(logits.clone(), [sequence]).token_ids[0]

    assert choice(logit_bias=((b, 1.0),)) == b
    assert choice(logit_bias=((a, 1.0),)) == a
    assert choice(logit_bias=((a, 1.0),), frequency_penalty=1.5) != a


def test_log_probabilities_are_those_of_the_raw_logits() -> None:
    logits = torch.randn(1, VOCAB)
    sampled = Sampler()(logits.clone(), [constrained("a", 'start: "a"', temperature=0.0, num_logprobs=3)])
    assert sampled.logprobs is not None
    assert sampled.logprobs[0] is not None
    expected = logits.log_softmax(-1)[0]
    assert sampled.logprobs[0].logprob == pytest.approx(expected[sampled.token_ids[0]].item(), abs=1e-5)
    assert sampled.logprobs[0].top_ids == tuple(expected.topk(3).indices.tolist())


def test_an_answer_ends_where_its_grammar_does() -> None:
    ids = GRAMMARS.tokenizer.tokenize_str("a7")
    assert len(ids) == 2
    sequence = constrained("a", 'start: "a7"', min_tokens=50, max_tokens=2)
    assert [sequence.append(token) for token in ids] == [None, FinishReason.COMPLETE]
    longer = constrained("a", 'start: "a7" "c"*', stop_token_ids=frozenset({2}))
    assert [longer.append(token) for token in (*ids, 2)] == [None, None, FinishReason.STOP]
    ignored = constrained("a", 'start: "a7" "c"*')
    assert [ignored.append(token) for token in (*ids, 2)] == [None, None, FinishReason.COMPLETE]
    short = constrained("a", 'start: "a7" "c"*', max_tokens=2)
    assert [short.append(token) for token in ids] == [None, FinishReason.LENGTH]


def test_where_nothing_may_follow_the_row_says_so_and_others_go_on() -> None:
    logits = torch.randn(4, VOCAB)
    lost = constrained("lost", 'start: "a7"')
    lost.append(GRAMMARS.tokenizer.tokenize_str("b")[0])  # no worker of ours sampled it
    stops = frozenset(allowed(GRAMMARS.start('start: "a7"')))
    banned = constrained("banned", 'start: "a7"', min_tokens=3, stop_token_ids=stops)
    sequences = [sequence_of("free", [5], temperature=0.0), lost, banned, constrained("fine", 'start: "a"')]
    sampled = Sampler()(logits.clone(), sequences)
    assert set(sampled.dead_ends) == {1, 2}
    assert sampled.dead_ends[2] == FORBIDDEN
    assert [s.id for s, _ in sampled.drawn(sequences)] == ["free", "fine"]
    assert sampled.token_ids[0] == logits[0].argmax()
    assert [s.id for s, _ in Sampler()(logits[:1].clone(), sequences[:1]).drawn(sequences[:1])] == ["free"]


def test_the_first_answer_with_a_grammar_waits_for_no_compiler() -> None:
    Sampler().warm_up()
    compiled = len(_keep.signatures)
    Sampler()(torch.randn(2, VOCAB), [constrained("a", "start: /[0-9]+/"), constrained("b", "start: /a/")])
    assert len(_keep.signatures) == compiled
