"""OpenAI's dialect: which paths it has, and what they take and answer."""

from starlette.routing import Route

from frontend.api import Inference
from frontend.rest.describe import events, json, operation, post
from frontend.rest.dialect import Dialect, Json
from frontend.rest.openai import chat, completions
from frontend.rest.openai.answer import Endpoint
from frontend.rest.openai.answer_types import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    CompletionChunk,
    Model,
    ModelList,
)
from frontend.rest.openai.embeddings import EmbeddingList, EmbeddingRequest, EmbeddingsEndpoint
from frontend.rest.openai.errors import ErrorBody, OpenAIErrors
from frontend.rest.openai.models import model_endpoint, models_endpoint
from frontend.rest.openai.request_types import ChatCompletionRequest, CompletionRequest
from frontend.rest.openai.responses import describe as responses
from frontend.rest.openai.responses.endpoints import response_routes
from frontend.rest.openai.responses.store import Store

TIMING: Json = {
    "name": "x-tandem-timing",
    "in": "header",
    "description": "1 adds `timing` to the answer, or to the last chunk of a stream; anything else does not.",
    "schema": {"type": "string", "examples": ["1"]},
}
MODEL_ID: Json = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}


def openai_dialect(inference: Inference, *, lenient: bool = False) -> Dialect:
    """`lenient` is about parameters that nobody has."""
    return Dialect(
        name="OpenAI",
        routes=(
            Route("/v1/chat/completions", Endpoint(inference, chat.FORMAT, lenient=lenient), methods=["POST"]),
            Route("/v1/completions", Endpoint(inference, completions.FORMAT, lenient=lenient), methods=["POST"]),
            Route("/v1/embeddings", EmbeddingsEndpoint(inference, lenient=lenient), methods=["POST"]),
            Route("/v1/models", models_endpoint(inference)),
            Route("/v1/models/{id:path}", model_endpoint(inference)),
            *response_routes(inference, Store(), lenient=lenient),
        ),
        errors=OpenAIErrors(),
        operations=_operations(),
        schemas=(
            ChatCompletionRequest,
            CompletionRequest,
            ChatCompletion,
            ChatCompletionChunk,
            Completion,
            CompletionChunk,
            EmbeddingRequest,
            EmbeddingList,
            Model,
            ModelList,
            ErrorBody,
            *responses.SCHEMAS,
        ),
        closed=responses.CLOSED
        | {"ChatCompletionRequest", "CompletionRequest", "Message", "StreamOptions", "StructuredOutputs"}
        | {"EmbeddingRequest"},
    )


def _operations() -> dict[str, Json]:
    chat_operation = _generation("Answer a conversation", "ChatCompletionRequest", "ChatCompletion")
    completion = _generation("Continue a text", "CompletionRequest", "Completion")
    embeddings = post("Texts as vectors", json("EmbeddingRequest"), json("EmbeddingList"), error="ErrorBody")
    models = operation("Models that requests can name", json("ModelList"), 401, error="ErrorBody")
    model = operation("One model", json("Model"), 401, 404, error="ErrorBody")
    return {
        "/v1/chat/completions": {"post": chat_operation},
        "/v1/completions": {"post": completion},
        "/v1/embeddings": {"post": embeddings},
        "/v1/models": {"get": models},
        "/v1/models/{id}": {"get": {"parameters": [MODEL_ID], **model}},
        **responses.operations(),
    }


def _generation(summary: str, request: str, answer: str) -> Json:
    return post(
        summary,
        json(request),
        json(answer) | events(f"{answer}Chunk"),
        error="ErrorBody",
        description="With `stream`, server-sent events: chunks, then `[DONE]`. What fails after the first chunk is "
        "an event with `error`.",
        parameters=[TIMING],
    )
