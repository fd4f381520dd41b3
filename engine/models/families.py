"""Picks the family of a config.json. Knows names only."""

from collections.abc import Mapping

from engine.models.fields import Fields, refuse
from engine.models.llama import llama
from engine.models.mistral import mistral
from engine.models.qwen2 import qwen2
from engine.models.qwen3 import qwen3
from engine.models.spec import ModelSpec

_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def model_spec(config: Mapping[str, object]) -> ModelSpec:
    """What the checkpoint of `config` computes; ConfigError names the field that cannot be served."""
    fields = Fields(config)
    match architecture(fields):
        case "LlamaForCausalLM":
            return llama(fields)
        case "MistralForCausalLM":
            return mistral(fields)
        case "Qwen2ForCausalLM":
            return qwen2(fields)
        case "Qwen3ForCausalLM":
            return qwen3(fields)
        case unknown:
            supported = ", ".join(_ARCHITECTURES.values())
            raise refuse("architectures", f"is {unknown!r}; supported: {supported}")


def architecture(fields: Fields) -> str:
    """The name in `architectures`, or the one that `model_type` stands for where that is missing."""
    match fields.get("architectures"):
        case [str(name)]:
            return name
        case None:
            model_type = fields.text("model_type")
            if model_type not in _ARCHITECTURES:
                raise refuse("model_type", f"is {model_type!r}; supported: {', '.join(_ARCHITECTURES)}")
            return _ARCHITECTURES[model_type]
        case other:
            raise refuse("architectures", f"is {other!r}, expected a list of one name")
