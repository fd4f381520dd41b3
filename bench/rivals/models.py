"""The model that all systems serve, in the form that each one reads: random weights, the same everywhere.

    python -m bench.rivals.models

float32 safetensors; the same as GGUF, float32 and Q8_0; and with its linear layers as int8 in the compressed-tensors
format that vLLM reads (W8A8: weights symmetric, a scale per output channel; activations symmetric, a scale per token,
found as the model runs). The tokenizer is trained on the text of Python's library, so that every token has a text:
servers send nothing for a token without one.
"""

import json
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from bench.model import SHAPES, make_model
from bench.rivals.install import llama_source, python_of, rivals_root
from engine.errors import ConfigError

_INT8 = {"num_bits": 8, "type": "int", "symmetric": True}
QUANTIZATION: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "kv_cache_scheme": None,
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {**_INT8, "strategy": "channel", "dynamic": False},
            "input_activations": {**_INT8, "strategy": "token", "dynamic": True},
            "output_activations": None,
        }
    },
}


def quantize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[out, in] float32 → int8 of the same shape and [out, 1] float32 scales; a row of zeros has scale 1."""
    peak = weight.abs().amax(dim=1, keepdim=True)
    scale = torch.where(peak > 0, peak / 127, torch.ones_like(peak))
    return (weight / scale).round().clamp(-127, 127).to(torch.int8), scale


def write_w8a8(checkpoint: Path, out: Path) -> Path:
    """A checkpoint in one file, as `bench.model` writes it; ConfigError where it is not."""
    if not (checkpoint / "model.safetensors").is_file():
        raise ConfigError(f"{checkpoint} has no model.safetensors")
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            tensors[name], tensors[f"{name}_scale"] = quantize(tensor.float())
        else:
            tensors[name] = tensor
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((checkpoint / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "quantization_config": QUANTIZATION}))
    for path in (*checkpoint.glob("tokenizer*"), *checkpoint.glob("generation_config.json")):
        shutil.copy(path, out)
    return out


@dataclass(frozen=True, slots=True)
class Models:
    """One model in four forms."""

    float32: Path
    w8a8: Path
    gguf_float32: Path
    gguf_q8_0: Path


def prepare(shape: str = "160m") -> Models:
    """Write what is not there yet. Raises ConfigError where llama.cpp's converter does not run."""
    root = rivals_root() / "models"
    found = Models(root / shape, root / f"{shape}-w8a8", root / f"{shape}.f32.gguf", root / f"{shape}.q8_0.gguf")
    if not found.float32.exists():
        making = make_model(root / f"{shape}.making", shape)
        train_tokenizer(making, SHAPES[shape]["vocab_size"])
        making.rename(found.float32)
    if not found.w8a8.exists():
        write_w8a8(found.float32, root / "w8a8.making").rename(found.w8a8)
    for path, kind in ((found.gguf_float32, "f32"), (found.gguf_q8_0, "q8_0")):
        if not path.exists():
            write_gguf(found.float32, path, kind)
    return found


def train_tokenizer(folder: Path, vocab_size: int) -> None:
    """A byte-level BPE, in place of what `folder` has."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|bos|>", "<|eos|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(_library_text(), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": special[0], "eos_token": special[1]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _library_text() -> Iterator[str]:
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))[:3000]:
        yield path.read_text(errors="replace")


_CONVERT = """
import runpy, sys
source, model, out, kind = sys.argv[1:]
sys.path[:0] = [source, source + "/gguf-py"]
import conversion.base
conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
sys.argv = ["convert", model, "--outfile", out, "--outtype", kind]
runpy.run_path(source + "/convert_hf_to_gguf.py", run_name="__main__")
"""
"""llama.cpp's converter refuses tokenizers that it does not know: tell it that this one splits text as GPT-2's does."""


def write_gguf(checkpoint: Path, out: Path, kind: str) -> None:
    making = out.with_suffix(".making")
    command = (python_of("transformers"), "-c", _CONVERT, llama_source(), checkpoint, making, kind)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ConfigError(f"{out.name} could not be written: {done.stderr[-2000:]}")
    making.rename(out)


def main() -> None:
    found = prepare()
    for path in (found.float32, found.w8a8, found.gguf_float32, found.gguf_q8_0):
        print(path)


if __name__ == "__main__":
    main()
