"""The JSON that Ollama's clients read. The Structs are encoded as they are, and are the schemas of `/openapi.json`."""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

Nanoseconds = Annotated[int, Meta(description="Nanoseconds.")]


class OllamaTopLogprob(Struct, frozen=True, kw_only=True):
    token: str
    logprob: float
    bytes: list[int]


class OllamaLogprob(OllamaTopLogprob, frozen=True, kw_only=True):
    top_logprobs: list[OllamaTopLogprob] | UnsetType = UNSET


class OllamaCalledFunction(Struct, frozen=True, kw_only=True):
    index: int
    name: str
    arguments: Annotated[Raw, Meta(extra_json_schema={"type": "object"})]


class OllamaAnswerCall(Struct, frozen=True, kw_only=True):
    id: str
    function: OllamaCalledFunction


class OllamaAnswerMessage(Struct, frozen=True, kw_only=True):
    role: Literal["assistant"] = "assistant"
    content: str = ""
    thinking: str | UnsetType = UNSET
    tool_calls: list[OllamaAnswerCall] | UnsetType = UNSET


class OllamaAnswer(Struct, frozen=True, kw_only=True):
    """One line of a stream, or a whole answer. Of a stream, only the last line has what follows `done`."""

    model: str
    created_at: datetime
    done: bool = False
    done_reason: Literal["stop", "length", "load"] | UnsetType = UNSET
    total_duration: Nanoseconds | UnsetType = UNSET
    load_duration: Nanoseconds | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: Nanoseconds | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: Nanoseconds | UnsetType = UNSET
    logprobs: list[OllamaLogprob] | UnsetType = UNSET


class OllamaGenerateResponse(OllamaAnswer, frozen=True, kw_only=True):
    response: str = ""
    thinking: str | UnsetType = UNSET
    context: list[int] | UnsetType = UNSET


class OllamaChatResponse(OllamaAnswer, frozen=True, kw_only=True):
    message: OllamaAnswerMessage


class OllamaDetails(Struct, frozen=True, kw_only=True):
    """Empty where it is not known."""

    parent_model: str = ""
    format: Literal["safetensors"] = "safetensors"
    family: str = ""
    families: list[str] = []
    parameter_size: str = ""
    quantization_level: str = ""


class OllamaModel(Struct, frozen=True, kw_only=True):
    name: str
    model: str
    modified_at: datetime
    size: Annotated[int, Meta(description="Bytes of its weights' files.")]
    digest: Annotated[str, Meta(description="Of its name and size.")]
    details: OllamaDetails
    capabilities: list[str]


class OllamaModels(Struct, frozen=True, kw_only=True):
    models: list[OllamaModel]


class OllamaLoadedModel(Struct, frozen=True, kw_only=True):
    name: str
    model: str
    size: int
    digest: str
    details: OllamaDetails
    expires_at: Annotated[datetime, Meta(description="Far off: models stay loaded.")]
    size_vram: Annotated[int, Meta(description="Always 0: where workers hold it is not known here.")] = 0
    context_length: int


class OllamaLoadedModels(Struct, frozen=True, kw_only=True):
    models: list[OllamaLoadedModel]


class OllamaShowResponse(Struct, frozen=True, kw_only=True):
    modelfile: str
    template: Annotated[str, Meta(description="The chat template, in Jinja.")]
    details: OllamaDetails
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: datetime


class OllamaVersion(Struct, frozen=True, kw_only=True):
    version: Annotated[str, Meta(description="Of the Ollama whose API this is.")]
