"""The tensors of a model's checkpoint: their names, as transformers saves them, and their shapes."""

from engine.models.spec import ModelSpec

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def expected_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """The name and shape of every tensor of a model, as transformers saves it."""
    hidden, query, kv, mlp = spec.hidden_size, spec.query_size, spec.kv_size, spec.mlp_size
    matrices = {
        "self_attn.q_proj": (query, hidden, spec.qkv_bias),
        "self_attn.k_proj": (kv, hidden, spec.qkv_bias),
        "self_attn.v_proj": (kv, hidden, spec.qkv_bias),
        "self_attn.o_proj": (hidden, query, spec.output_bias),
        "mlp.gate_proj": (mlp, hidden, spec.mlp_bias),
        "mlp.up_proj": (mlp, hidden, spec.mlp_bias),
        "mlp.down_proj": (hidden, mlp, spec.mlp_bias),
    }
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    for name, (rows, columns, has_bias) in matrices.items():
        layer[f"{name}.weight"] = (rows, columns)
        if has_bias:
            layer[f"{name}.bias"] = (rows,)
    if spec.qk_norm:
        layer["self_attn.q_norm.weight"] = layer["self_attn.k_norm.weight"] = (spec.head_dim,)
    shapes = {f"model.layers.{i}.{name}": shape for i in range(spec.num_layers) for name, shape in layer.items()}
    shapes |= {EMBEDDING: (spec.vocab_size, hidden), "model.norm.weight": (hidden,)}
    return shapes if spec.tied_embeddings else shapes | {HEAD: (spec.vocab_size, hidden)}
