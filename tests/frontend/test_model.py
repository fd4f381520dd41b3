"""What a frontend reads of a model's folder, and what it refuses before it serves."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.hub import DEMO_MODEL, resolve_model
from engine.source import model_name
from frontend.model import LoadedModel


def folder(path: Path, config: Mapping[str, object] = {}, generation: Mapping[str, object] = {}) -> Path:  # noqa: B006
    """The demonstration model's small files, with fields changed; None takes a field away."""
    for name, changes in (("config.json", config), ("generation_config.json", generation)):
        content = json.loads((DEMO_MODEL / name).read_text()) | changes
        (path / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO_MODEL / name, path)
    return path


def test_limits_and_defaults_come_from_the_folder(tmp_path: Path) -> None:
    generation = {"eos_token_id": [3, 5], "temperature": 0.6, "top_k": 20, "do_sample": True}
    model = LoadedModel.load(folder(tmp_path, {"max_position_embeddings": 99}, generation), "m", None)

    assert model.limits.max_context == 99
    assert model.limits.eos_token_ids == {3, 5}
    assert model.limits.defaults == {"temperature": 0.6, "top_k": 20.0}
    assert model.template is not None


def test_dimensions_and_size_come_from_the_folder() -> None:
    model = LoadedModel.load(DEMO_MODEL, "m", None)

    assert model.spec is not None
    assert model.spec.num_layers == 6
    assert model.size_bytes == (DEMO_MODEL / "model.safetensors").stat().st_size


def test_eos_falls_back_to_the_config(tmp_path: Path) -> None:
    model = LoadedModel.load(folder(tmp_path, {"eos_token_id": 7}, {"eos_token_id": None}), "m", None)

    assert model.limits.eos_token_ids == {7}


@pytest.mark.parametrize(
    ("config", "generation", "field"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, {}, "architectures"),
        ({"max_position_embeddings": None}, {}, "max_position_embeddings"),
        ({"hidden_act": "gelu"}, {}, "hidden_act"),
        ({}, {"temperature": 7.0}, "temperature"),
        ({}, {"top_p": 2}, "top_p"),
    ],
)
def test_what_cannot_be_served_is_refused_by_field(
    tmp_path: Path, config: Mapping[str, object], generation: Mapping[str, object], field: str
) -> None:
    with pytest.raises(ConfigError, match=field) as caught:
        LoadedModel.load(folder(tmp_path, config, generation), "m", None)

    assert caught.value.field == field


def test_a_folder_without_a_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path)):
        LoadedModel.load(tmp_path, "m", None)


def test_a_template_of_the_operators_replaces_the_models(tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages[0].content }}!")
    model = LoadedModel.load(folder(tmp_path), "m", template)

    assert model.template is not None
    assert model.template.render([{"role": "user", "content": "hello"}]) == "hello!"


def test_names() -> None:
    assert model_name("", "") == "tandem-demo"
    assert model_name("some/where/llama", "") == "llama"
    assert model_name("org/llama", "mine") == "mine"
    assert resolve_model("") == DEMO_MODEL
    with pytest.raises(ConfigError, match="neither a folder nor a name"):
        resolve_model("./missing")
