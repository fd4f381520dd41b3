"""Several ranks compute what one does: logits of every kind of step, answers, and the pool that they leave."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.batch import Batch, Chunk
from engine.cache import DTYPES
from engine.runner import Runner
from engine.scoring import Scoring
from tests.engine.tp.ranks import ThreadRanks
from tests.reference import Blocks, greedy, load_reference, make_model, reference_logits, sequence_of, step
from tests.shared_data import shared_data

FOUR_HEADS = {"num_hidden_layers": 2}
CASES: dict[str, dict[str, Any]] = {
    "grouped": {"family": "llama", **FOUR_HEADS},
    "one-kv-head": {"family": "llama", "num_key_value_heads": 1, "tie_word_embeddings": True, **FOUR_HEADS},
    "biases": {"family": "llama", "attention_bias": True, "mlp_bias": True, **FOUR_HEADS},
    "query-biases": {"family": "qwen2", "tie_word_embeddings": True, **FOUR_HEADS},
    "head-norms": {"family": "qwen3", **FOUR_HEADS},
    "window": {"family": "mistral", "sliding_window": 11, **FOUR_HEADS},
}
TOLERANCE = 1e-4
"""Of logits that are some units large: sums of two or four partial sums are rounded in another order."""

Open = Callable[..., Runner]


@pytest.fixture
def ranks() -> Iterator[Open]:
    opened: list[ThreadRanks] = []

    def open_ranks(folder: Path, size: int, **options: Any) -> Runner:
        opened.append(ThreadRanks(folder, size, **options))
        return opened[-1].runner

    yield open_ranks
    for each in opened:
        each.close()


def prompt(num_tokens: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 97, (num_tokens,), generator=torch.Generator().manual_seed(seed)).tolist()


def logits_of(runner: Runner, tokens: list[int], cuts: tuple[int, ...]) -> torch.Tensor:
    blocks, sequence = Blocks(runner), sequence_of("a", tokens)
    for cut in cuts:
        logits = step(runner, blocks, [(sequence, cut)])
    return logits[sequence.id]


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers_however_the_prompt_is_cut(case: str, ranks: Open, tmp_path: Path) -> None:
    fields = dict(CASES[case])
    make_model(fields.pop("family"), tmp_path, **fields)
    tokens = prompt(41)
    expected = reference_logits(load_reference(tmp_path), tokens)[-1]

    for size in (2, 4):
        runner = ranks(tmp_path, size, block_tokens=4)
        for cuts in ((41,), (40, 1), (7, 1, 7, 26)):
            torch.testing.assert_close(logits_of(runner, tokens, cuts), expected, atol=TOLERANCE, rtol=0)


def test_a_prompt_is_as_likely_as_to_transformers(ranks: Open, tmp_path: Path) -> None:
    make_model("llama", tmp_path, **FOUR_HEADS)
    tokens = prompt(41)
    expected = reference_logits(load_reference(tmp_path), tokens)[:-1].log_softmax(-1)

    for size in (2, 4):
        sequence = sequence_of("a", tokens)
        sequence.scoring = Scoring(2)
        runner = ranks(tmp_path, size, block_tokens=4)
        blocks = Blocks(runner)
        for cut in (7, 1, 33):
            step(runner, blocks, [(sequence, cut)])
        parts = sequence.scoring.drain()
        assert [(part.first, len(part.logprobs)) for part in parts] == [(1, 7), (8, 1), (9, 32)]
        made = torch.tensor([logprob for part in parts for logprob in part.logprobs])
        torch.testing.assert_close(made, expected[range(40), tokens[1:]], atol=TOLERANCE, rtol=0)
        top = torch.tensor([row.tolist() for part in parts for row in part.top_logprobs])
        torch.testing.assert_close(top, expected.topk(2).values, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("model", ["stories260K", pytest.param("babyllama105", marks=pytest.mark.slow)])
def test_answers_of_trained_models_are_the_goldens(model: str, size: int, ranks: Open) -> None:
    folder = shared_data("models", model)
    cases = json.loads((folder / "golden_greedy.json").read_text())["cases"][:4]
    runner = ranks(folder, size)
    runner.warm_up()
    prompts = [case["prompt_ids"] for case in cases]

    answers = greedy(runner, prompts, num_tokens=len(cases[0]["output_ids"]), chunk_tokens=32)

    assert answers == [case["output_ids"] for case in cases]


@pytest.mark.parametrize("kv_dtype", DTYPES)
def test_the_pool_is_that_of_one_rank(kv_dtype: str, ranks: Open) -> None:
    """Whatever the number of ranks: that is why blocks of any worker mean something to any other."""
    folder, tokens = shared_data("models", "stories260K"), prompt(30)
    pools = []
    for size in (1, 2, 4):
        runner = ranks(folder, size, num_blocks=20, kv_dtype=kv_dtype)
        logits_of(runner, tokens, (30,))
        rows = runner.cache.pool
        pools.append(rows[..., :-4] if kv_dtype == "int8" else rows)  # behind each row of int8, its scale

    assert pools[0].any()
    atol = 1 if kv_dtype == "int8" else 1e-2 if kv_dtype == "float16" else 1e-5
    for pool in pools[1:]:
        torch.testing.assert_close(pool.float(), pools[0].float(), atol=atol, rtol=0)


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"dtype": "float16"}, {"quantize": True}], ids=str)
def test_narrow_types_stay_as_close_to_float32_as_with_one_rank(options: dict[str, Any], ranks: Open) -> None:
    """With int8, weights have a scale per output and rank, inputs one per row and rank: no fewer than with one rank."""
    folder, tokens = shared_data("models", "babyllama105"), prompt(30)
    exact = logits_of(ranks(folder, 1), tokens, (29, 1))
    errors = {size: (logits_of(ranks(folder, size, **options), tokens, (29, 1)) - exact).norm() for size in (1, 2, 4)}

    assert all(error <= 2 * errors[1] for error in errors.values()), errors
    assert errors[1] > 0


def test_a_step_where_nobody_samples_has_no_logits_and_leaves_every_head_in_the_pool(ranks: Open) -> None:
    runner = ranks(shared_data("models", "stories260K"), 4, block_tokens=4)
    sequence, blocks = sequence_of("a", prompt(9)), Blocks(runner)
    blocks.grow(sequence, 4)

    assert runner(Batch.build([Chunk(sequence, 0, 4)], 4)).shape == (0, runner.spec.vocab_size)
    assert runner.cache.pool[sequence.blocks[0]].all()
