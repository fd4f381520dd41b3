"""Model folders whose files are changed here and there: a ConfigError says so, or the model loads."""

import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from safetensors.torch import load_file, save_file

from engine.checkpoint import ModelFolder, load_weights, model_revision
from engine.errors import ConfigError
from engine.hub import DEMO_MODEL
from engine.models.families import model_spec
from engine.models.rope import rope_table
from engine.models.tensors import expected_shapes
from frontend.model import LoadedModel
from tests.four_bit import GPTQ_CONFIG, write_packed
from tests.fuzz.budget import fuzz
from tests.fuzz.strategies import anything, mutated

MEMORY_BYTES = 4 << 30
"""More than this beyond what the process has is more than any small file may ask for."""

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32},
    "tie_word_embeddings": False,
    "eos_token_id": 1,
}
JSON_FILES = ["config.json", "generation_config.json", "tokenizer_config.json", "model.safetensors.index.json"]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a few kilobytes, with the demonstration model's tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1], "temperature": 0.5, "top_k": 4}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO_MODEL / name, folder / name)
    shapes = expected_shapes(model_spec(CONFIG))
    save_file({name: torch.ones(shape) for name, shape in shapes.items()}, folder / "model.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(shapes, "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def in_four_bits(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with its matrices as GPTQ packs them."""
    folder = tmp_path_factory.mktemp("packed")
    write_packed(original, folder, tmp_path_factory.mktemp("dense"), 8, **GPTQ_CONFIG)
    weight_map = dict.fromkeys(load_file(folder / "model.safetensors"), "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@contextmanager
def bounded_memory() -> Iterator[None]:
    """What asks for too much fails here, instead of being ended by the kernel."""
    size_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size_bytes + MEMORY_BYTES, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, most))


def load(folder: Path) -> None:
    """As far as workers and frontends read small files."""
    opened = ModelFolder.open(folder)
    spec = model_spec(opened.config)
    rope_table(spec.rope, spec.head_dim, min(spec.max_context, 64))
    weights = load_weights(opened, spec, torch.float32)
    for name in list(weights):
        weights.pop(name)
    model_revision(opened)


def load_text(folder: Path) -> None:
    model = LoadedModel.load(folder, "m", None)
    ids = model.tokenizer.encode("What is prefill?", add_special_tokens=True)
    model.tokenizer.decode(ids)


@st.composite
def changed(draw: DrawFn, value: Any) -> Any:
    """`value` in which one thing, however deep, is another."""
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        name = draw(st.sampled_from(sorted(value)))
        match draw(st.integers(0, 7)):
            case 0:
                return {key: inner for key, inner in value.items() if key != name}
            case 1:
                return {**value, draw(st.text(max_size=5)): draw(anything)}
        return {**value, name: draw(changed(value[name]))}
    if isinstance(value, list) and value and draw(st.integers(0, 5)):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], draw(changed(value[at])), *value[at + 1 :]]
    return draw(anything)


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


@st.composite
def json_changes(draw: DrawFn, original: Path) -> tuple[str, bytes]:
    name = draw(st.sampled_from(JSON_FILES))
    content = (original / name).read_bytes()
    return name, draw(changed(json.loads(content)).map(as_json) | mutated(st.just(content)))


@st.composite
def header_changes(draw: DrawFn, original: Path) -> tuple[str, bytes]:
    content = (original / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = draw(changed(json.loads(content[8 : 8 + length])).map(as_json) | mutated(st.just(content[8 : 8 + length])))
    told = draw(st.just(len(header)) | st.sampled_from([0, 1, len(content), 2**62, 2**64 - 1]))
    rest = draw(st.just(content[8 + length :]) | st.just(b""))
    return "model.safetensors", told.to_bytes(8, "little") + header + rest


@st.composite
def tokenizer_changes(draw: DrawFn, original: Path) -> tuple[str, bytes]:
    content = (original / "tokenizer.json").read_bytes()
    if draw(st.booleans()):
        return "tokenizer.json", draw(mutated(st.just(content)))
    parts = json.loads(content)
    name = draw(st.sampled_from(sorted(parts)))
    return "tokenizer.json", as_json({**parts, name: draw(changed(parts[name]))})


def check_in(original: Path, folder: Path, change: tuple[str, bytes]) -> None:
    """Whatever is wrong with the file is a ConfigError."""
    shutil.copytree(original, folder, dirs_exist_ok=True)
    name, content = change
    (folder / name).write_bytes(content)
    with bounded_memory():
        for read in (load, load_text):
            with suppress(ConfigError):
                read(folder)


@pytest.mark.parametrize(
    ("name", "source", "changes", "quick"),
    [
        ("JSON files", "original", json_changes, 100),
        ("safetensors", "original", header_changes, 60),
        ("tokenizer", "original", tokenizer_changes, 20),
        ("JSON files of four bits", "in_four_bits", json_changes, 60),
        ("safetensors of four bits", "in_four_bits", header_changes, 40),
    ],
)
def test_no_file_breaks_what_reads_it(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, source: str, changes: Any, quick: int
) -> None:
    folder: Path = request.getfixturevalue(source)

    fuzz(name, changes(folder), lambda change: check_in(folder, tmp_path / "model", change), quick=quick)
