"""Parts of a model: together they are all of it, and what cannot be divided is refused with the numbers."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.checkpoint import ModelFolder, load_weights
from engine.errors import ConfigError
from engine.models.families import model_spec
from engine.tp.split import Split, share
from tests.reference import make_model

EIGHT_HEADS = {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 8}
BIASES = {"attention_bias": True, "mlp_bias": True}
COLUMNS = ("o_proj.weight", "down_proj.weight")
ROWS = ("q_proj", "gate_proj", "up_proj", "lm_head")
KV = ("k_proj", "v_proj")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    path = tmp_path_factory.mktemp("model")
    make_model("llama", path, **EIGHT_HEADS, **BIASES, shard_size="40KB")
    return ModelFolder.open(path)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_the_parts_of_all_ranks_are_the_whole(folder: ModelFolder, size: int) -> None:
    spec = model_spec(folder.config)
    whole = load_weights(folder, spec, torch.float32)
    parts = [load_weights(folder, spec, torch.float32, Split.of(spec, rank, size)) for rank in range(size)]

    for name, tensor in whole.items():
        here = [part[name] for part in parts if name in part]
        if size == 1 or "norm" in name or "embed" in name:
            together = here[0]
            assert len(here) == size
        elif name.endswith(COLUMNS):
            together = torch.cat(here, 1)
        elif name.endswith(("o_proj.bias", "down_proj.bias")):
            (together,) = here  # it is added once
        elif any(module in name for module in KV):
            together = torch.cat(here[:: max(1, size // spec.num_kv_heads)])
        else:
            assert any(module in name for module in ROWS), name
            together = torch.cat(here)
        assert torch.equal(together, tensor), name
    assert all(part.keys() <= whole.keys() for part in parts)


def test_ranks_that_share_a_kv_head_have_it_all(folder: ModelFolder) -> None:
    spec = model_spec(folder.config)
    splits = [Split.of(spec, rank, 4) for rank in range(4)]
    assert [split.kv_heads for split in splits] == [slice(0, 1), slice(0, 1), slice(1, 2), slice(1, 2)]
    assert {(split.part.num_heads, split.part.num_kv_heads, split.part.mlp_size) for split in splits} == {(2, 1, 24)}
    name = "model.layers.0.self_attn.k_proj.weight"
    first, twin, other, _ = (load_weights(folder, spec, torch.float32, split)[name] for split in splits)
    assert torch.equal(first, twin)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("total", [4, 97, 105, 512])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_shares_lie_side_by_side_and_differ_by_one_at_most(total: int, size: int) -> None:
    shares = [share(total, rank, size) for rank in range(size)]
    assert [index for part in shares for index in range(total)[part]] == list(range(total))
    assert {part.stop - part.start for part in shares} <= {total // size, -(-total // size)}


@pytest.mark.parametrize(
    ("fields", "size", "why"),
    [
        ({"num_heads": 6, "num_kv_heads": 2}, 4, "does not divide the 6 attention heads"),
        ({"num_heads": 12, "num_kv_heads": 3}, 2, "neither divides the 3 KV heads"),
        ({"num_heads": 12, "num_kv_heads": 4, "mlp_size": 96}, 6, "neither divides the 4 KV heads"),
        ({"mlp_size": 74}, 4, "does not divide the 74 columns of the MLP"),
        ({"vocab_size": 3}, 4, "more than the vocabulary's 3 tokens"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_the_numbers(
    folder: ModelFolder, fields: dict[str, int], size: int, why: str
) -> None:
    spec = replace(model_spec(folder.config), **fields)
    with pytest.raises(ConfigError, match=f"tensor_parallel is {size}, which .*{why}") as refused:
        Split.of(spec, 0, size)
    assert refused.value.field == "tensor_parallel"


def test_weights_in_another_form_are_refused_by_name(folder: ModelFolder) -> None:
    split = Split.of(model_spec(folder.config), 0, 2)
    with pytest.raises(ConfigError, match=r"cannot divide model.layers.0.mlp.up_proj.qweight"):
        split.of_tensor("model.layers.0.mlp.up_proj.qweight")


def test_a_tied_head_beside_its_embedding_is_checked_by_its_part(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    make_model("llama", tmp_path, tie_word_embeddings=True)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    head = tensors["model.embed_tokens.weight"].clone()
    save_file({**tensors, "lm_head.weight": head}, file)
    opened = ModelFolder.open(tmp_path)
    spec = model_spec(opened.config)
    splits = [Split.of(spec, rank, 2) for rank in range(2)]
    assert all("lm_head.weight" not in load_weights(opened, spec, torch.float32, split) for split in splits)

    head[-1] += 1
    save_file({**tensors, "lm_head.weight": head}, file)
    load_weights(opened, spec, torch.float32, splits[0])
    with pytest.raises(ConfigError, match="lm_head.weight differs"):
        load_weights(opened, spec, torch.float32, splits[1])
