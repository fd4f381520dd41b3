"""Reads config.json field by field and refuses, by name, what this engine would compute wrongly.

Knows types, defaults, ranges and which fields are harmless. Does not know families.
"""

import logging
import math
from collections.abc import Mapping

from engine.errors import ConfigError
from engine.models.spec import RopeKind, RopeSpec

logger = logging.getLogger(__name__)

# fmt: off
HARMLESS = frozenset(
    {
        "_attn_implementation_autoset", "_commit_hash", "_name_or_path", "architectures", "attention_dropout",
        "auto_map", "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "chunk_size_feed_forward",
        "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty", "do_sample", "dtype",
        "early_stopping", "embd_pdrop", "encoder_no_repeat_ngram_size", "eos_token_id",
        "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id", "forced_eos_token_id",
        "hidden_dropout", "id2label", "initializer_range", "is_decoder", "label2id", "length_penalty", "max_length",
        "max_sequence_length", "min_length", "model_type", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
        "num_return_sequences", "output_attentions", "output_hidden_states", "output_scores", "pad_token_id",
        "prefix", "problem_type", "remove_invalid_values", "repetition_penalty", "resid_pdrop", "return_dict",
        "return_dict_in_generate", "sep_token_id", "suppress_tokens", "task_specific_params", "temperature",
        "tf_legacy_loss", "tie_encoder_decoder", "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript",
        "transformers.js_config", "transformers_version", "typical_p", "unsloth_fixed", "unsloth_version",
        "use_bfloat16", "use_cache",
    }
)
# fmt: on
"""Fields that do not change what a forward pass computes."""

NEUTRAL: dict[str, object] = {
    "attention_chunk_size": None,
    "attention_multiplier": None,
    "attn_logit_softcapping": None,
    "add_cross_attention": False,
    "alibi": False,
    "clip_qkv": None,
    "compression_config": None,
    "cross_attention_layers": None,
    "dual_chunk_attention_config": None,
    "embedding_multiplier": 1.0,
    "expert_layer_period": None,
    "final_logit_softcapping": None,
    "is_encoder_decoder": False,
    "kv_lora_rank": None,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "logits_soft_cap": None,
    "moe_intermediate_size": None,
    "n_routed_experts": None,
    "no_rope_layer_interval": None,
    "no_rope_layers": None,
    "num_experts": None,
    "num_experts_per_tok": None,
    "num_local_experts": None,
    "num_nextn_predict_layers": 0,
    "parallel_residual": False,
    "pretraining_tp": 1,
    "pruned_heads": {},
    "q_lora_rank": None,
    "qk_layernorm": False,
    "query_pre_attn_scalar": None,
    "residual_multiplier": 1.0,
    "rope_interleaved": False,
    "scale_emb": 1.0,
    "text_config": None,
    "use_qk_norm": False,
    "use_mrope": False,
    "vision_config": None,
}
"""Fields that would change the computation, with the only value that does not (null never does)."""

_ROPE_KEYS: dict[RopeKind, frozenset[str]] = {
    RopeKind.DEFAULT: frozenset(),
    RopeKind.LINEAR: frozenset({"factor"}),
    RopeKind.LLAMA3: frozenset(
        {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    ),
    RopeKind.YARN: frozenset(
        {
            "factor",
            "original_max_position_embeddings",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        }
    ),
}


MAX_INTEGER = 2**31 - 1
MAX_LAYERS = 4_096
MAX_NUMBER = 1e12
"""More than any field of any model; arithmetic with larger ones overflows."""


def refuse(name: str, why: str) -> ConfigError:
    """The error for a config field that cannot be served."""
    return ConfigError(f"config.json: {name} {why}", field=name)


class Fields:
    """One object of config.json; remembers which fields were read, so that the rest can be judged."""

    def __init__(self, values: Mapping[str, object], path: str = "") -> None:
        self._values = values
        self._path = path
        self._read: set[str] = set()

    def name(self, key: str) -> str:
        return self._path + key

    def get(self, key: str) -> object:
        """The field as it stands; None where it is missing or null."""
        self._read.add(key)
        return self._values.get(key)

    def has(self, key: str) -> bool:
        """Whether the field holds a value; null does not count."""
        return self._values.get(key) is not None

    def is_missing(self, key: str) -> bool:
        """Whether the field is not even null."""
        self._read.add(key)
        return key not in self._values

    def integer(self, key: str, default: int | None = None, *, low: int = 1, high: int = MAX_INTEGER) -> int:
        value = self._or_default(key, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise refuse(self.name(key), f"is {value!r}, expected an integer")
        if value < low:
            raise refuse(self.name(key), f"is {value}, expected at least {low}")
        if value > high:
            raise refuse(self.name(key), f"is more than {high}")
        return value

    def num_layers(self) -> int:
        """Bounded well below what a list of all layers would need gigabytes for."""
        return self.integer("num_hidden_layers", high=MAX_LAYERS)

    def number(self, key: str, default: float | None = None) -> float:
        value = self._or_default(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise refuse(self.name(key), f"is {value!r}, expected a number")
        if not 0 < value <= MAX_NUMBER:
            raise refuse(self.name(key), f"is {str(value)[:40]}, expected a positive number of at most {MAX_NUMBER:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._or_default(key, default)
        if not isinstance(value, bool):
            raise refuse(self.name(key), f"is {value!r}, expected true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._or_default(key, default)
        if not isinstance(value, str):
            raise refuse(self.name(key), f"is {value!r}, expected a string")
        return value

    def inner(self, key: str) -> "Fields | None":
        """The object under `key`; None where it is missing, null or empty."""
        value = self.get(key)
        if value is None or value == {}:
            return None
        if not isinstance(value, Mapping):
            raise refuse(self.name(key), f"is {value!r}, expected an object")
        return Fields(value, f"{self.name(key)}.")

    def same(self, other: "Fields") -> bool:
        return self._values == other._values

    def only(self, key: str, allowed: object) -> None:
        """Refuse any value of `key` but `allowed` and null."""
        value = self.get(key)
        if value is not None and value != allowed:
            raise refuse(self.name(key), f"is {value!r}, only {allowed!r} is supported")

    def refuse_unknown(self, known: frozenset[str]) -> None:
        for key in sorted(self._values.keys() - known):
            raise refuse(self.name(key), "is not supported")

    def judge_rest(self, harmless: frozenset[str] = HARMLESS, neutral: Mapping[str, object] = NEUTRAL) -> None:
        """Refuse unread fields known to change the computation; warn of those nobody knows."""
        for key in sorted(self._values.keys() - self._read - harmless):
            if key in neutral:
                self.only(key, neutral[key])
            else:
                logger.warning("config.json: ignoring the unknown field %s", self.name(key))

    def _or_default(self, key: str, default: object) -> object:
        value = self.get(key)
        if value is not None:
            return value
        if default is None:
            raise refuse(self.name(key), "is missing")
        return default


def rope_spec(fields: Fields, max_positions: int) -> RopeSpec:
    """Rotary embeddings from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (4)."""
    fields.only("partial_rotary_factor", 1.0)
    scaling, parameters = fields.inner("rope_scaling"), fields.inner("rope_parameters")
    if scaling and parameters and not scaling.same(parameters):
        raise refuse("rope_scaling", "and rope_parameters contradict each other")
    rope = scaling or parameters or Fields({}, "rope_parameters.")
    kind = _rope_kind(rope)
    rope.refuse_unknown(_ROPE_KEYS[kind] | {"rope_type", "type", "rope_theta", "partial_rotary_factor"})
    rope.only("partial_rotary_factor", 1.0)
    theta = rope.number("rope_theta", fields.number("rope_theta", 10_000.0))
    original = fields.integer(
        "original_max_position_embeddings",
        rope.integer("original_max_position_embeddings", max_positions),
    )
    match kind:
        case RopeKind.DEFAULT:
            return RopeSpec(theta=theta)
        case RopeKind.LINEAR:
            return RopeSpec(theta=theta, kind=kind, factor=rope.number("factor"))
        case RopeKind.LLAMA3:
            return _llama3(rope, theta, original)
        case RopeKind.YARN:
            return _yarn(rope, theta, original, max_positions)


def _rope_kind(rope: Fields) -> RopeKind:
    name = rope.text("rope_type", rope.text("type", "default"))
    if rope.has("type") and rope.text("type") != name:
        raise refuse(rope.name("type"), "contradicts rope_type")
    try:
        return RopeKind(name)
    except ValueError:
        kinds = ", ".join(kind.value for kind in RopeKind)
        raise refuse(rope.name("rope_type"), f"is {name!r}; supported: {kinds}") from None


def _llama3(rope: Fields, theta: float, original: int) -> RopeSpec:
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if high <= low:
        raise refuse(rope.name("high_freq_factor"), f"is {high}, expected more than low_freq_factor")
    return RopeSpec(
        theta=theta,
        kind=RopeKind.LLAMA3,
        factor=rope.number("factor"),
        original_max_context=original,
        low_freq_factor=low,
        high_freq_factor=high,
    )


def _yarn(rope: Fields, theta: float, original: int, max_positions: int) -> RopeSpec:
    if theta <= 1:
        raise refuse(rope.name("rope_theta"), f"is {theta}, expected more than 1")
    factor = rope.number("factor", max_positions / original)
    if rope.has("mscale") and rope.has("mscale_all_dim"):
        inferred = _mscale(factor, rope.number("mscale")) / _mscale(factor, rope.number("mscale_all_dim"))
    else:
        inferred = _mscale(factor, 1.0)
    return RopeSpec(
        theta=theta,
        kind=RopeKind.YARN,
        factor=factor,
        original_max_context=original,
        attention_factor=rope.number("attention_factor", inferred),
        beta_fast=rope.number("beta_fast", 32.0),
        beta_slow=rope.number("beta_slow", 1.0),
        truncate=rope.flag("truncate", True),
    )


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
