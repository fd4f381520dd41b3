"""Our decoder against transformers: every family, shape, rope kind and checkpoint type that we claim."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.rivals.models import QUANTIZATION
from engine.cache import KVCache
from engine.checkpoint import ModelFolder
from engine.errors import ConfigError
from engine.models.families import model_spec
from engine.models.spec import EightBitSpec, FourBitSpec, Packing, RopeSpec
from engine.runner import Runner, load_decoder
from tests.reference import Blocks, greedy, load_reference, make_model, reference_logits, sequence_of, step
from tests.shared_data import shared_data

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 32}
AWQ = {"quant_method": "awq", "version": "GEMM", "bits": 4, "group_size": 128, "zero_point": True}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": True, "desc_act": False}
W8A8 = QUANTIZATION  # as the bench writes it for vLLM


def w8a8(**fields: Any) -> dict[str, Any]:
    """With other words for its one group."""
    (group,) = W8A8["config_groups"].values()
    return {**W8A8, "config_groups": {"g": {**group, **fields}}}


# Kernels are compiled for each head size with each number of query heads to a KV head: few such pairs, here and in
# `tests/frontend/test_families.py`, have every size and every number.
CASES: dict[str, dict[str, Any]] = {
    "llama": {"family": "llama"},
    "llama-odd-sizes": {"family": "llama", "hidden_size": 44, "intermediate_size": 74, "vocab_size": 101},
    "llama-mha-tied": {"family": "llama", "num_key_value_heads": 4, "tie_word_embeddings": True},
    "llama-mqa": {"family": "llama", "num_key_value_heads": 1, "head_dim": 64},
    "llama-head-8": {"family": "llama", "head_dim": 8},
    "llama-head-20": {"family": "llama", "head_dim": 20, "num_key_value_heads": 4},
    "llama-head-64": {"family": "llama", "head_dim": 64},
    "llama-head-256": {"family": "llama", "head_dim": 256, "num_hidden_layers": 1},
    "llama-biases": {"family": "llama", "attention_bias": True, "mlp_bias": True},
    "llama-bfloat16": {"family": "llama", "dtype": "bfloat16"},
    "llama-float16-sharded": {"family": "llama", "dtype": "float16", "shard_size": "20KB"},
    "llama-linear": {"family": "llama", "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
    "llama-llama3": {"family": "llama", "rope_parameters": LLAMA3},
    "llama-yarn": {"family": "llama", "rope_parameters": YARN},
    "llama-yarn-mscale": {
        "family": "llama",
        "rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.1, "beta_fast": 16.0, "truncate": False},
    },
    "mistral": {"family": "mistral", "sliding_window": None},
    "mistral-window": {"family": "mistral", "sliding_window": 11},
    "mistral-window-head-64": {"family": "mistral", "sliding_window": 24, "head_dim": 64, "tie_word_embeddings": True},
    "qwen2": {"family": "qwen2"},
    "qwen2-window": {
        "family": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 13,
        "max_window_layers": 1,
        "tie_word_embeddings": True,
    },
    "qwen2-yarn": {"family": "qwen2", "rope_parameters": {**YARN, "attention_factor": 1.3}, "num_key_value_heads": 4},
    "qwen3": {"family": "qwen3", "tie_word_embeddings": True},
    "qwen3-biases-head-64": {"family": "qwen3", "attention_bias": True, "head_dim": 64, "num_key_value_heads": 1},
    "qwen3-layer-types": {
        "family": "qwen3",
        "use_sliding_window": True,
        "sliding_window": 9,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}


def prompt(num_tokens: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 97, (num_tokens,), generator=torch.Generator().manual_seed(seed)).tolist()


def runner_of(folder: Path, block_tokens: int, num_blocks: int = 120) -> Runner:
    decoder = load_decoder(ModelFolder.open(folder))
    return Runner(decoder, KVCache(decoder.spec, num_blocks, block_tokens))


@pytest.fixture(
    scope="module",
    params=[pytest.param(case, marks=pytest.mark.slow) if case == "llama-head-256" else case for case in CASES],
)
def model_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    case = dict(CASES[request.param])
    make_model(case.pop("family"), folder, **case)
    return folder


def test_parameters_are_those_that_transformers_counts(model_folder: Path) -> None:
    spec = model_spec(json.loads((model_folder / "config.json").read_text()))
    assert spec.num_parameters == load_reference(model_folder).num_parameters()


@pytest.mark.parametrize("block_tokens", [4, 16, 32])
def test_logits_agree_with_transformers_however_the_prompt_is_cut(model_folder: Path, block_tokens: int) -> None:
    tokens = prompt(61)
    expected = reference_logits(load_reference(model_folder), tokens)
    runner = runner_of(model_folder, block_tokens)

    for cuts in ([61], [60, 1], [7, 7, 1, 7, 17, 5, 17], [1] * 61):
        blocks, sequence = Blocks(runner), sequence_of("a", tokens)
        for cut in cuts:
            logits = step(runner, blocks, [(sequence, cut)])

        torch.testing.assert_close(logits[sequence.id], expected[-1], atol=1e-4, rtol=0)


def test_greedy_answers_agree_with_transformers_in_a_mixed_batch(model_folder: Path) -> None:
    prompts = [prompt(n, seed=n) for n in (1, 37, 18, 5)]
    answers = greedy(runner_of(model_folder, 16), prompts, num_tokens=24, chunk_tokens=9)

    model = load_reference(model_folder)
    for tokens, answer in zip(prompts, answers, strict=True):
        best = reference_logits(model, tokens + answer)[len(tokens) - 1 : -1].argmax(-1)
        assert answer == best.tolist()


@pytest.mark.parametrize(
    ("name", "golden"),
    [
        ("stories260K", "golden_greedy.json"),
        ("stories260K", "golden_long.json"),
        ("babyllama105", "golden_greedy.json"),
    ],
)
def test_goldens_of_trained_models(name: str, golden: str) -> None:
    folder = shared_data("models", name)
    cases = json.loads((folder / golden).read_text())["cases"]

    answers = greedy(
        runner_of(folder, block_tokens=16, num_blocks=200),
        [case["prompt_ids"] for case in cases],
        num_tokens=len(cases[0]["output_ids"]),
        chunk_tokens=32,
    )

    assert answers == [case["output_ids"] for case in cases]


def config_of(family: str, **fields: Any) -> dict[str, Any]:
    """A config.json as transformers 4 wrote them; a field given as DROP is left out."""
    config = {
        "architectures": [{"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}[family] + FOR],
        "model_type": family,
        "vocab_size": 97,
        "hidden_size": 64,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "sliding_window": None,
        **fields,
    }
    return {name: value for name, value in config.items() if value is not DROP}


FOR = "ForCausalLM"
DROP = object()


@pytest.mark.parametrize(
    ("family", "fields", "named"),
    [
        ("llama", {"architectures": ["GPT2LMHeadModel"]}, "architectures"),
        ("llama", {"architectures": ["LlamaForCausalLM", "B"]}, "architectures"),
        ("llama", {"architectures": DROP, "model_type": "gpt2"}, "model_type"),
        ("llama", {"architectures": DROP, "model_type": DROP}, "model_type"),
        ("llama", {"hidden_size": DROP}, "hidden_size"),
        ("llama", {"vocab_size": DROP}, "vocab_size"),
        ("llama", {"rms_norm_eps": DROP}, "rms_norm_eps"),
        ("qwen2", {"num_key_value_heads": DROP}, "num_key_value_heads"),
        ("llama", {"hidden_size": "64"}, "hidden_size"),
        ("llama", {"hidden_size": True}, "hidden_size"),
        ("llama", {"vocab_size": 0}, "vocab_size"),
        ("llama", {"rms_norm_eps": -1.0}, "rms_norm_eps"),
        ("llama", {"rms_norm_eps": 10**400}, "rms_norm_eps"),
        ("llama", {"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ("llama", {"vocab_size": 1e300}, "vocab_size"),
        ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ("mistral", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ("qwen2", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ("llama", {"rope_scaling": {**YARN, "factor": 1e308}}, "rope_scaling.factor"),
        ("llama", {"rope_scaling": {**YARN, "rope_theta": 1.0}}, "rope_scaling.rope_theta"),
        ("llama", {"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act"),
        ("llama", {"torch_dtype": "float8_e4m3fn"}, "torch_dtype"),
        ("llama", {"dtype": "int8"}, "dtype"),
        ("llama", {"quantization_config": [4]}, "quantization_config"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config.quant_method"),
        ("llama", {"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config.quant_method"),
        ("llama", {"quantization_config": {"quant_method": "awq", "bits": 4}}, "quantization_config.group_size"),
        ("llama", {"quantization_config": {**AWQ, "group_size": 0}}, "quantization_config.group_size"),
        ("llama", {"quantization_config": {**AWQ, "group_size": -2}}, "quantization_config.group_size"),
        ("llama", {"quantization_config": {**AWQ, "bits": 3}}, "quantization_config.bits"),
        ("llama", {"quantization_config": {**AWQ, "version": "gemv"}}, "quantization_config.version"),
        ("llama", {"quantization_config": {**AWQ, "zero_point": False}}, "quantization_config.zero_point"),
        ("llama", {"quantization_config": {**AWQ, "backend": "llm-awq"}}, "quantization_config.backend"),
        (
            "llama",
            {"quantization_config": {**AWQ, "modules_to_not_convert": ["down_proj"]}},
            "quantization_config.modules_to_not_convert",
        ),
        (
            "llama",
            {"quantization_config": {**AWQ, "modules_to_not_convert": [["lm_head"]]}},
            "quantization_config.modules_to_not_convert",
        ),
        ("llama", {"quantization_config": {**GPTQ, "bits": 8}}, "quantization_config.bits"),
        ("llama", {"quantization_config": {**GPTQ, "desc_act": "no"}}, "quantization_config.desc_act"),
        ("llama", {"quantization_config": {**GPTQ, "lm_head": True}}, "quantization_config.lm_head"),
        ("llama", {"quantization_config": {**GPTQ, "dynamic": {"-:.*": {}}}}, "quantization_config.dynamic"),
        (
            "llama",
            {"quantization_config": {**GPTQ, "checkpoint_format": "marlin"}},
            "quantization_config.checkpoint_format",
        ),
        ("llama", {"quantization_config": {**W8A8, "format": "pack-quantized"}}, "quantization_config.format"),
        ("llama", {"quantization_config": {**W8A8, "ignore": ["re:.*mlp.*"]}}, "quantization_config.ignore"),
        ("llama", {"quantization_config": {**W8A8, "kv_cache_scheme": {}}}, "quantization_config.kv_cache_scheme"),
        ("llama", {"quantization_config": {**W8A8, "config_groups": {}}}, "quantization_config.config_groups"),
        (
            "llama",
            {"quantization_config": {**W8A8, "config_groups": {"a": {"targets": ["Linear"]}}}},
            "quantization_config.config_groups",
        ),
        (
            "llama",
            {"quantization_config": {**W8A8, "sparsity_config": {"format": "sparse-24-bitmask"}}},
            "quantization_config.sparsity_config.format",
        ),
        ("llama", {"quantization_config": w8a8(targets=["Conv"])}, "quantization_config.config_groups.g.targets"),
        (
            "llama",
            {"quantization_config": w8a8(input_activations={"num_bits": 8, "dynamic": False})},
            "quantization_config.config_groups.g.input_activations.dynamic",
        ),
        (
            "llama",
            {"quantization_config": w8a8(weights={"num_bits": 4, "type": "int", "strategy": "channel"})},
            "quantization_config.config_groups.g.weights.num_bits",
        ),
        (
            "llama",
            {"quantization_config": w8a8(weights={"num_bits": 8, "type": "float", "strategy": "channel"})},
            "quantization_config.config_groups.g.weights.type",
        ),
        (
            "llama",
            {"quantization_config": w8a8(weights={"num_bits": 8, "type": "int", "strategy": "group"})},
            "quantization_config.config_groups.g.weights.strategy",
        ),
        (
            "llama",
            {
                "quantization_config": w8a8(
                    weights={"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": False}
                )
            },
            "quantization_config.config_groups.g.weights.symmetric",
        ),
        ("llama", {"num_key_value_heads": 3}, "num_key_value_heads"),
        ("llama", {"head_dim": 7}, "head_dim"),
        ("llama", {"head_dim": 6}, "head_dim"),
        ("llama", {"head_dim": 258}, "head_dim"),
        ("llama", {"hidden_size": 66}, "hidden_size"),
        ("llama", {"pretraining_tp": 2}, "pretraining_tp"),
        ("llama", {"sliding_window": 4096}, "sliding_window"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("llama", {"num_experts": 8}, "num_experts"),
        ("llama", {"logits_soft_cap": 30.0}, "logits_soft_cap"),
        ("llama", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("llama", {"residual_multiplier": 0.2}, "residual_multiplier"),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling.rope_type"),
        ("llama", {"rope_scaling": {"rope_type": "longrope"}}, "rope_scaling.rope_type"),
        ("llama", {"rope_scaling": {"type": "linear", "rope_type": "yarn"}}, "rope_scaling.type"),
        ("llama", {"rope_scaling": {"type": "linear"}}, "rope_scaling.factor"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0, "extra": 1}}, "rope_scaling.extra"),
        ("llama", {"rope_scaling": [1]}, "rope_scaling"),
        ("llama", {"rope_parameters": {"mrope_section": [1, 2]}}, "rope_parameters.mrope_section"),
        ("llama", {"rope_parameters": {"full_attention": {}}}, "rope_parameters.full_attention"),
        ("llama", {"rope_parameters": {"rope_theta": "big"}}, "rope_parameters.rope_theta"),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "rope_parameters.partial_rotary_factor"),
        ("llama", {"rope_parameters": {**LLAMA3, "high_freq_factor": 1.0}}, "rope_parameters.high_freq_factor"),
        ("llama", {"rope_parameters": YARN, "rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ("mistral", {"attention_bias": True}, "attention_bias"),
        ("mistral", {"sliding_window": 8, "layer_types": ["full_attention"] * 3}, "layer_types"),
        ("qwen2", {"attention_bias": False}, "attention_bias"),
        ("qwen2", {"mlp_bias": True}, "mlp_bias"),
        ("qwen2", {"layer_types": ["full_attention"]}, "layer_types"),
        ("qwen3", {"layer_types": ["full_attention", "linear_attention", "full_attention"]}, "layer_types"),
        ("qwen3", {"layer_types": ["full_attention", "full_attention", "sliding_attention"]}, "layer_types"),
    ],
)
def test_a_config_that_cannot_be_served_is_refused_by_field(family: str, fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as refused:
        model_spec(config_of(family, **fields))

    assert refused.value.field == named
    assert f"config.json: {named} " in refused.value.message


def test_both_generations_of_config_mean_the_same() -> None:
    old = config_of("llama", rope_theta=500.0, rope_scaling={**LLAMA3, "rope_theta": 500.0}, torch_dtype="bfloat16")
    new = config_of("llama", rope_parameters=LLAMA3, dtype="bfloat16", use_cache=True, transformers_version="5.0.0")

    assert model_spec(old) == model_spec(new)
    assert model_spec(new).source_dtype == "bfloat16"


def test_defaults_are_those_of_transformers() -> None:
    plain = model_spec(config_of("llama", num_key_value_heads=DROP, architectures=DROP))
    assert (plain.num_kv_heads, plain.head_dim, plain.rope) == (4, 16, RopeSpec(theta=10_000.0))
    assert model_spec(config_of("qwen3")).head_dim == 128
    unmentioned = model_spec(config_of("mistral", sliding_window=DROP, max_position_embeddings=8192))
    assert (unmentioned.sliding_window, len(unmentioned.sliding_layers)) == (4096, 3)


def test_windows() -> None:
    window = {"sliding_window": 8, "max_window_layers": 2}
    assert model_spec(config_of("mistral", sliding_window=64)).sliding_window is None, "it hides nothing"
    assert model_spec(config_of("qwen2", **window)).sliding_window is None
    upper = model_spec(config_of("qwen2", use_sliding_window=True, **window))
    assert [upper.window(layer) for layer in range(3)] == [None, None, 8]


def test_yarn_stretches_the_context() -> None:
    from_64 = {**YARN, "original_max_position_embeddings": 64}
    assert model_spec(config_of("llama", rope_parameters=from_64)).max_context == 256
    assert model_spec(config_of("llama", rope_parameters=LLAMA3)).max_context == 64


def test_unknown_fields_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    model_spec(config_of("llama", brand_new_field=1, attention_dropout=0.0, residual_multiplier=1.0, num_experts=None))

    assert caplog.messages == ["config.json: ignoring the unknown field brand_new_field"]


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        (None, None),
        ({}, None),
        (W8A8, EightBitSpec(is_float=False, per_output=True)),
        (
            {
                **w8a8(weights={"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False}),
                "format": "float-quantized",
                "sparsity_config": {},
            },
            EightBitSpec(is_float=True, per_output=False),
        ),
        (AWQ, FourBitSpec(packing=Packing.AWQ, group_size=128)),
        ({**AWQ, "modules_to_not_convert": ["lm_head"]}, FourBitSpec(packing=Packing.AWQ, group_size=128)),
        ({**AWQ, "group_size": -1}, FourBitSpec(packing=Packing.AWQ, group_size=None)),
        (GPTQ, FourBitSpec(packing=Packing.GPTQ, group_size=64, zeros_less_one=True)),
        ({**GPTQ, "checkpoint_format": "gptq_v2"}, FourBitSpec(packing=Packing.GPTQ, group_size=64)),
        ({**GPTQ, "format": "gptq_v2"}, FourBitSpec(packing=Packing.GPTQ, group_size=64)),
        (
            {**GPTQ, "desc_act": True},
            FourBitSpec(packing=Packing.GPTQ, group_size=64, zeros_less_one=True, needs_order=True),
        ),
        (
            {**GPTQ, "desc_act": True, "static_groups": True},
            FourBitSpec(packing=Packing.GPTQ, group_size=64, zeros_less_one=True),
        ),
    ],
)
def test_matrices_are_stored_as_the_config_says(stated: Any, expected: FourBitSpec | EightBitSpec | None) -> None:
    assert model_spec(config_of("llama", quantization_config=stated)).matrices == expected


def test_unknown_words_of_a_quantization_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    model_spec(config_of("llama", quantization_config={**AWQ, "do_fuse": False, "brand_new_field": 1}))

    assert caplog.messages == ["config.json: ignoring the unknown field quantization_config.brand_new_field"]
