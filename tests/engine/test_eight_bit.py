"""Checkpoints of eight bits as compressed-tensors writes them: unpacked, served, and refused by name where not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.rivals.models import QUANTIZATION, write_w8a8
from engine.cache import KVCache
from engine.checkpoint import ModelFolder, Weights, load_weights
from engine.errors import ConfigError
from engine.models.families import model_spec
from engine.runner import Runner, load_decoder
from tests.reference import Blocks, make_model, sequence_of, step

E4M3 = torch.float8_e4m3fn


@pytest.fixture
def source(tmp_path: Path) -> Path:
    make_model("qwen2", tmp_path / "source")
    return tmp_path / "source"


def weights_of(path: Path, dtype: torch.dtype = torch.float32) -> Weights:
    folder = ModelFolder.open(path)
    return load_weights(folder, model_spec(folder.config), dtype)


def write_fp8(source: Path, out: Path, strategy: str) -> Path:
    tensors = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        tensors[name] = tensor
        if name.endswith("_proj.weight"):
            peaks = tensor.abs().amax(1, keepdim=True) if strategy == "channel" else tensor.abs().amax()[None]
            tensors[f"{name}_scale"] = (peaks / 448).bfloat16()
            tensors[name] = (tensor / tensors[f"{name}_scale"].float()).clamp(-448, 448).to(E4M3)
    out.mkdir()
    save_file(tensors, out / "model.safetensors")
    kind = {"num_bits": 8, "type": "float", "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": {**kind, "strategy": strategy, "dynamic": False},
        "input_activations": {**kind, "strategy": "token", "dynamic": True},
    }
    stated = {**QUANTIZATION, "format": "float-quantized", "config_groups": {"group_0": group}}
    config = json.loads((source / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "quantization_config": stated}))
    return out


def expected(path: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """By the format's definition: what is stored times its scale, whichever that is for."""
    stored = load_file(path / "model.safetensors")
    return {
        name: (tensor.float() * stored[f"{name}_scale"].float()).to(dtype)
        if f"{name}_scale" in stored
        else tensor.to(dtype)
        for name, tensor in stored.items()
        if not name.endswith("_scale")
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["int8", "channel", "tensor"])
def test_a_model_is_what_its_numbers_and_scales_say(
    source: Path, tmp_path: Path, kind: str, dtype: torch.dtype
) -> None:
    out = tmp_path / "out"
    path = write_w8a8(source, out) if kind == "int8" else write_fp8(source, out, kind)

    weights = weights_of(path, dtype)

    found = expected(path, dtype)
    assert weights.keys() == found.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in found.items())


def test_int8_is_quantized_to_the_numbers_that_it_was_stored_as(source: Path, tmp_path: Path) -> None:
    packed = write_w8a8(source, tmp_path / "packed")
    logits = []
    for path in (source, packed):
        decoder = load_decoder(ModelFolder.open(path), quantize=True)
        runner, sequence = Runner(decoder, KVCache(decoder.spec, 8, 16)), sequence_of("a", range(20))
        logits.append(step(runner, Blocks(runner), [(sequence, 20)])[sequence.id])

    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)


NAME = "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({f"{NAME}_scale": None}, f"lacks tensor {NAME}_scale"),
        ({f"{NAME}_scale": torch.ones(64)}, rf"{NAME}_scale has shape \[64\]"),
        ({f"{NAME}_scale": torch.ones(64, 1).int()}, f"{NAME}_scale is I32; supported: BF16"),
        ({NAME: torch.zeros(64, 96)}, f"{NAME} is F32; supported: I8"),
        ({NAME: torch.zeros(64, 96).to(E4M3)}, f"{NAME} is F8_E4M3; supported: I8"),
        ({NAME: torch.zeros(64, 48).to(torch.int8)}, rf"{NAME} has shape \[64, 48\]"),
        ({"model.norm.weight": torch.zeros(64).to(torch.int8)}, "model.norm.weight is I8; supported: BF16"),
        ({"model.layers.0.mlp.up_proj.input_scale": torch.ones(1)}, "holds tensor .*input_scale"),
    ],
)
def test_tensors_that_do_not_fit_are_named(source: Path, tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    path = write_w8a8(source, tmp_path / "packed")
    tensors = load_file(path / "model.safetensors")
    for name, tensor in changes.items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    save_file(tensors, path / "model.safetensors")

    with pytest.raises(ConfigError, match=named):
        weights_of(path)
