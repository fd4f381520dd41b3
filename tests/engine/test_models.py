"""Our decoder against transformers: every family, shape, rope kind and checkpoint type that we claim."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.cache import KVCache
from engine.checkpoint import ModelFolder
from engine.runner import Runner, load_decoder
from tests.reference import Blocks, greedy, load_reference, make_model, reference_logits, sequence_of, step
from tests.shared_data import shared_data

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 32}

CASES: dict[str, dict[str, Any]] = {
    "llama": {"family": "llama"},
    "llama-mha-tied": {"family": "llama", "num_key_value_heads": 4, "tie_word_embeddings": True},
    "llama-mqa": {"family": "llama", "num_key_value_heads": 1},
    "llama-head-8": {"family": "llama", "head_dim": 8},
    "llama-head-20": {"family": "llama", "head_dim": 20},
    "llama-head-64": {"family": "llama", "head_dim": 64},
    "llama-head-256": {"family": "llama", "head_dim": 256, "num_hidden_layers": 1},
    "llama-biases": {"family": "llama", "attention_bias": True, "mlp_bias": True},
    "llama-bfloat16": {"family": "llama", "dtype": "bfloat16"},
    "llama-float16-sharded": {"family": "llama", "dtype": "float16", "shard_size": "20KB"},
    "llama-linear": {"family": "llama", "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
    "llama-llama3": {"family": "llama", "rope_parameters": LLAMA3},
    "llama-yarn": {"family": "llama", "rope_parameters": YARN},
    "llama-yarn-mscale": {
        "family": "llama",
        "rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.1, "beta_fast": 16.0, "truncate": False},
    },
    "mistral": {"family": "mistral", "sliding_window": None},
    "mistral-window": {"family": "mistral", "sliding_window": 11},
    "mistral-window-head-64": {"family": "mistral", "sliding_window": 24, "head_dim": 64, "tie_word_embeddings": True},
    "qwen2": {"family": "qwen2"},
    "qwen2-window": {
        "family": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 13,
        "max_window_layers": 1,
        "tie_word_embeddings": True,
    },
    "qwen2-yarn": {"family": "qwen2", "rope_parameters": {**YARN, "attention_factor": 1.3}, "num_key_value_heads": 4},
    "qwen3": {"family": "qwen3", "tie_word_embeddings": True},
    "qwen3-biases-head-64": {"family": "qwen3", "attention_bias": True, "head_dim": 64, "num_key_value_heads": 1},
    "qwen3-layer-types": {
        "family": "qwen3",
        "use_sliding_window": True,
        "sliding_window": 9,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}


def prompt(num_tokens: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 97, (num_tokens,), generator=torch.Generator().manual_seed(seed)).tolist()


def runner_of(folder: Path, block_tokens: int, num_blocks: int = 120) -> Runner:
    decoder = load_decoder(ModelFolder.open(folder))
    return Runner(decoder, KVCache(decoder.spec, num_blocks, block_tokens))


@pytest.fixture(scope="module", params=CASES)
def model_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    case = dict(CASES[request.param])
    make_model(case.pop("family"), folder, **case)
    return folder


@pytest.mark.parametrize("block_tokens", [4, 16, 32])
def test_logits_agree_with_transformers_however_the_prompt_is_cut(model_folder: Path, block_tokens: int) -> None:
    tokens = prompt(61)
    expected = reference_logits(load_reference(model_folder), tokens)
    runner = runner_of(model_folder, block_tokens)

    for cuts in ([61], [60, 1], [7, 7, 1, 7, 17, 5, 17], [1] * 61):
        blocks, sequence = Blocks(runner), sequence_of("a", tokens)
        for cut in cuts:
            logits = step(runner, blocks, [(sequence, cut)])

        torch.testing.assert_close(logits[sequence.id], expected[-1], atol=1e-4, rtol=0)


def test_greedy_answers_agree_with_transformers_in_a_mixed_batch(model_folder: Path) -> None:
    prompts = [prompt(n, seed=n) for n in (1, 37, 18, 5)]
    answers = greedy(runner_of(model_folder, 16), prompts, num_tokens=24, chunk_tokens=9)

    model = load_reference(model_folder)
    for tokens, answer in zip(prompts, answers, strict=True):
        best = reference_logits(model, tokens + answer)[len(tokens) - 1 : -1].argmax(-1)
        assert answer == best.tolist()


@pytest.mark.parametrize("name", ["stories260K", "babyllama105"])
@pytest.mark.parametrize("golden", ["golden_greedy.json", "golden_long.json"])
def test_goldens_of_trained_models(name: str, golden: str) -> None:
    folder = shared_data("models", name)
    if not (folder / golden).exists():
        pytest.skip(f"{name} has no {golden}")
    cases = json.loads((folder / golden).read_text())["cases"]

    answers = greedy(
        runner_of(folder, block_tokens=16, num_blocks=200),
        [case["prompt_ids"] for case in cases],
        num_tokens=len(cases[0]["output_ids"]),
        chunk_tokens=32,
    )

    assert answers == [case["output_ids"] for case in cases]
