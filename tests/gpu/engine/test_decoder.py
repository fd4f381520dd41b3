"""The GPU's decoder and runner against the CPU's, in float32, however a step is made up."""

import pytest
import torch

from engine.gpu import runner
from engine.scoring import Scoring
from engine.sequence import Sequence
from tests.gpu.engine.models import Engines, grow, scattered, spec_of
from tests.reference import sequence_of

SPECS = {
    "llama": spec_of(),
    "llama-mha-tied-biases": spec_of(
        num_heads=2, tied_embeddings=True, qkv_bias=True, output_bias=True, mlp_bias=True, num_layers=1
    ),
    "qwen3-head-80": spec_of(
        architecture="Qwen3ForCausalLM", head_dim=80, num_heads=8, qk_norm=True, tied_embeddings=True, num_layers=1
    ),
    "window-in-one-layer": spec_of(sliding_window=7, sliding_layers=frozenset({1}), qk_norm=True),
}


def prompt(name: str, num_tokens: int) -> Sequence:
    generator = torch.Generator(device="cpu").manual_seed(num_tokens)
    return sequence_of(name, torch.randint(0, 211, (num_tokens,), generator=generator, device="cpu").tolist())


_SLOW = {"qwen3-head-80", "llama-mha-tied-biases"}
"""Head sizes that nothing else here compiles kernels for."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in _SLOW else name for name in SPECS]
)
def test_logits_are_those_of_the_cpu_in_steps_of_every_kind(name: str) -> None:
    engines = Engines.of(SPECS[name])
    a, b, c = sequences = [prompt("a", 21), prompt("b", 10), prompt("c", 9)]
    scattered(sequences, 3)
    steps = [
        [(a, 12)],  # nobody samples
        [(a, 9), (b, 9)],  # a cached prefix, and a prompt that is not at its end
        [(b, 1), (c, 1)],  # rows that decode attention computes, of which one samples
        [(a, 1), (b, 1), (c, 8)],  # decode beside a prompt
        [(a, 1), (b, 1), (c, 1)],  # a bucket of four
        [(b, 1)],
    ]
    for chunks in steps:
        grow(chunks)
        batch = engines.batch(*chunks)

        logits = engines.gpu(batch)

        expected = engines.cpu(batch)
        assert logits.dtype is torch.float32
        torch.testing.assert_close(logits.cpu(), expected, atol=1e-4, rtol=0)
    assert not engines.gpu.cache.pool[0].any()


def test_a_prompt_is_as_likely_as_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_SCORED_BYTES", 6 * 4 * 211)  # of six rows
    engines = Engines.of(spec_of(num_layers=1))
    a, b = sequences = [prompt("a", 21), prompt("b", 4)]
    a.scoring = Scoring(3)
    scattered(sequences, 3)
    for chunks in ([(a, 9), (b, 4)], [(a, 12)]):
        batch = engines.batch(*chunks)
        logits, made = engines.gpu(batch).cpu(), a.scoring.drain()
        expected, wanted = engines.cpu(batch), a.scoring.drain()
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
        for column in ("logprobs", "top_logprobs", "ranks", "top_ids"):
            here, there = (
                [row.tolist() for part in parts for row in getattr(part, column)] for parts in (made, wanted)
            )
            assert torch.tensor(here).shape == torch.tensor(there).shape
            torch.testing.assert_close(torch.tensor(here), torch.tensor(there), atol=1e-4, rtol=0)
        assert made[0].first == wanted[0].first == batch.scored[0].first
