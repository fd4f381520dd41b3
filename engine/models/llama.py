"""Llama 1 to 3.x, and the many models saved under its name: optional biases, no window."""

from engine.models.decoder_spec import Family, decoder_spec
from engine.models.fields import Fields
from engine.models.spec import ModelSpec


def llama(fields: Fields) -> ModelSpec:
    bias = fields.flag("attention_bias", False)
    fields.only("sliding_window", None)
    fields.only("layer_types", ["full_attention"] * fields.num_layers())
    return decoder_spec(
        fields,
        Family(
            architecture="LlamaForCausalLM",
            num_kv_heads=fields.integer("num_attention_heads"),
            qkv_bias=bias,
            output_bias=bias,
            mlp_bias=fields.flag("mlp_bias", False),
        ),
    )
