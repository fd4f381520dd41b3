"""What Ollama's clients are told of models: which there are, which are loaded, what they are and can do.

Names are with or without `:latest`. Nothing can be pulled, made or deleted here. Does not know requests to generate.
"""

import hashlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from engine.errors import InvalidRequest, UnknownModel, Unsupported
from engine.models.spec import EightBitSpec, FourBitSpec, ModelSpec
from frontend.api import Inference, ServedModel
from frontend.callers import Caller
from frontend.fields import convert, decode_body, supported
from frontend.rest.middleware import CALLER
from frontend.rest.ollama.answer_types import (
    OllamaDetails,
    OllamaLoadedModel,
    OllamaLoadedModels,
    OllamaModel,
    OllamaModels,
    OllamaShowResponse,
    OllamaVersion,
)
from frontend.rest.ollama.request_types import SHOW_OFF, OllamaShowRequest

Page = Callable[[Request], Awaitable[Response]]

RUNNING = "Ollama is running"
"""What Ollama says at its root, and its clients look for."""
VERSION = "0.33.0"
"""Of the Ollama whose API this is: clients ask for it to know what they may use."""
LATEST = ":latest"
FOREVER = datetime(2300, 1, 1, tzinfo=UTC)
TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def served(inference: Inference, caller: Caller, asked: str) -> ServedModel:
    """The model that a client means by `asked`. Raises InvalidRequest for no name at all, and what
    `Inference.model` does."""
    for name in (asked, asked.removesuffix(LATEST)):
        if not name:
            raise InvalidRequest("model is required", field="model")
        try:
            return inference.model(name, caller)
        except UnknownModel:
            continue
    raise UnknownModel(f"model {asked[:256]!r} not found", field="model")


def tags_page(inference: Inference) -> Page:
    async def tags(request: Request) -> Response:
        return _json(OllamaModels(models=[_listed(model) for model in inference.models(request.scope[CALLER])]))

    return tags


def ps_page(inference: Inference) -> Page:
    async def ps(request: Request) -> Response:
        asked = inference.models(request.scope[CALLER])
        models = [model for model in asked if inference.readiness(model.name).ready]
        return _json(OllamaLoadedModels(models=[_loaded(model) for model in models]))

    return ps


def show_page(inference: Inference) -> Page:
    async def show(request: Request) -> Response:
        fields = supported(decode_body(await request.body()), OllamaShowRequest, SHOW_OFF)
        given = convert(fields, OllamaShowRequest)
        return _json(_shown(served(inference, request.scope[CALLER], given.model or given.name)))

    return show


async def version(request: Request) -> Response:
    return _json(OllamaVersion(version=VERSION))


async def refused(request: Request) -> Response:
    """Of whatever would change which models there are."""
    raise Unsupported(f"{request.url.path} is not supported: this server serves the models that it was started with")


async def blob(request: Request) -> Response:
    """No file of a model is ever here."""
    return Response(status_code=404) if request.method == "HEAD" else await refused(request)


def _listed(model: ServedModel) -> OllamaModel:
    return OllamaModel(
        name=_tagged(model.name),
        model=_tagged(model.name),
        modified_at=_modified(model),
        size=model.size_bytes,
        digest=_digest(model),
        details=_details(model),
        capabilities=_capabilities(model),
    )


def _loaded(model: ServedModel) -> OllamaLoadedModel:
    return OllamaLoadedModel(
        name=_tagged(model.name),
        model=_tagged(model.name),
        size=model.size_bytes,
        digest=_digest(model),
        details=_details(model),
        expires_at=FOREVER,
        context_length=model.max_context,
    )


def _shown(model: ServedModel) -> OllamaShowResponse:
    return OllamaShowResponse(
        modelfile=f"FROM {_tagged(model.name)}\n",
        template=model.chat_template,
        details=_details(model),
        model_info=_info(model),
        capabilities=_capabilities(model),
        modified_at=_modified(model),
    )


def _tagged(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else name + LATEST


def _modified(model: ServedModel) -> datetime:
    return datetime.fromtimestamp(model.created, UTC)


def _digest(model: ServedModel) -> str:
    """Clients tell models by it; there is no manifest that it could be of."""
    return hashlib.sha256(f"{model.name} {model.size_bytes}".encode()).hexdigest()


def _capabilities(model: ServedModel) -> list[str]:
    found = {
        "completion": True,
        "insert": model.infills,
        "tools": model.calls_tools,
        "thinking": model.reasons,
    }
    return [name for name, is_there in found.items() if is_there]


def _details(model: ServedModel) -> OllamaDetails:
    if model.spec is None:
        return OllamaDetails()
    family = _family(model.spec)
    return OllamaDetails(
        family=family,
        families=[family],
        parameter_size=_short(model.spec.num_parameters),
        quantization_level=_stored(model.spec),
    )


def _info(model: ServedModel) -> dict[str, Any]:
    """By the names that GGUF has for it."""
    info: dict[str, Any] = {"general.basename": model.name}
    if (spec := model.spec) is None:
        return info
    family = _family(spec)
    of_family = {
        "context_length": model.max_context,
        "embedding_length": spec.hidden_size,
        "block_count": spec.num_layers,
        "feed_forward_length": spec.mlp_size,
        "attention.head_count": spec.num_heads,
        "attention.head_count_kv": spec.num_kv_heads,
        "attention.key_length": spec.head_dim,
        "attention.value_length": spec.head_dim,
        "rope.freq_base": spec.rope.theta,
        "vocab_size": spec.vocab_size,
    }
    general = {"general.architecture": family, "general.parameter_count": spec.num_parameters}
    return info | general | {f"{family}.{name}": value for name, value in of_family.items()}


def _family(spec: ModelSpec) -> str:
    return spec.architecture.removesuffix("ForCausalLM").lower()


def _stored(spec: ModelSpec) -> str:
    """How the checkpoint's matrices are stored; what workers make of them is theirs."""
    match spec.matrices:
        case FourBitSpec(packing=packing):
            return packing.value.upper()
        case EightBitSpec(is_float=is_float):
            return "FP8" if is_float else "INT8"
        case None:
            return TYPES.get(spec.source_dtype or "", "unknown")


def _short(count: int) -> str:
    """As Ollama writes large numbers: 8.0B, 494.03M."""
    for unit, name, digits in ((10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 2)):
        if count >= unit:
            return f"{count / unit:.{digits}f}{name}"
    return str(count)


def _json(value: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json; charset=utf-8")
