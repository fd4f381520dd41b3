"""Opening a model on a device: what is refused by name, and how large the pool and the trial step are."""

from pathlib import Path

import pytest
import torch

import engine
from engine.checkpoint import ModelFolder
from engine.config import WorkerConfig
from engine.errors import ConfigError
from engine.gpu.open import open_gpu
from engine.gpu.runner import StepLimits, largest_step
from tests.reference import make_model, sequence_of

DEMO = ModelFolder.open(Path(engine.__file__).parent / "demo")


def config(**fields: object) -> WorkerConfig:
    return WorkerConfig(device="cuda", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"quantization": "fp8", "dtype": "float32"}, "fp8: .* the model computes in float32"),
        ({"kv_cache_dtype": "int8"}, "--kv-cache-dtype int8"),
        ({"kv_cache_dtype": "float16"}, "here bfloat16"),
        ({"block_tokens": 12}, "blocks of 12 tokens"),
        ({"max_context": 5000}, "a context of 5000: the model's is 4096"),
    ],
)
def test_what_is_not_there_is_refused_by_name(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_gpu(config(**fields), DEMO, torch.get_default_device())


def test_heads_that_no_kernel_takes_are_refused(tmp_path: Path) -> None:
    with torch.device("cpu"):
        make_model("llama", tmp_path)  # heads of 16

    with pytest.raises(ConfigError, match="head dimension 16"):
        open_gpu(config(), ModelFolder.open(tmp_path), torch.get_default_device())


def test_sizes_that_float8_does_not_take_are_refused(tmp_path: Path) -> None:
    with torch.device("cpu"):
        make_model("llama", tmp_path, head_dim=64, intermediate_size=100)

    with pytest.raises(ConfigError, match="multiples of 16, and the model's intermediate_size is 100"):
        open_gpu(config(quantization="fp8"), ModelFolder.open(tmp_path), torch.get_default_device())


def test_a_gpu_without_float8_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))

    with pytest.raises(ConfigError, match="--quantization fp8: .* capability 8.9 or newer, and this one has 8.6"):
        open_gpu(config(quantization="fp8"), DEMO, torch.device("cuda"))


def test_a_pool_that_cannot_hold_the_context_is_refused() -> None:
    with pytest.raises(ConfigError, match="a context of 100 tokens does not fit: 6 KV blocks"):
        open_gpu(config(num_blocks=6, max_context=100, dtype="float32"), DEMO, torch.get_default_device())


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_an_opened_model_computes_within_the_pool_it_was_given(quantization: str) -> None:
    limits = {"num_blocks": 6, "max_sequences": 1, "max_step_tokens": 2, "max_context": 48}
    wanted = config(dtype="float32", quantization=quantization, **limits)
    model = open_gpu(wanted, DEMO, torch.get_default_device())

    assert model.max_context == 48
    assert model.runner.cache.num_blocks == 6
    assert model.runner.cache.pool.dtype is torch.float32
    assert not model.runner.cache.pool.any()
    assert model.sampler(torch.zeros(1, 2048), [sequence_of("a", [1], temperature=0.0)]).token_ids == [0]


def test_the_trial_step_is_the_largest_that_the_limits_allow() -> None:
    batch = largest_step(StepLimits(max_sequences=5, max_step_tokens=70), 32, 16)

    assert batch.query_starts.tolist() == [0, 1, 2, 34, 66, 72]
    assert not batch.block_tables.any()
    assert len(batch.sampled) == 5
    assert batch.pooled_rows.tolist() == list(range(2, 72)), "those of prompts, who alone are"
    assert int(batch.context_lens.max()) == 32
