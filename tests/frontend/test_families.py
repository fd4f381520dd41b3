"""Every family through prefill, ZeroMQ and decode, and unified: the greedy tokens of `transformers`.

Chunked prefill, prefix hits, preemption and batches of mixed lengths are all switched on at once.
"""

import asyncio
import random
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from frontend.request import GenerateRequest, TokenPrompt
from protos import worker_pb2 as pb
from tests.cluster import Cluster, cluster
from tests.reference import SHAPE, load_reference, make_model

NUM_TOKENS = 24
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 40, "rope_theta": 10000.0}
SHAPES = {
    "llama-gqa": ("llama", {}),
    "llama-mha-llama3-rope": (
        "llama",
        {
            "num_key_value_heads": 4,
            "head_dim": 20,
            "rope_parameters": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 40,
                "rope_theta": 10000.0,
            },
        },
    ),
    "mistral-window": ("mistral", {"sliding_window": 11}),
    "qwen2-tied-yarn": ("qwen2", {"tie_word_embeddings": True, "rope_parameters": YARN}),
    "qwen3-mqa": ("qwen3", {"num_key_value_heads": 1, "head_dim": 64}),
}


@pytest.fixture(scope="module", params=SHAPES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family, fields = SHAPES[request.param]
    path = tmp_path_factory.mktemp(request.param)
    make_model(family, path, **fields)
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(SHAPE["vocab_size"])}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(path / "tokenizer.json"))
    return path


def prompts() -> list[tuple[int, ...]]:
    rng = random.Random(0)
    shared = [rng.randrange(97) for _ in range(37)]
    lengths = (1, 3, 16, 17, 50, 80)
    fresh = [[rng.randrange(97) for _ in range(length)] for length in lengths]
    return [tuple(tokens) for tokens in (*fresh, shared, [*shared, 5, 6], shared[:33])]


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[list[int]]:
    model = load_reference(folder)
    answers = []
    for prompt in prompts():
        tokens = torch.tensor([prompt])
        output = model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=NUM_TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        answers.append(output[0, len(prompt) :].tolist())
    return answers


async def answers(running: Cluster, *, cached: bool = False) -> list[list[int]]:
    requests = [
        GenerateRequest(prompt=TokenPrompt(prompt), max_tokens=NUM_TOKENS, temperature=0.0, ignore_eos=True)
        for prompt in prompts()
    ]
    completions = await asyncio.gather(*map(running.complete, requests))
    assert not cached or any(completion.finished.usage.cached_tokens for completion in completions)
    return [completion.token_ids for completion in completions]


async def test_disaggregated(folder: Path, expected: list[list[int]]) -> None:
    worker = {"max_step_tokens": 13, "block_tokens": 8, "num_blocks": 40}
    async with cluster(folder, worker=worker, transport="tcp") as running:
        assert await answers(running) == expected
        assert await answers(running, cached=True) == expected


async def test_unified_with_preemption(folder: Path, expected: list[list[int]]) -> None:
    worker = {"max_step_tokens": 13, "block_tokens": 8, "num_blocks": 20}
    async with cluster(folder, prefill=0, worker=worker) as running:
        assert await answers(running) == expected
        assert await answers(running) == expected
        assert sum(load.preemptions for load in running.loads(pb.ROLE_DECODE)) > 0
