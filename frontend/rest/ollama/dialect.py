"""Ollama's dialect: which paths it has, and what they take and answer."""

from starlette.routing import Route

from frontend.api import Inference
from frontend.rest.describe import json, operation, parts, post
from frontend.rest.dialect import Dialect, Json
from frontend.rest.middleware import NDJSON
from frontend.rest.ollama import answer_types as answers
from frontend.rest.ollama import embeddings
from frontend.rest.ollama import request_types as requests
from frontend.rest.ollama.answer import CHAT, GENERATE, Endpoint
from frontend.rest.ollama.errors import OllamaError, OllamaErrors
from frontend.rest.ollama.models import blob, ps_page, refused, show_page, tags_page, version


def ollama_dialect(inference: Inference) -> Dialect:
    return Dialect(
        name="Ollama",
        routes=(
            Route("/api/generate", Endpoint(inference, GENERATE), methods=["POST"]),
            Route("/api/chat", Endpoint(inference, CHAT), methods=["POST"]),
            Route("/api/tags", tags_page(inference)),
            Route("/api/ps", ps_page(inference)),
            Route("/api/show", show_page(inference), methods=["POST"]),
            Route("/api/version", version),
            Route("/api/embed", embeddings.EmbedEndpoint(inference), methods=["POST"]),
            Route("/api/embeddings", embeddings.EmbeddingsEndpoint(inference), methods=["POST"]),
            *(Route(f"/api/{name}", refused, methods=["POST"]) for name in ("pull", "push", "create", "copy")),
            Route("/api/delete", refused, methods=["DELETE"]),
            Route("/api/blobs/{digest}", blob, methods=["HEAD", "POST"]),
        ),
        errors=OllamaErrors(),
        operations=_operations(),
        schemas=(
            requests.OllamaGenerateRequest,
            requests.OllamaChatRequest,
            requests.OllamaShowRequest,
            embeddings.OllamaEmbedRequest,
            embeddings.OllamaEmbedResponse,
            embeddings.OllamaEmbeddingsRequest,
            embeddings.OllamaEmbeddingsResponse,
            answers.OllamaGenerateResponse,
            answers.OllamaChatResponse,
            answers.OllamaModels,
            answers.OllamaLoadedModels,
            answers.OllamaShowResponse,
            answers.OllamaVersion,
            OllamaError,
        ),
        closed=frozenset(
            {
                "OllamaGenerateRequest",
                "OllamaChatRequest",
                "OllamaShowRequest",
                "OllamaEmbedRequest",
                "OllamaEmbeddingsRequest",
                "OllamaOptions",
                "OllamaMessage",
            }
        ),
    )


def _operations() -> dict[str, Json]:
    return {
        "/api/generate": {"post": _generation("Answer a prompt", "OllamaGenerate")},
        "/api/chat": {"post": _generation("Answer a conversation", "OllamaChat")},
        "/api/tags": {"get": _page("Models that requests can name", "OllamaModels")},
        "/api/ps": {"get": _page("Models that are loaded", "OllamaLoadedModels")},
        "/api/version": {"get": _page("Version of the API", "OllamaVersion")},
        "/api/embed": {"post": _vectors("Texts as vectors", "OllamaEmbed")},
        "/api/embeddings": {"post": _vectors("One text as a vector, as it is", "OllamaEmbeddings")},
        "/api/show": {
            "post": post("One model", json("OllamaShowRequest"), json("OllamaShowResponse"), error="OllamaError")
        },
    }


def _vectors(summary: str, name: str) -> Json:
    return post(summary, json(f"{name}Request"), json(f"{name}Response"), error="OllamaError")


def _page(summary: str, answer: str) -> Json:
    return operation(summary, json(answer), 401, error="OllamaError")


def _generation(summary: str, name: str) -> Json:
    return post(
        summary,
        json(f"{name}Request"),
        parts(NDJSON, f"{name}Response") | json(f"{name}Response"),
        error="OllamaError",
        description="Without `stream: false`, lines of JSON. What fails after the first is a line with `error`.",
    )
