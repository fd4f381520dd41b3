"""Qwen 3, dense: query and key heads are normalised before rotation; the upper layers may slide."""

from engine.models.decoder_spec import Family, decoder_spec, layer_windows
from engine.models.fields import Fields
from engine.models.spec import ModelSpec


def qwen3(fields: Fields) -> ModelSpec:
    window, layers = layer_windows(fields)
    bias = fields.flag("attention_bias", False)
    fields.only("mlp_bias", False)
    return decoder_spec(
        fields,
        Family(
            architecture="Qwen3ForCausalLM",
            head_dim=128,
            qkv_bias=bias,
            output_bias=bias,
            qk_norm=True,
            sliding_window=window,
            sliding_layers=layers,
        ),
    )
