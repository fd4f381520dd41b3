"""Reads `quantization_config`, with which a checkpoint says that its matrices are not stored as numbers of one type.

What AWQ and GPTQ write in four bits is read, and what compressed-tensors writes in eight; anything else is refused by
name. Knows what config.json says. Does not know tensors: how they are packed is in `engine/four_bit.py` and
`engine/eight_bit.py`.
"""

from engine.models.fields import Fields, refuse
from engine.models.spec import EightBitSpec, FourBitSpec, Packing

# fmt: off
_HARMLESS = frozenset(
    {
        "act_group_aware", "backend", "batch_size", "block_name_to_quantize", "cache_block_outputs",
        "damp_auto_increment", "damp_percent", "dataset", "desc_act", "disable_exllama", "do_fuse", "exllama_config",
        "fuse_max_seq_len", "global_compression_ratio", "max_input_length", "meta", "model_file_base_name",
        "model_name_or_path", "model_seqlen", "module_name_preceding_first_block", "modules_to_fuse", "mse",
        "pad_token_id", "quantizer", "static_groups", "sym", "tokenizer", "true_sequential", "use_cuda_fp16",
        "use_exllama", "version",
    }
)
# fmt: on
"""How the weights were found, and with what others multiply them."""
_NEUTRAL: dict[str, object] = {
    "adapter": None,
    "dynamic": {},
    "is_marlin_format": False,
    "kv_cache_scheme": None,
    "lm_head": False,
    "modules_in_block_to_quantize": None,
    "pack_dtype": "int32",
    "quantization_status": "compressed",
    "rotation": None,
    "transform_config": {},
}
_NEVER_PACKED = frozenset({"lm_head", "embed_tokens", "model.embed_tokens"})


def matrices_spec(fields: Fields) -> FourBitSpec | EightBitSpec | None:
    """What `quantization_config` says; None where there is none. ConfigError names the field that cannot be served."""
    stated = fields.inner("quantization_config")
    if stated is None:
        return None
    spec: FourBitSpec | EightBitSpec
    match stated.text("quant_method"):
        case "awq":
            spec = _awq(stated)
        case "gptq":
            spec = _gptq(stated)
        case "compressed-tensors":
            spec = _compressed_tensors(stated)
        case other:
            raise refuse(stated.name("quant_method"), f"is {other[:80]!r}; supported: awq, gptq, compressed-tensors")
    stated.judge_rest(_HARMLESS, _NEUTRAL)
    return spec


def _awq(stated: Fields) -> FourBitSpec:
    if (version := stated.text("version", stated.text("format", "gemm"))).lower() != "gemm":
        raise refuse(stated.name("version"), f"is {version[:80]!r}, only 'gemm' is supported")
    stated.only("zero_point", True)
    if stated.get("backend") == "llm-awq":
        raise refuse(stated.name("backend"), "is 'llm-awq', which packs in another order")
    _only_never_packed(stated, "modules_to_not_convert")
    return FourBitSpec(packing=Packing.AWQ, group_size=_group_size(stated))


def _gptq(stated: Fields) -> FourBitSpec:
    kind = stated.text("checkpoint_format", stated.text("format", "gptq"))
    if kind not in ("gptq", "gptq_v2"):
        raise refuse(stated.name("checkpoint_format"), f"is {kind[:80]!r}; supported: gptq, gptq_v2")
    in_any_order = stated.flag("desc_act", False) and not stated.flag("static_groups", False)
    return FourBitSpec(
        packing=Packing.GPTQ,
        group_size=_group_size(stated),
        zeros_less_one=kind == "gptq",
        needs_order=in_any_order,
    )


def _group_size(stated: Fields) -> int | None:
    _only_bits(stated, "bits", 4)
    size = stated.integer("group_size", low=-1)
    if size == 0:
        raise refuse(stated.name("group_size"), "is 0, expected a number of inputs, or -1 for all of them")
    return None if size == -1 else size


def _compressed_tensors(stated: Fields) -> EightBitSpec:
    """One group of all matrices. How activations are to be rounded is not followed; with static scales it could not."""
    kind = stated.text("format")
    if kind not in ("int-quantized", "float-quantized"):
        raise refuse(stated.name("format"), f"is {kind[:80]!r}; supported: int-quantized, float-quantized")
    _only_never_packed(stated, "ignore")
    if sparsity := stated.inner("sparsity_config"):
        sparsity.only("format", "dense")
    groups = stated.get("config_groups")
    if not isinstance(groups, dict) or len(groups) != 1:
        raise refuse(stated.name("config_groups"), "is not one group of matrices")
    group = Fields(groups, f"{stated.name('config_groups')}.").inner(next(iter(groups)))
    weights = group.inner("weights") if group else None
    if group is None or weights is None:
        raise refuse(stated.name("config_groups"), "says nothing of weights")
    group.only("targets", ["Linear"])
    group.only("format", kind)
    group.only("output_activations", None)
    activations = group.inner("input_activations")
    if activations is not None and not activations.flag("dynamic", False):
        raise refuse(activations.name("dynamic"), "is false: scales of activations that are in the file are not read")
    return _scaled_weights(weights, is_float=kind == "float-quantized")


def _scaled_weights(weights: Fields, *, is_float: bool) -> EightBitSpec:
    _only_bits(weights, "num_bits", 8)
    if (kind := weights.text("type")) != ("float" if is_float else "int"):
        raise refuse(weights.name("type"), f"is {kind[:80]!r}, which contradicts format")
    weights.only("symmetric", True)
    weights.only("dynamic", False)
    if (strategy := weights.text("strategy")) not in ("channel", "tensor"):
        raise refuse(weights.name("strategy"), f"is {strategy[:80]!r}; supported: channel, tensor")
    return EightBitSpec(is_float=is_float, per_output=strategy == "channel")


def _only_bits(stated: Fields, key: str, bits: int) -> None:
    if (found := stated.integer(key)) != bits:
        raise refuse(stated.name(key), f"is {found}, only {bits} is supported")


def _only_never_packed(stated: Fields, key: str) -> None:
    """`key` lists what is not packed, which may be nothing that we would look for in another form."""
    names = stated.get(key)
    if names is None:
        return
    if not isinstance(names, list) or not all(isinstance(name, str) and name in _NEVER_PACKED for name in names):
        raise refuse(stated.name(key), "names more than lm_head, which is not supported")
