"""Writes the finished model as an ordinary Hugging Face folder.

It knows file names and formats. It knows nothing of training.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from tools.demo_model.tokenizer import END_OF_TEXT, END_OF_TURN, write_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer

    from tools.demo_model.model import Llama, Shape


def write_folder(folder: Path, model: Llama, shape: Shape, tokenizer: Tokenizer) -> None:
    """Write config, tokenizer and float16 weights; each file replaces its elder at once."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = tokenizer.get_vocab()
    end_of_text, end_of_turn = vocabulary[END_OF_TEXT], vocabulary[END_OF_TURN]
    _write_json(folder / "config.json", shape.as_config(end_of_text, end_of_turn))
    _write_json(
        folder / "generation_config.json",
        {"do_sample": False, "eos_token_id": [end_of_turn, end_of_text], "pad_token_id": end_of_text},
    )
    write_tokenizer(tokenizer, folder, shape.max_positions)
    weights = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in model.named_parameters()}
    partial = folder / "model.safetensors.partial"
    save_file(weights, partial, metadata={"format": "pt"})
    partial.chmod(0o644)
    partial.replace(folder / "model.safetensors")


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
