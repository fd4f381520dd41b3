"""A checkpoint of a real shape with random weights, to measure with: speed does not depend on what a model says."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from engine.hub import DEMO_MODEL
from engine.models.families import model_spec
from engine.models.tensors import expected_shapes

SHAPES: dict[str, dict[str, int]] = {
    "160m": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "vocab_size": 32000,
    },
    "null": {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 12,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "vocab_size": 32,
    },
}
"""`null` has as many layers as `160m` and next to nothing to compute: what its step takes is overhead."""


def make_model(folder: Path, shape: str) -> Path:
    """Write a Llama checkpoint of this shape, with the demonstration model's tokenizer; prompts are token ids."""
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "eos_token_id": 1,
        **SHAPES[shape],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    weights = {
        name: torch.ones(size) if "norm" in name else torch.randn(size) * 0.02
        for name, size in expected_shapes(model_spec(config)).items()
    }
    save_file(weights, folder / "model.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO_MODEL / name, folder)
    return folder
