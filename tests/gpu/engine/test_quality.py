"""What products of eight bits cost a trained model whose heads are too small for the GPU's attention: they take the
place of those in the CPU's decoder, and at every position both are given the text that float32 wrote."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from engine.cache import KVCache
from engine.checkpoint import ModelFolder, load_weights
from engine.gpu.linear import EightBitLinear, Room
from engine.models.decoder import Decoder
from engine.models.families import model_spec
from engine.runner import Runner
from tests.reference import Blocks, sequence_of, step
from tests.shared_data import shared_data

NUM_CASES, NUM_TOKENS = 5, 6


pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Moved:
    """A product of the GPU's engine, with rows and results as the CPU's decoder has them."""

    linear: EightBitLinear
    room: Room

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        device = self.linear.weight.device
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        out = torch.empty(len(x), len(self.linear.weight), dtype=dtype, device=device)
        return self.linear(x.to(device, dtype), out, self.room).cpu().float()


def quantized(decoder: Decoder, matrix: Callable[[str], torch.Tensor], kind: torch.dtype) -> None:
    """Replace the products of all layers."""
    here, spec = torch.get_default_device(), decoder.spec
    room = Room(512, max(spec.hidden_size, spec.query_size, spec.mlp_size), kind, here)

    def product(index: int, *names: str) -> Moved:
        weight = torch.cat([matrix(f"model.layers.{index}.{name}_proj.weight") for name in names])
        return Moved(EightBitLinear.of(weight.to(here), None, kind), room)

    decoder.layers = [
        replace(
            layer,
            qkv=product(index, "self_attn.q", "self_attn.k", "self_attn.v"),
            output=product(index, "self_attn.o"),
            gate_up=product(index, "mlp.gate", "mlp.up"),
            down=product(index, "mlp.down"),
        )
        for index, layer in enumerate(decoder.layers)
    ]
    decoder._native = None


def logits_of(path: Path, kind: torch.dtype | None) -> torch.Tensor:
    """`[positions, V]` float32, behind the prompts and behind each of the first tokens of the answers."""
    folder = ModelFolder.open(path)
    spec = model_spec(folder.config)
    with torch.device("cpu"):
        weights = dict(load_weights(folder, spec, torch.float32))
        decoder = Decoder(spec, dict(weights))
    if kind is not None:
        quantized(decoder, weights.__getitem__, kind)
    cases = json.loads((path / "golden_greedy.json").read_text())["cases"][:NUM_CASES]
    sequences = [sequence_of(str(index), case["prompt_ids"]) for index, case in enumerate(cases)]
    rows = []
    with torch.device("cpu"):
        runner = Runner(decoder, KVCache(spec, 80, 16))
        blocks = Blocks(runner)
        for turn in range(NUM_TOKENS + 1):
            found = step(runner, blocks, [(sequence, sequence.num_uncomputed) for sequence in sequences])
            rows += [found[sequence.id].clone() for sequence in sequences]
            for sequence, case in zip(sequences, cases, strict=True):
                sequence.append(case["output_ids"][turn])
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("kind", "least_cosine", "least_agreement"), [(torch.int8, 0.998, 0.95), (torch.float8_e4m3fn, 0.985, 0.92)]
)
def test_logits_of_a_trained_model_are_near_to_float32(
    kind: torch.dtype, least_cosine: float, least_agreement: float
) -> None:
    path = shared_data("models", "babyllama105")
    exact = logits_of(path, None)

    found = logits_of(path, kind)

    agreement = (found.argmax(1) == exact.argmax(1)).float().mean()
    assert len(found) == 35
    assert torch.cosine_similarity(found, exact).min() > least_cosine
    assert agreement > least_agreement
