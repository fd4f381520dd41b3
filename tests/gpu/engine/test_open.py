"""Opening a model on a device: what is refused by name, and how large the pool and the trial step are."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import engine
from engine.checkpoint import ModelFolder
from engine.config import WorkerConfig
from engine.device import open_model
from engine.errors import ConfigError
from engine.gpu.fit import fitting, num_blocks_of
from engine.gpu.memory import MIB, Measured
from engine.gpu.open import open_gpu
from engine.gpu.runner import StepLimits, largest_step
from engine.models.families import model_spec
from engine.tp.ranks import ALONE
from protos import worker_pb2 as pb
from tests.reference import make_model, sequence_of

DEMO = ModelFolder.open(Path(engine.__file__).parent / "demo")


def config(**fields: object) -> WorkerConfig:
    return WorkerConfig(device="cuda", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"quantization": "fp8", "dtype": "float32"}, "fp8: .* the model computes in float32"),
        ({"kv_cache_dtype": "int8"}, "--kv-cache-dtype int8"),
        ({"kv_cache_dtype": "float16"}, "here bfloat16, or fp8"),
        ({"kv_cache_dtype": "fp8", "dtype": "float32"}, "--kv-cache-dtype fp8 is for models in bfloat16 or float16"),
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


@pytest.mark.parametrize(
    ("sizes", "fields", "words"),
    [
        ({"hidden_size": 16448}, {}, "hidden_size is 16448, and norms on a GPU have 16384 at most"),
        ({"mlp_size": 53248}, {"quantization": "int8"}, "rows of 53248 numbers are not quantized on a GPU"),
    ],
)
def test_rows_too_wide_for_a_kernel_are_refused_before_weights_are_read(
    sizes: dict[str, int], fields: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = dataclasses.replace(model_spec(DEMO.config), **sizes)
    monkeypatch.setattr("engine.gpu.open.model_spec", lambda _: wide)
    monkeypatch.setattr("engine.gpu.open.load_weights", None)

    with pytest.raises(ConfigError, match=words):
        open_gpu(config(**fields), DEMO, torch.get_default_device())


def test_a_gpu_without_float8_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))

    with pytest.raises(ConfigError, match="--quantization fp8: .* capability 8.9 or newer, and this one has 8.6"):
        open_gpu(config(quantization="fp8"), DEMO, torch.device("cuda"))


def test_a_gpu_that_cannot_keep_float8_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))

    with pytest.raises(ConfigError, match="--kv-cache-dtype fp8: this GPU has no float8"):
        open_gpu(config(kv_cache_dtype="fp8"), DEMO, torch.device("cuda"))


def test_heads_whose_rows_are_no_whole_words_of_float8_are_refused(tmp_path: Path) -> None:
    with torch.device("cpu"):
        make_model("llama", tmp_path, head_dim=68)

    with pytest.raises(ConfigError, match="head dimension 68 is not a multiple of 8"):
        open_gpu(config(kv_cache_dtype="fp8"), ModelFolder.open(tmp_path), torch.get_default_device())


def test_a_cpu_has_no_pool_of_float8() -> None:
    with pytest.raises(ConfigError, match="--kv-cache-dtype fp8 needs a GPU"):
        open_model(WorkerConfig(model="demo", device="cpu", kv_cache_dtype="fp8"), pb.ROLE_DECODE)


def test_a_pool_that_cannot_hold_the_context_is_refused() -> None:
    with pytest.raises(ConfigError, match="a context of 100 tokens does not fit: 6 KV blocks"):
        open_gpu(config(num_blocks=6, max_context=100, dtype="float32"), DEMO, torch.get_default_device())


@pytest.fixture
def small_gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Says what a GPU of 1000 MiB says of its memory."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (700 << 20, 1000 << 20))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 299 << 20)
    return torch.device("cuda")


def test_what_does_not_fit_is_said_with_the_arithmetic(small_gpu: torch.device) -> None:
    words = (
        r"the weights do not fit on the GPU: of 1000 MiB, 700 MiB were free before; this worker has taken 299 MiB by "
        r"now, 700 MiB are free, and 2.00 GiB more were needed. Buy another."
    )

    with pytest.raises(ConfigError, match=words), fitting(small_gpu, "the weights", "Buy another."):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of x")


def test_weights_that_do_not_fit_are_told_as_they_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("engine.gpu.open.GpuDecoder", full)

    with pytest.raises(ConfigError, match=r"the weights \([\d,]+ numbers, --quantization int8\) do not fit"):
        open_gpu(config(quantization="int8"), DEMO, torch.get_default_device())


def test_a_pool_that_was_asked_for_is_measured_too(monkeypatch: pytest.MonkeyPatch, small_gpu: torch.device) -> None:
    """Else a step could run out of memory later."""
    spec = model_spec(DEMO.config)
    decoder = SimpleNamespace(spec=spec, part=spec, dtype=torch.bfloat16, device=small_gpu, ranks=ALONE)
    measured = Measured(total=1000 * MIB, free=700 * MIB, taken=300 * MIB, activations=100 * MIB)
    monkeypatch.setattr("engine.gpu.fit._measure", lambda *_: measured)
    limits = {"device_reserve_mb": 100, "max_sequences": 1, "max_step_tokens": 2}

    def decided(**fields: object) -> int:
        made = config(**limits, **fields), decoder, None, StepLimits(1, 2)
        return num_blocks_of(*made, torch.bfloat16)  # type: ignore[arg-type]

    fit = decided()
    assert decided(num_blocks=fit) == fit
    with pytest.raises(ConfigError, match=f"{fit} KV blocks of 16 tokens fit on the GPU, and {fit + 1} were asked for"):
        decided(num_blocks=fit + 1)
    with pytest.raises(ConfigError, match="700 MiB are free .* 100 MiB are kept"):
        decided(kv_memory_mb=501)
    assert decided(kv_memory_mb=499) < fit
    with pytest.raises(ConfigError, match="1700 MiB are kept"):
        decided(kv_groups="nccl")


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
