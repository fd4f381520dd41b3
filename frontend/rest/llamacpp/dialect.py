"""llama.cpp's dialect: which paths it has, and what they take and answer.

Conversations are OpenAI's, also without `/v1`; `/health`, `/metrics` and `/v1/models` are everybody's.
"""

from dataclasses import replace

from starlette.routing import Route

from frontend.api import Inference
from frontend.rest.describe import ANY_OBJECT, PUBLIC, content, events, json, operation, post
from frontend.rest.dialect import Dialect, Json
from frontend.rest.llamacpp.answer import LlamaEndpoint
from frontend.rest.llamacpp.answer_types import (
    LlamaChunk,
    LlamaCompletion,
    LlamaProps,
    LlamaRendered,
    LlamaSlot,
    LlamaSuccess,
)
from frontend.rest.llamacpp.embeddings import EmbeddingEndpoint, LlamaEmbedding, LlamaEmbeddingRequest
from frontend.rest.llamacpp.errors import LlamaErrorBody, LlamaErrors
from frontend.rest.llamacpp.pages import Pages, refusing, with_model
from frontend.rest.llamacpp.parse import parse_completion, parse_infill
from frontend.rest.llamacpp.request_types import LlamaCompletionRequest, LlamaInfillRequest
from frontend.rest.openai import chat
from frontend.rest.openai.answer import Endpoint
from frontend.rest.openai.models import models_endpoint
from frontend.rest.openai.parse import Ask, parse_chat

NO_SLOT_ACTIONS = "slots cannot be saved, restored or erased"
NO_CHANGES = "this server's properties cannot be changed"
ERROR = "LlamaErrorBody"


def _parse_chat(body: bytes, *, lenient: bool = False) -> Ask:
    return parse_chat(with_model(body), lenient=lenient)


CHAT = replace(chat.FORMAT, parse=_parse_chat)


def llamacpp_dialect(inference: Inference, *, lenient: bool = False) -> Dialect:
    completion = LlamaEndpoint(inference, parse_completion)
    pages = Pages(inference)
    return Dialect(
        name="llama.cpp's server",
        routes=(
            Route("/completion", completion, methods=["POST"]),
            Route("/completions", completion, methods=["POST"]),
            Route("/infill", LlamaEndpoint(inference, parse_infill), methods=["POST"]),
            Route("/chat/completions", Endpoint(inference, CHAT, lenient=lenient), methods=["POST"]),
            Route("/apply-template", pages.apply_template, methods=["POST"]),
            Route("/embedding", EmbeddingEndpoint(inference), methods=["POST"]),
            Route("/embeddings", EmbeddingEndpoint(inference), methods=["POST"]),
            Route("/models", models_endpoint(inference)),
            Route("/props", pages.props),
            Route("/props", refusing(NO_CHANGES), methods=["POST"]),
            Route("/slots", pages.slots),
            Route("/slots/{id}", refusing(NO_SLOT_ACTIONS), methods=["POST"]),
            Route("/lora-adapters", pages.adapters),
            Route("/lora-adapters", pages.set_adapters, methods=["POST"]),
            Route("/v1/health", pages.health),
        ),
        errors=LlamaErrors(),
        operations=_operations(),
        schemas=(
            LlamaCompletionRequest,
            LlamaInfillRequest,
            LlamaEmbeddingRequest,
            LlamaEmbedding,
            LlamaCompletion,
            LlamaChunk,
            LlamaProps,
            LlamaRendered,
            LlamaSlot,
            LlamaSuccess,
            LlamaErrorBody,
        ),
        closed=frozenset({"LlamaCompletionRequest", "LlamaInfillRequest", "LlamaEmbeddingRequest"}),
        public=frozenset({"/v1/health"}),
    )


def _operations() -> dict[str, Json]:
    completion: Json = {"post": _generation("Continue a text, as llama.cpp's server does", "LlamaCompletionRequest")}
    chat_answer = json("ChatCompletion") | events("ChatCompletionChunk")
    conversation = post("As /v1/chat/completions", json("ChatCompletionRequest"), chat_answer, error=ERROR)
    template = post("Render a conversation", json("ChatCompletionRequest"), json("LlamaRendered"), error=ERROR)
    adapters = content("application/json", {"type": "array", "maxItems": 0, "items": {"type": "object"}})
    slots = content("application/json", {"type": "array", "items": {"$ref": "#/components/schemas/LlamaSlot"}})
    vectors = content("application/json", {"type": "array", "items": {"$ref": "#/components/schemas/LlamaEmbedding"}})
    embedding: Json = {"post": post("Texts as vectors", json("LlamaEmbeddingRequest"), vectors, error=ERROR)}
    return {
        "/embedding": embedding,
        "/embeddings": embedding,
        "/completion": completion,
        "/completions": completion,
        "/infill": {"post": _generation("Write what stands between two texts", "LlamaInfillRequest")},
        "/chat/completions": {"post": conversation},
        "/apply-template": {"post": template},
        "/models": {"get": _get("As /v1/models", json("ModelList"))},
        "/props": {"get": _get("What this server is", json("LlamaProps"))},
        "/slots": {"get": _get("Room on the decode workers", slots, 503)},
        "/lora-adapters": {
            "get": _get("None", adapters),
            "post": post("Set none", adapters, json("LlamaSuccess"), error=ERROR),
        },
        "/v1/health": {"get": operation("As /health", ANY_OBJECT, error=ERROR) | PUBLIC},
    }


def _get(summary: str, answer: Json, *statuses: int) -> Json:
    return operation(summary, answer, 401, *statuses, error=ERROR)


def _generation(summary: str, request: str) -> Json:
    return post(
        summary,
        json(request),
        json("LlamaCompletion") | events("LlamaChunk", "LlamaCompletion"),
        error=ERROR,
        description="Several prompts, or `n_cmpl`, make a list of answers. With `stream`, server-sent events; the last "
        "of every answer is a `LlamaCompletion`. What fails after the first event is an event with `error`.",
    )
