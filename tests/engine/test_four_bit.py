"""Checkpoints of AWQ and GPTQ: unpacked exactly, served as their float32 selves, and refused by name where not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from engine.cache import KVCache
from engine.checkpoint import ModelFolder, load_weights
from engine.errors import ConfigError
from engine.four_bit import FourBitWeights, PackedMatrix
from engine.models.families import model_spec
from engine.models.spec import FourBitSpec, Packing
from engine.runner import Runner, load_decoder
from tests.four_bit import AWQ_CONFIG, GPTQ_CONFIG, Rounded, awq, gptq, write_packed
from tests.reference import Blocks, greedy, make_model, sequence_of, step
from tests.shared_data import shared_data

AWQ = FourBitSpec(packing=Packing.AWQ, group_size=32)
GPTQ = FourBitSpec(packing=Packing.GPTQ, group_size=32, zeros_less_one=True)
GPTQ_V2 = FourBitSpec(packing=Packing.GPTQ, group_size=32)

KINDS: dict[str, dict[str, Any]] = {
    "awq": AWQ_CONFIG,
    "gptq": GPTQ_CONFIG,
    "gptq-symmetric": {**GPTQ_CONFIG, "sym": True},
    "gptq-v2": {**GPTQ_CONFIG, "checkpoint_format": "gptq_v2"},
    "gptq-act-order": {**GPTQ_CONFIG, "desc_act": True, "sym": True},
}


def weights_of(path: Path, dtype: torch.dtype = torch.float32) -> FourBitWeights:
    folder = ModelFolder.open(path)
    weights = load_weights(folder, model_spec(folder.config), dtype)
    assert isinstance(weights, FourBitWeights)
    return weights


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    make_model("llama", tmp_path / "source")
    write_packed(tmp_path / "source", tmp_path / "packed", tmp_path / "dense", 32, **GPTQ_CONFIG)
    return tmp_path / "packed"


def rewrite(path: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(path / "model.safetensors")
    for name, tensor in changes.items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    save_file(tensors, path / "model.safetensors")


@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 3), st.sampled_from([8, 16, 24]))
@settings(max_examples=25, deadline=None)
def test_every_number_of_every_word_is_unpacked(seed: int, groups: int, width: int, group: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randint(0, 16, (groups * group, 8 * width), generator=generator)
    zeros = torch.randint(0, 16, (groups, 8 * width), generator=generator)
    scales = torch.rand(groups, 8 * width, generator=generator).half()
    matrix = Rounded(q, zeros, scales, torch.arange(len(q)) // group)

    for spec, parts in (
        (AWQ, awq(matrix)),
        (GPTQ, gptq(matrix, with_groups=False)),
        (GPTQ_V2, gptq(matrix, version=2, with_groups=False)),
    ):
        found = PackedMatrix(spec, **parts).unpack()

        assert torch.equal(found.q.long(), q)
        assert torch.equal(found.zeros.long(), zeros)
        assert torch.equal(found.dense(torch.float32), matrix.dense())


def test_words_are_as_the_formats_define_them() -> None:
    """By hand: the eight numbers 1 to 8, in a word each."""
    numbers = torch.arange(1, 9)
    row = Rounded(numbers[None], numbers[None], torch.ones(1, 8).half(), torch.zeros(1, dtype=torch.int64))

    assert awq(row)["qweight"].tolist() == [[0x86427531 - 2**32]]
    assert gptq(row)["qzeros"].tolist() == [[0x76543210]]
    column = Rounded(numbers[:, None], numbers[:1, None], torch.ones(1, 1).half(), torch.zeros(8, dtype=torch.int64))
    assert gptq(column, with_groups=False)["qweight"].tolist() == [[0x87654321 - 2**32]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shard_size", ["5GB", "20KB"])
def test_a_model_is_its_float32_self(tmp_path: Path, kind: str, shard_size: str) -> None:
    make_model("qwen2", tmp_path / "source")
    write_packed(tmp_path / "source", tmp_path / "packed", tmp_path / "dense", 32, **KINDS[kind])
    if shard_size != "5GB":
        split(tmp_path / "packed")

    weights = weights_of(tmp_path / "packed")

    expected = load_file(tmp_path / "dense" / "model.safetensors")
    assert set(weights) == set(expected)
    assert len(weights) == len(expected)
    for name, tensor in expected.items():
        assert name in weights
        assert torch.equal(weights.pop(name), tensor), name
        assert name not in weights
    assert not weights


def split(path: Path) -> None:
    """A file for each tensor: the parts of a matrix lie in different ones."""
    tensors = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    weight_map = {name: f"model-{index}.safetensors" for index, name in enumerate(tensors)}
    for name, file in weight_map.items():
        save_file({name: tensors[name]}, path / file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_are_rounded_once_to_the_type_to_compute_in(packed: Path, dtype: torch.dtype) -> None:
    weights = weights_of(packed, dtype)

    expected = load_file(packed.parent / "dense" / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(weights[name], expected[name].to(dtype))


@pytest.mark.parametrize("kind", ["awq", "gptq-act-order"])
def test_a_trained_model_answers_as_its_float32_self(tmp_path: Path, kind: str) -> None:
    source = shared_data("models", "babyllama105")
    write_packed(source, tmp_path / "packed", tmp_path / "dense", 32, **KINDS[kind])
    prompt = json.loads((source / "golden_greedy.json").read_text())["cases"][0]["prompt_ids"]

    answers = [
        greedy(runner_of(tmp_path / name), [prompt], num_tokens=24, chunk_tokens=16) for name in ("packed", "dense")
    ]

    assert answers[0] == answers[1]


def runner_of(path: Path, *, quantize: bool = False) -> Runner:
    decoder = load_decoder(ModelFolder.open(path), quantize=quantize)
    return Runner(decoder, KVCache(decoder.spec, 40, 16))


def test_int8_takes_four_bits_as_it_takes_anything(packed: Path) -> None:
    logits = []
    for name in ("packed", "dense"):
        runner, sequence = runner_of(packed.parent / name, quantize=True), sequence_of("a", range(20))
        logits.append(step(runner, Blocks(runner), [(sequence, 20)])[sequence.id])

    assert torch.equal(*logits)


def test_biases_of_zeros_and_groups_in_order_are_as_if_they_were_not_there(packed: Path) -> None:
    before = dict(weights_of(packed))
    base = "model.layers.0.mlp.up_proj."
    rewrite(packed, **{f"{base}bias": torch.zeros(96).half(), f"{base}g_idx": None})

    after = dict(weights_of(packed))

    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


BASE = "model.layers.1.self_attn.o_proj."


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({f"{BASE}qweight": None}, f"lacks tensor {BASE}qweight"),
        ({f"{BASE}scales": None}, f"lacks tensor {BASE}scales"),
        ({f"{BASE}weight": torch.zeros(64, 64)}, f"holds tensor {BASE}weight"),
        ({f"{BASE}qweight": torch.zeros(8, 64)}, f"{BASE}qweight is F32; supported: I32"),
        ({f"{BASE}qweight": torch.zeros(64, 8).int()}, rf"{BASE}qweight has shape \[64, 8\]"),
        ({f"{BASE}qzeros": torch.zeros(2, 16).int()}, rf"{BASE}qzeros has shape \[2, 16\]"),
        ({f"{BASE}scales": torch.zeros(2, 64).int()}, f"{BASE}scales is I32; supported: BF16"),
        ({f"{BASE}scales": torch.zeros(4, 64)}, rf"{BASE}scales has shape \[4, 64\]"),
        ({f"{BASE}g_idx": torch.zeros(65).int()}, f"{BASE}g_idx has shape"),
        ({f"{BASE}g_idx": torch.full((64,), 2).int()}, f"{BASE}g_idx names a group that is none of its 2"),
        ({f"{BASE}g_idx": torch.full((64,), -1).int()}, f"{BASE}g_idx names a group"),
        ({f"{BASE}bias": torch.ones(64).half()}, f"{BASE}bias is not zero, and Llama"),
        ({f"{BASE}bias": torch.ones(65).half()}, f"{BASE}bias has shape"),
        ({"lm_head.weight": None}, "lacks tensor lm_head.weight"),
    ],
)
def test_tensors_that_do_not_fit_are_named(packed: Path, changes: dict[str, Any], named: str) -> None:
    rewrite(packed, **changes)

    with pytest.raises(ConfigError, match=named):
        weights_of(packed)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"group_size": 24}, "not in words of 8 and groups of 24"),
        ({"group_size": 2**30}, "not in words of 8 and groups of 1073741824"),
        ({"group_size": -1}, "has shape"),
        ({"quant_method": "awq", "zero_point": True}, "g_idx.*which Llama"),
    ],
)
def test_a_config_that_its_tensors_do_not_follow_is_refused(packed: Path, fields: dict[str, Any], named: str) -> None:
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"] |= fields
    (packed / "config.json").write_text(json.dumps(config))

    with pytest.raises(ConfigError, match=named):
        weights_of(packed)


def test_inputs_in_any_order_need_their_groups(packed: Path) -> None:
    rewrite(packed, **{f"{BASE}g_idx": None})
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"]["desc_act"] = True
    (packed / "config.json").write_text(json.dumps(config))

    with pytest.raises(ConfigError, match=f"lacks tensor {BASE}g_idx"):
        weights_of(packed)


def test_one_group_may_be_all_inputs(tmp_path: Path) -> None:
    make_model("llama", tmp_path / "source", intermediate_size=64)
    write_packed(tmp_path / "source", tmp_path / "packed", tmp_path / "dense", 64, **AWQ_CONFIG)
    config = json.loads((tmp_path / "packed" / "config.json").read_text())
    config["quantization_config"]["group_size"] = -1
    (tmp_path / "packed" / "config.json").write_text(json.dumps(config))

    weights = weights_of(tmp_path / "packed")

    expected = load_file(tmp_path / "dense" / "model.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
