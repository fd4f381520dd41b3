"""Whole answers on the GPU's engine against the CPU's: greedy, and drawn with seeds and penalties."""

from pathlib import Path
from typing import Any

import pytest
import torch

import engine
from engine.batch import Batch, Chunk
from engine.checkpoint import ModelFolder, load_weights
from engine.gpu.runner import GpuRunner, StepLimits
from engine.gpu.sampler import GpuSampler
from engine.models.families import model_spec
from engine.runner import Runner
from engine.sampler import Sampler
from engine.sequence import Sequence
from tests.gpu.engine.models import Engines, scattered, spec_of
from tests.reference import sequence_of

NUM_TOKENS = 20
SEEDED: dict[str, Any] = {"seed": 7, "temperature": 0.9, "top_p": 0.9, "repetition_penalty": 1.3}


def answers(runner: Runner | GpuRunner, sampler: Sampler | GpuSampler, sequences: list[Sequence]) -> list[list[int]]:
    """Prompts in chunks of eight beside the answers of those who are done; one more joins at every step."""
    for turn in range(1, 100):
        running = [sequence for sequence in sequences[:turn] if sequence.num_output < NUM_TOKENS]
        if not running:
            break
        chunks = []
        for sequence in running:
            end = sequence.num_computed + min(8, sequence.num_uncomputed)
            chunks.append(Chunk(sequence, sequence.num_computed, end))
            sequence.num_computed = end
        batch = Batch.build(chunks, 16)
        sampled = sampler(runner(batch), batch.sampled)
        for sequence, token in zip(batch.sampled, sampled.token_ids, strict=True):
            sequence.append(token)
    return [list(sequence.tokens[sequence.num_prompt :]) for sequence in sequences]


def asked(vocab_size: int) -> list[Sequence]:
    generator = torch.Generator(device="cpu").manual_seed(3)
    prompt = torch.randint(3, vocab_size, (14,), generator=generator, device="cpu").tolist()
    sequences = [sequence_of("greedy", prompt, temperature=0.0), sequence_of("seeded", prompt[:5], **SEEDED)]
    scattered(sequences, 3)
    return sequences


def agree(engines: Engines) -> None:
    spec = engines.gpu.spec
    sampler = GpuSampler(spec.vocab_size, engines.gpu.limits.max_sequences, engines.gpu.decoder.device)

    found = answers(engines.gpu, sampler, asked(spec.vocab_size))

    assert found == answers(engines.cpu, Sampler(), asked(spec.vocab_size))
    assert len(set(found[0])) > 1


@pytest.mark.slow
def test_answers_of_a_random_model_are_those_of_the_cpu() -> None:
    agree(Engines.of(spec_of(qk_norm=True, sliding_window=9, sliding_layers=frozenset({0}))))


@pytest.mark.slow
def test_answers_of_the_demonstration_model_are_those_of_the_cpu() -> None:
    folder = ModelFolder.open(Path(engine.__file__).parent / "demo")
    spec = model_spec(folder.config)
    with torch.device("cpu"):
        weights = load_weights(folder, spec, torch.float32)

    agree(Engines.of(spec, weights=weights))


@pytest.mark.parametrize("num_rows", [1, 3])
def test_warm_up_leaves_an_empty_cache_and_the_same_logits(num_rows: int) -> None:
    limits = StepLimits(max_sequences=num_rows, max_step_tokens=5)
    engines, warm = (Engines.of(spec_of(num_layers=1), limits=limits) for _ in range(2))
    warm.gpu.warm_up()
    assert not warm.gpu.cache.pool.any()
    results = []
    for each in (engines, warm):
        (sequence,) = sequences = [sequence_of("a", [4, 5, 6])]
        scattered(sequences, 1)
        results.append(each.gpu(each.batch((sequence, 3))))

    assert torch.equal(*results)


def test_float16_is_close_to_float32() -> None:
    spec = spec_of(num_layers=1)
    exact, narrow = Engines.of(spec), Engines.of(spec, dtype=torch.float16)
    sequences = [sequence_of("a", [4, 5, 6, 7]), sequence_of("b", [9])]
    scattered(sequences, 1)
    a, b = sequences
    batch = exact.batch((a, 4), (b, 1))

    logits = narrow.gpu(batch)

    assert logits.dtype is torch.float32
    assert narrow.gpu.cache.pool.dtype is torch.float16
    torch.testing.assert_close(logits.cpu(), exact.cpu(batch), atol=0.03, rtol=0.03)
