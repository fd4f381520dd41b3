"""The part of config.json that the four families spell alike.

Knows the common fields and their limits. Does not know what one family adds: it passes that in.
"""

from dataclasses import dataclass

from engine.models.fields import Fields, refuse, rope_spec
from engine.models.quantization import matrices_spec
from engine.models.spec import ModelSpec, RopeKind, RopeSpec

MIN_HEAD_DIM, MAX_HEAD_DIM = 8, 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What one family decides by itself."""

    architecture: str
    num_kv_heads: int | None = None
    """Used where the config has none; None makes the field required."""
    head_dim: int | None = None
    """Used where the config has none; None divides hidden_size by the heads."""
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    sliding_layers: frozenset[int] = frozenset()


def decoder_spec(fields: Fields, family: Family) -> ModelSpec:
    """The whole spec, after every field has been read and judged."""
    num_heads = fields.integer("num_attention_heads")
    num_kv_heads = fields.integer("num_key_value_heads", family.num_kv_heads)
    if num_heads % num_kv_heads:
        raise refuse("num_key_value_heads", f"is {num_kv_heads}, which does not divide num_attention_heads {num_heads}")
    max_positions = fields.integer("max_position_embeddings")
    activation = fields.text("hidden_act")
    if activation not in ("silu", "swish"):
        raise refuse("hidden_act", f"is {activation!r}, only 'silu' is supported")
    rope = rope_spec(fields, max_positions)
    max_context = _max_context(rope, max_positions)
    # A window no shorter than the context hides nothing.
    slides = family.sliding_window is not None and family.sliding_window < max_context and bool(family.sliding_layers)
    spec = ModelSpec(
        architecture=family.architecture,
        vocab_size=fields.integer("vocab_size"),
        hidden_size=fields.integer("hidden_size"),
        num_layers=fields.num_layers(),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=_head_dim(fields, num_heads, family.head_dim),
        mlp_size=fields.integer("intermediate_size"),
        rms_eps=fields.number("rms_norm_eps"),
        rope=rope,
        max_context=max_context,
        tied_embeddings=fields.flag("tie_word_embeddings", False),
        qkv_bias=family.qkv_bias,
        output_bias=family.output_bias,
        mlp_bias=family.mlp_bias,
        qk_norm=family.qk_norm,
        sliding_window=family.sliding_window if slides else None,
        sliding_layers=family.sliding_layers if slides else frozenset(),
        source_dtype=_source_dtype(fields),
        matrices=matrices_spec(fields),
    )
    fields.judge_rest()
    return spec


def sliding_window(fields: Fields) -> int | None:
    """The window; null is none, and a config that does not mention it means the 4096 of transformers."""
    if fields.is_missing("sliding_window"):
        return 4096
    return fields.integer("sliding_window") if fields.has("sliding_window") else None


def layer_windows(fields: Fields) -> tuple[int | None, frozenset[int]]:
    """Qwen's sliding layers: `layer_types`, or all from `max_window_layers` on, once `use_sliding_window` is true."""
    num_layers, first = fields.num_layers(), fields.integer("max_window_layers", 28, low=0)
    window = sliding_window(fields)
    if not fields.flag("use_sliding_window", False):
        window = None
    layer_types = fields.get("layer_types")
    if layer_types is None:
        return window, frozenset(range(first, num_layers)) if window is not None else frozenset()
    layers = sliding_layer_types(layer_types, num_layers)
    if layers and window is None:
        raise refuse("layer_types", "names sliding layers, but no sliding_window is in use")
    return window, layers


def sliding_layer_types(value: object, num_layers: int) -> frozenset[int]:
    """Indices of the sliding layers in a `layer_types` list."""
    if not isinstance(value, list) or len(value) != num_layers:
        raise refuse("layer_types", f"must list the {num_layers} layers")
    for kind in value:
        if kind not in ("full_attention", "sliding_attention"):
            raise refuse("layer_types", f"holds {kind!r}; supported: full_attention, sliding_attention")
    return frozenset(index for index, kind in enumerate(value) if kind == "sliding_attention")


def _head_dim(fields: Fields, num_heads: int, default: int | None) -> int:
    hidden_size = fields.integer("hidden_size")
    if not fields.has("head_dim") and default is None and hidden_size % num_heads:
        raise refuse("hidden_size", f"is {hidden_size}, which num_attention_heads {num_heads} does not divide")
    head_dim = fields.integer("head_dim", default or hidden_size // num_heads)
    if head_dim % 2 or not MIN_HEAD_DIM <= head_dim <= MAX_HEAD_DIM:
        raise refuse("head_dim", f"is {head_dim}, expected an even number from {MIN_HEAD_DIM} to {MAX_HEAD_DIM}")
    return head_dim


def _max_context(rope: RopeSpec, max_positions: int) -> int:
    """YaRN configs may still state the context before stretching; the other kinds state the one after."""
    if rope.kind is RopeKind.YARN:
        return max(max_positions, int(rope.original_max_context * rope.factor))
    return max_positions


def _source_dtype(fields: Fields) -> str | None:
    key = "dtype" if fields.has("dtype") else "torch_dtype"
    if not fields.has(key):
        return None
    dtype = fields.text(key).removeprefix("torch.")
    if dtype not in ("float32", "bfloat16", "float16"):
        raise refuse(key, f"is {dtype!r}; supported: float32, bfloat16, float16")
    return dtype
