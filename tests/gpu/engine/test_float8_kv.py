"""Keys and values in float8 on a GPU: half the bytes of a block, and logits near to those of the model's own type."""

from array import array
from pathlib import Path

import pytest
import torch

import engine
from engine.batch import Batch, Chunk
from engine.checkpoint import ModelFolder
from engine.config import WorkerConfig
from engine.gpu.open import open_gpu
from engine.models.spec import ModelSpec
from tests.gpu.engine.models import Engines, grow, scattered, spec_of
from tests.reference import sequence_of

E4M3 = torch.float8_e4m3fn
DEMO = ModelFolder.open(Path(engine.__file__).parent / "demo")


@pytest.mark.parametrize("spec", [spec_of(), spec_of(qk_norm=True, sliding_window=7, sliding_layers=frozenset({1}))])
def test_logits_are_near_to_those_of_whole_keys_in_steps_of_every_kind(spec: ModelSpec) -> None:
    engines = Engines.of(spec, dtype=torch.float16, kv_dtype=E4M3)
    assert engines.gpu.cache.pool.dtype is E4M3
    assert 2 * engines.gpu.cache.block_bytes == 2 * 2 * 2 * 16 * 64 * 2 * 2 // 2
    a, b = sequences = [sequence_of(str(length), list(range(5, 5 + length))) for length in (21, 10)]
    scattered(sequences, 3)
    for chunks in ([(a, 12)], [(a, 9), (b, 10)], [(a, 1), (b, 1)], [(b, 1)]):
        grow(chunks)
        batch = engines.batch(*chunks)

        logits = engines.gpu(batch).cpu()

        exact = engines.cpu(batch)
        if len(exact):
            assert torch.cosine_similarity(logits, exact).min() > 0.99
            assert (logits - exact).norm() > 1e-3 * exact.norm(), "nothing was rounded"
    assert not engines.gpu.cache.pool[0].float().any()


def logits_of_the_demo(kept: str) -> torch.Tensor:
    """Behind each token of a sentence, `[positions, V]`: its prompt in chunks, then a token at a time."""
    config = WorkerConfig(
        device="cuda",
        dtype="float16",
        kv_cache_dtype=kept,  # type: ignore[arg-type]
        num_blocks=16,
        block_tokens=8,
        max_context=64,
        max_step_tokens=16,
        max_sequences=2,
    )
    model = open_gpu(config, DEMO, torch.get_default_device())
    sequence = sequence_of("demo", [int(token) for token in range(3, 43)])
    sequence.blocks = array("i", range(5, 0, -1))
    rows = []
    for start, end in ((0, 12), (12, 20), *((n, n + 1) for n in range(20, 40))):
        whole = sequence.tokens
        sequence.tokens = whole[:end]
        rows.append(model.runner(Batch.build([Chunk(sequence, start, end)], 8)).clone())
        sequence.tokens = whole
    return torch.cat(rows).float()


@pytest.mark.slow
def test_a_trained_model_answers_nearly_the_same() -> None:
    exact, found = logits_of_the_demo("auto"), logits_of_the_demo("fp8")

    assert len(exact) == 22
    assert torch.cosine_similarity(found, exact).min() > 0.98
    assert (found.argmax(1) == exact.argmax(1)).float().mean() > 0.85
    assert not torch.equal(found, exact)
