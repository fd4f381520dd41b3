"""Reads `quantization_config`, with which a checkpoint says that its matrices are not stored as numbers of one type.

Four bits as AWQ and GPTQ write them are read; anything else is refused by name. Knows what config.json says. Does not
know tensors: how they are packed is in `engine/four_bit.py`.
"""

from engine.models.fields import Fields, refuse
from engine.models.spec import FourBitSpec, Packing

# fmt: off
_HARMLESS = frozenset(
    {
        "act_group_aware", "backend", "batch_size", "block_name_to_quantize", "cache_block_outputs",
        "damp_auto_increment", "damp_percent", "dataset", "desc_act", "disable_exllama", "do_fuse", "exllama_config",
        "fuse_max_seq_len", "max_input_length", "meta", "model_file_base_name", "model_name_or_path", "model_seqlen",
        "module_name_preceding_first_block", "modules_to_fuse", "mse", "pad_token_id", "quantizer", "static_groups",
        "sym", "tokenizer", "true_sequential", "use_cuda_fp16", "use_exllama",
    }
)
# fmt: on
"""How the weights were found, and with what others multiply them."""
_NEUTRAL: dict[str, object] = {
    "adapter": None,
    "dynamic": {},
    "is_marlin_format": False,
    "lm_head": False,
    "modules_in_block_to_quantize": None,
    "pack_dtype": "int32",
    "rotation": None,
}
_NEVER_PACKED = frozenset({"lm_head", "embed_tokens", "model.embed_tokens"})


def four_bit_spec(fields: Fields) -> FourBitSpec | None:
    """What `quantization_config` says; None where there is none. ConfigError names the field that cannot be served."""
    stated = fields.inner("quantization_config")
    if stated is None:
        return None
    match stated.text("quant_method"):
        case "awq":
            spec = _awq(stated)
        case "gptq":
            spec = _gptq(stated)
        case other:
            raise refuse(stated.name("quant_method"), f"is {other[:80]!r}; supported: awq, gptq")
    if (bits := stated.integer("bits")) != 4:
        raise refuse(stated.name("bits"), f"is {bits}, only 4 is supported")
    stated.judge_rest(_HARMLESS, _NEUTRAL)
    return spec


def _awq(stated: Fields) -> FourBitSpec:
    if (version := stated.text("version", stated.text("format", "gemm"))).lower() != "gemm":
        raise refuse(stated.name("version"), f"is {version[:80]!r}, only 'gemm' is supported")
    stated.only("zero_point", True)
    if stated.get("backend") == "llm-awq":
        raise refuse(stated.name("backend"), "is 'llm-awq', which packs in another order")
    unpacked = stated.get("modules_to_not_convert")
    if unpacked is not None and not _are_never_packed(unpacked):
        raise refuse(stated.name("modules_to_not_convert"), "names more than lm_head, which is not supported")
    return FourBitSpec(packing=Packing.AWQ, group_size=_group_size(stated))


def _gptq(stated: Fields) -> FourBitSpec:
    kind = stated.text("checkpoint_format", stated.text("format", "gptq"))
    if kind not in ("gptq", "gptq_v2"):
        raise refuse(stated.name("checkpoint_format"), f"is {kind[:80]!r}; supported: gptq, gptq_v2")
    stated.flag("sym", True)  # the zeros are in the file either way
    in_any_order = stated.flag("desc_act", False) and not stated.flag("static_groups", False)
    return FourBitSpec(
        packing=Packing.GPTQ,
        group_size=_group_size(stated),
        zeros_less_one=kind == "gptq",
        needs_order=in_any_order,
    )


def _group_size(stated: Fields) -> int | None:
    size = stated.integer("group_size", low=-1)
    if size == 0:
        raise refuse(stated.name("group_size"), "is 0, expected a number of inputs, or -1 for all of them")
    return None if size == -1 else size


def _are_never_packed(names: object) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) and name in _NEVER_PACKED for name in names)
