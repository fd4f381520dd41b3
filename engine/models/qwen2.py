"""Qwen 2 and 2.5: biases on queries, keys and values only; the upper layers may slide."""

from engine.models.decoder_spec import Family, decoder_spec, layer_windows
from engine.models.fields import Fields
from engine.models.spec import ModelSpec


def qwen2(fields: Fields) -> ModelSpec:
    window, layers = layer_windows(fields)
    fields.only("attention_bias", True)
    fields.only("mlp_bias", False)
    family = Family(architecture="Qwen2ForCausalLM", qkv_bias=True, sliding_window=window, sliding_layers=layers)
    return decoder_spec(fields, family)
