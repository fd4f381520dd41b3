"""Weights of every kind on a GPU that is only pretended: CUDA's own products give the logits of a CPU."""

from itertools import count
from pathlib import Path

import pytest
import torch

from engine.batch import Batch, Chunk
from engine.checkpoint import ModelFolder
from engine.config import WorkerConfig
from engine.gpu.open import open_gpu
from engine.gpu.runner import GpuRunner
from engine.pooling import Pooled, Pooling
from engine.scoring import Scoring
from tests.gpu.kernels.conftest import bfloat16_products
from tests.gpu.pretend.install import pretended
from tests.gpu.pretend.tensors import DEVICE
from tests.reference import make_model, sequence_of

__all__ = ["bfloat16_products"]
LIMITS = {"max_sequences": 2, "max_step_tokens": 8, "max_context": 32, "block_tokens": 8, "num_blocks": 10}
_KINDS = {
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"dtype": "float16", "quantization": "int8"},
    "fp8": {"dtype": "bfloat16", "quantization": "fp8"},
}


def opened(path: Path, device: torch.device, fields: dict[str, str]) -> GpuRunner:
    config = WorkerConfig(device="cuda", device_reserve_mb=8, **LIMITS, **fields)  # type: ignore[arg-type]
    return open_gpu(config, ModelFolder.open(path), device).runner


def computed(runner: GpuRunner) -> list[torch.Tensor]:
    """Logits of two prompts and of steps behind them; how likely one prompt was, and the other's pooled states."""
    a, b = sequence_of("a", [5, 6, 7, 8]), sequence_of("b", [9, 10, 11])
    a.blocks.extend([3, 5])
    b.blocks.extend([4, 1])
    a.scoring, b.pooled = Scoring(2), Pooled(Pooling.MEAN)
    found = []
    for ends in ((4, 3), (5, 4), (6, 5)):
        chunks = [Chunk(one, one.num_computed, end) for one, end in zip((a, b), ends, strict=True)]
        found.append(runner(Batch.build(chunks, 8)).cpu().clone())
        if a.scoring is not None and b.pooled is not None:
            found += [torch.from_numpy(part.logprobs) for part in a.scoring.drain()]
            found.append(torch.frombuffer(bytearray(b.pooled.vector()), dtype=torch.float32))
            a.scoring = b.pooled = None
        for one, end in zip((a, b), ends, strict=True):
            one.num_computed = end
            one.append(20 + end)
    return found


@pytest.mark.usefixtures("bfloat16_products")
@pytest.mark.parametrize(
    "kind", ["fp8", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("int8", "bfloat16"))]
)
@pytest.mark.parametrize("is_first", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_logits_are_those_of_a_cpu(kind: str, is_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the first of the ways to compute a step, or by the last."""
    times_ms = count(1.0) if is_first else count(1000.0, -1.0)
    monkeypatch.setattr("engine.gpu.graphs._replay_ms", lambda graph: next(times_ms))
    make_model("llama", tmp_path, head_dim=64, num_hidden_layers=2)
    expected = computed(opened(tmp_path, torch.device("cpu"), _KINDS[kind]))

    with pretended() as gpu:
        runner = opened(tmp_path, DEVICE, _KINDS[kind])
        found = computed(runner)
        ways = list(runner.graphs.ways(2))

    assert gpu.num_replays == 2
    assert runner.graphs.chosen[2] == ways[0 if is_first else -1]
    assert len(ways) == (6 if kind == "bfloat16" else 2)
    for here, there in zip(found, expected, strict=True):
        torch.testing.assert_close(here, there, atol=5e-2, rtol=2e-2)
