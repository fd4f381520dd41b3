"""Mistral: no biases; every layer slides when the config has a window."""

from engine.models.decoder_spec import Family, decoder_spec, sliding_layer_types, sliding_window
from engine.models.fields import Fields, refuse
from engine.models.spec import ModelSpec


def mistral(fields: Fields) -> ModelSpec:
    num_layers, window = fields.num_layers(), sliding_window(fields)
    layers = frozenset(range(num_layers)) if window is not None else frozenset()
    layer_types = fields.get("layer_types")
    if layer_types is not None and sliding_layer_types(layer_types, num_layers) != layers:
        raise refuse("layer_types", "does not agree with sliding_window, which counts for every layer of Mistral")
    for bias in ("attention_bias", "mlp_bias"):
        fields.only(bias, False)
    family = Family(architecture="MistralForCausalLM", sliding_window=window, sliding_layers=layers)
    return decoder_spec(fields, family)
