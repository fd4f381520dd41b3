"""Once a worker is open no kernel is compiled any more, whatever a step is made of: a compiler would keep everybody
waiting. Nothing is computed here, but launched."""

from array import array
from pathlib import Path
from random import Random
from typing import Any

import pytest

from engine.batch import Batch, Chunk
from engine.checkpoint import ModelFolder
from engine.config import WorkerConfig
from engine.gpu.open import open_gpu
from engine.hub import DEMO_MODEL
from tests.four_bit import AWQ_CONFIG, write_packed
from tests.gpu.pretend.install import pretended
from tests.gpu.pretend.tensors import DEVICE
from tests.reference import make_model, sequence_of

CONTEXT, STEP_TOKENS = 128, 300
_KINDS: dict[str, dict[str, str]] = {
    "none": {"dtype": "bfloat16"},
    "int8": {"dtype": "bfloat16", "quantization": "int8"},
    "fp8": {"dtype": "bfloat16", "quantization": "fp8"},
    "awq": {"dtype": "float16"},
    "fp8 cache": {"dtype": "bfloat16", "kv_cache_dtype": "fp8"},
}


def wished(rng: Random) -> dict[str, Any]:
    wishes: dict[str, Any] = {"temperature": rng.choice([0.0, 0.8]), "top_k": rng.choice([0, 20]), "seed": 1}
    for more in (
        {"repetition_penalty": 1.3},
        {"num_logprobs": rng.choice([0, 1, 16, 20])},
        {"logit_bias": tuple((token, 1.0) for token in range(rng.choice([1, 3, 16])))},
        {"min_tokens": 5, "stop_token_ids": frozenset(range(rng.choice([1, 5, 16])))},
    ):
        if rng.random() < 0.2:
            wishes |= more
    return wishes


def step(rng: Random, num_sequences: int) -> list[Chunk]:
    """Streams, prompts or both, of any length."""
    chunks: list[Chunk] = []
    share, left = rng.choice([0.0, 0.5, 1.0]), STEP_TOKENS
    for index in range(rng.randint(1, num_sequences)):
        start, count = rng.randint(1, CONTEXT - 2), 1
        if rng.random() >= share and left:
            start, count = rng.choice([0, 0, 13, 16]), min(left, rng.choice([1, 2, 16, 17, 32, 64, 100]))
            left -= count
        sequence = sequence_of(str(index), [1] * (start + count), **wished(rng))
        sequence.blocks = array("i", range(8 * index + 1, 8 * index + 9))
        chunks.append(Chunk(sequence, start, start + count))
    return chunks


@pytest.mark.parametrize("num_sequences", [3, *(pytest.param(count, marks=pytest.mark.slow) for count in (1, 35))])
@pytest.mark.parametrize("kind", _KINDS)
def test_nothing_is_compiled_late(kind: str, num_sequences: int, tmp_path: Path) -> None:
    path, rng = tmp_path / "model", Random(num_sequences)
    if kind == "awq":
        write_packed(DEMO_MODEL, path, tmp_path / "dense", 64, **AWQ_CONFIG)
    else:
        make_model("llama", path, head_dim=64, num_hidden_layers=1)
    limits = {"max_sequences": num_sequences, "max_step_tokens": STEP_TOKENS, "max_context": CONTEXT}
    config = WorkerConfig(device="cuda", num_blocks=400, device_reserve_mb=8, **limits, **_KINDS[kind])  # type: ignore[arg-type]
    with pretended(total_mib=1024, is_idle=True) as gpu:
        model = open_gpu(config, ModelFolder.open(path), DEVICE)
        compiled = set(gpu.compiled)
        for _ in range(60):
            batch = Batch.build(step(rng, num_sequences), config.block_tokens)
            model.sampler.launch(model.runner(batch), batch.sampled)

        late = {where for key, where in gpu.compiled.items() if key not in compiled}
    assert not late
