"""Reading model folders: what is accepted, what is refused and by which name."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.checkpoint import ModelFolder, load_weights, model_revision
from engine.errors import ConfigError
from engine.hub import resolve_model
from engine.models.families import model_spec
from engine.models.tensors import expected_shapes
from tests.reference import make_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_model("llama", tmp_path / "model")
    return tmp_path / "model"


def load(path: Path) -> dict[str, torch.Tensor]:
    folder = ModelFolder.open(path)
    return load_weights(folder, model_spec(folder.config), torch.float32)


def rewrite(path: Path, **changes: torch.Tensor | None) -> None:
    """Replace tensors of a one-file checkpoint; None removes one."""
    tensors = load_file(path / "model.safetensors")
    for name, tensor in changes.items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    save_file(tensors, path / "model.safetensors")


def configure(path: Path, **fields: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **fields}))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shard_size", ["5GB", "20KB"])
def test_all_source_types_and_shards_load(tmp_path: Path, dtype: str, shard_size: str) -> None:
    make_model("llama", tmp_path, dtype=dtype, shard_size=shard_size)
    make_model("llama", tmp_path / "plain", dtype=dtype)

    weights = load(tmp_path)

    assert (len(list(tmp_path.glob("*.safetensors"))) == 1) == (shard_size == "5GB")
    expected = load_file(tmp_path / "plain" / "model.safetensors")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], tensor.float()) for name, tensor in expected.items())


def test_every_shard_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_model("llama", tmp_path, shard_size="60KB")
    num_shards = len(list(tmp_path.glob("*.safetensors")))
    assert num_shards > 1

    with caplog.at_level(logging.INFO):
        load(tmp_path)

    assert sum(f"of {num_shards})" in message for message in caplog.messages) == num_shards


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model.norm.weight": None}, "lacks tensor model.norm.weight"),
        ({"model.layers.0.mlp.up_proj.weight": None, "lm_head.weight": None}, "lm_head.weight and 1 more"),
        ({"model.layers.9.mlp.up_proj.weight": torch.zeros(1)}, "holds tensor model.layers.9.mlp.up_proj.weight"),
        ({"model.norm.weight": torch.zeros(63)}, r"model.norm.weight has shape \[63\], the config asks for \[64\]"),
        ({"model.norm.weight": torch.zeros(64, dtype=torch.float64)}, "model.norm.weight is F64"),
        ({"model.layers.0.self_attn.q_proj.bias": torch.zeros(64)}, "self_attn.q_proj.bias, which Llama"),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder: Path, changes: dict[str, Any], named: str) -> None:
    rewrite(folder, **changes)

    with pytest.raises(ConfigError, match=named):
        load(folder)


def test_rotary_tables_in_old_checkpoints_are_ignored(folder: Path) -> None:
    rewrite(folder, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)})

    assert "model.layers.0.self_attn.rotary_emb.inv_freq" not in load(folder)


def test_a_tied_head_in_the_file_must_equal_the_embedding(folder: Path) -> None:
    configure(folder, tie_word_embeddings=True)
    with pytest.raises(ConfigError, match="lm_head.weight differs from model.embed_tokens.weight"):
        load(folder)

    rewrite(folder, **{"lm_head.weight": load_file(folder / "model.safetensors")["model.embed_tokens.weight"].clone()})
    assert "lm_head.weight" not in load(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_file_cut_short_is_refused(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])

    with pytest.raises(ConfigError, match="model.safetensors .*cut short"):
        load(folder)


ENDLESS = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, Infinity]}}'


@pytest.mark.parametrize(
    "header",
    [b"{]", b"[1]", b'{"a": 3}', b'{"a": {"dtype": "F32", "shape": 1}}', ENDLESS, b"[" * 100_000, b"\xff\xff"],
)
def test_a_broken_header_is_refused(folder: Path, header: bytes) -> None:
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)

    with pytest.raises(ConfigError, match="broken safetensors header"):
        load(folder)


def test_shards_must_be_there_and_hold_what_the_index_says(tmp_path: Path) -> None:
    make_model("llama", tmp_path, shard_size="60KB")
    index = tmp_path / "model.safetensors.index.json"
    good = index.read_text()
    first = sorted(tmp_path.glob("*.safetensors"))[0]

    weight_map = json.loads(good)["weight_map"]
    name = next(name for name, file in weight_map.items() if file != first.name)
    index.write_text(json.dumps({"weight_map": {**weight_map, name: first.name}}))
    with pytest.raises(ConfigError, match=f"tensor {name} is not in {first.name}"):
        load(tmp_path)

    index.write_text("{}")
    with pytest.raises(ConfigError, match="has no weight_map"):
        load(tmp_path)

    for elsewhere in ("../model.safetensors", "/etc/passwd", "", "x" * 300, None, 5, ["x"]):
        index.write_text(json.dumps({"weight_map": {**weight_map, name: elsewhere}}))
        with pytest.raises(ConfigError, match="no file beside it"):
            load(tmp_path)

    index.write_text(good)
    first.unlink()
    with pytest.raises(ConfigError, match=f"{first.name} is missing"):
        load(tmp_path)


def test_pickled_weights_are_refused_by_name(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    with pytest.raises(ConfigError, match=r"safetensors only; pytorch_model\.bin"):
        load(folder)


def test_a_folder_without_config_or_with_a_broken_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        ModelFolder.open(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"config\.json is missing"):
        ModelFolder.open(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        ModelFolder.open(tmp_path)
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="is not JSON"):
        ModelFolder.open(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="does not hold an object"):
        ModelFolder.open(tmp_path)


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        (2, None, (2,)),
        ([2, 3], {}, (2, 3)),
        (2, {"eos_token_id": [1, 2]}, (1, 2)),
        (None, {"eos_token_id": 0}, (0,)),
        (None, None, ()),
    ],
)
def test_end_of_text_ids(tmp_path: Path, config: Any, generation: Any, expected: tuple[int, ...]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": config}))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))

    assert ModelFolder.open(tmp_path).eos_token_ids == expected


def test_end_of_text_ids_must_be_ids(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"eos_token_id": "</s>"}')

    with pytest.raises(ConfigError, match="eos_token_id"):
        ModelFolder.open(tmp_path)


def test_the_revision_follows_config_and_weights(folder: Path) -> None:
    first = model_revision(ModelFolder.open(folder))
    assert len(first) == 16
    assert model_revision(ModelFolder.open(folder)) == first

    rewrite(folder, **{"model.norm.weight": torch.full((64,), 0.5)})
    second = model_revision(ModelFolder.open(folder))
    assert second != first, "a fine-tune has the same header"

    configure(folder, rms_norm_eps=1e-3)
    assert model_revision(ModelFolder.open(folder)) != second


def test_a_folder_is_found_as_it_is_and_other_names_must_look_like_names(tmp_path: Path) -> None:
    assert resolve_model(str(tmp_path)) == tmp_path
    for name in (str(tmp_path / "none"), "a/b/c", "plain", "./a"):
        with pytest.raises(ConfigError, match="neither a folder nor a name"):
            resolve_model(name)


def test_expected_shapes_count_every_weight(folder: Path) -> None:
    spec = model_spec(ModelFolder.open(folder).config)

    assert expected_shapes(spec).keys() == load_file(folder / "model.safetensors").keys()


def test_a_file_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ConfigError, match="Is a directory"):
        ModelFolder.open(tmp_path)
