"""The OpenAPI 3.1 document of this server. Schemas are those of the Structs that parse and encode the JSON."""

from importlib.metadata import PackageNotFoundError, version

import msgspec

from frontend.rest.openai_errors import ErrorBody
from frontend.rest.openai_responses import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    CompletionChunk,
    Model,
    ModelList,
)
from frontend.rest.openai_types import ChatCompletionRequest, CompletionRequest

Json = dict[str, object]

SCHEMAS = (
    ChatCompletionRequest,
    CompletionRequest,
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    CompletionChunk,
    Model,
    ModelList,
    ErrorBody,
)
ERRORS = {
    400: "The request is malformed, or names what is unknown or unsupported; `error.param` says which.",
    401: "The API key is missing or wrong.",
    404: "No worker serves the model.",
    413: "The body is larger than this server takes.",
    429: "No room now; retry after `Retry-After` seconds.",
    501: "The model cannot do this.",
    503: "Draining, or the workers are gone.",
}
PUBLIC: Json = {"security": []}
"""Needs no key."""


def openapi_document(*, guarded: bool = True) -> Json:
    """Of a server that asks for keys, or of one that is open."""
    security: Json = {"security": [{"key": []}]} if guarded else {}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tandem",
            "version": _version(),
            "description": "LLM inference with separate prefill and decode workers, in OpenAI's dialect. "
            "A parameter works or is refused by name; null is the same as leaving it out.",
        },
        **security,
        "paths": _paths(),
        "components": {"schemas": _schemas(), "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _version() -> str:
    try:
        return version("tandem-serve")
    except PackageNotFoundError:
        return "0"


def _paths() -> Json:
    model_id = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    chat = _generation("Answer a conversation", "ChatCompletionRequest", "ChatCompletion", "ChatCompletionChunk")
    completion = _generation("Continue a text", "CompletionRequest", "Completion", "CompletionChunk")
    return {
        "/v1/chat/completions": {"post": chat},
        "/v1/completions": {"post": completion},
        "/v1/models": {"get": _get("Models that requests can name", _json("ModelList"), 401)},
        "/v1/models/{id}": {"get": {"parameters": [model_id], **_get("One model", _json("Model"), 401, 404)}},
        "/health": {"get": _get("The process is alive", _content("application/json", {"type": "object"})) | PUBLIC},
        "/ready": {"get": _ready() | PUBLIC},
        "/metrics": {"get": _get("Prometheus metrics", _content("text/plain", {"type": "string"})) | PUBLIC},
        "/debug/custody": {"get": _get("Who holds which KV blocks, on every worker", _content(*_LIST), 401)},
        "/openapi.json": {"get": _get("This document", _content("application/json", {"type": "object"})) | PUBLIC},
        "/docs": {"get": _get("This document, to read", _content("text/html", {"type": "string"})) | PUBLIC},
    }


_LIST: tuple[str, Json] = ("application/json", {"type": "array", "items": {"type": "object"}})


def _generation(summary: str, request: str, response: str, chunk: str) -> Json:
    answer = _json(response) | _content("text/event-stream", {"$ref": f"#/components/schemas/{chunk}"})
    operation = _get(summary, answer, *ERRORS)
    timing = {
        "name": "x-tandem-timing",
        "in": "header",
        "description": "1 adds `timing` to the answer, or to the last chunk of a stream; anything else does not.",
        "schema": {"type": "string", "examples": ["1"]},
    }
    return {
        "description": "With `stream`, server-sent events: chunks, then `[DONE]`. What fails after the first chunk is "
        "an event with `error`.",
        "parameters": [timing],
        "requestBody": {"required": True, "content": _json(request)},
        **operation,
    }


def _get(summary: str, content: Json, *errors: int) -> Json:
    responses: Json = {"200": {"description": "OK", "content": content}}
    for status in errors:
        responses[str(status)] = {"description": ERRORS[status], "content": _json("ErrorBody")}
    return {"summary": summary, "responses": responses}


def _ready() -> Json:
    state = _content("application/json", {"type": "object"})
    operation = _get("Whether a request would succeed now", state)
    not_ready = {"description": "It would not; `reason` says why.", "content": state}
    return {**operation, "responses": {"200": {"description": "OK", "content": state}, "503": not_ready}}


def _content(media_type: str, schema: Json) -> Json:
    return {media_type: {"schema": schema}}


def _json(name: str) -> Json:
    return _content("application/json", {"$ref": f"#/components/schemas/{name}"})


def _schemas() -> Json:
    _, components = msgspec.json.schema_components(SCHEMAS, ref_template="#/components/schemas/{name}")
    for name in ("ChatCompletionRequest", "CompletionRequest", "Message", "StreamOptions", "StructuredOutputs"):
        components[name]["additionalProperties"] = False
    return components
