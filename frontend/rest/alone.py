"""A dialect where no other one is: what it has there of paths that are somebody else's, or everybody's, elsewhere.

Servers that have OpenAI's or Anthropic's paths beside their own have them here, too, in OpenAI's and Anthropic's words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from engine.errors import Unavailable
from frontend.api import Inference
from frontend.rest import tokenize
from frontend.rest.anthropic.answer_types import AnthropicModel, AnthropicModels
from frontend.rest.anthropic.dialect import anthropic_dialect
from frontend.rest.anthropic.models import model_endpoint, models_endpoint
from frontend.rest.describe import ANY_OBJECT, PUBLIC, any_of, content, json, operation, post, ref
from frontend.rest.dialect import Dialect, Json
from frontend.rest.invocations import OPENAI, Invocations
from frontend.rest.invocations import operation as invocations
from frontend.rest.llamacpp.dialect import llamacpp_dialect
from frontend.rest.llamacpp.errors import LlamaErrors
from frontend.rest.ollama.dialect import ollama_dialect
from frontend.rest.ollama.models import RUNNING
from frontend.rest.openai.dialect import MODEL_ID, openai_dialect
from frontend.rest.tgi.dialect import tgi_dialect, tgi_post
from frontend.rest.tgi.errors import TgiError
from frontend.rest.vllm import vllm_dialect

TEXT = content("text/plain", {"type": "string"})
UNHEALTHY = TgiError(error="unhealthy", error_type="healthcheck")


def alone(name: str, inference: Inference, *, lenient: bool = False) -> tuple[Dialect, ...]:
    """As `frontend.rest.app.dialects_of`; `name` is one of `frontend.mounts.NAMES`. Errors of paths that are nobody's
    are told in its own words."""
    openai, anthropic = openai_dialect(inference, lenient=lenient), anthropic_dialect(inference)
    match name:
        case "openai":
            return (openai,)
        case "anthropic":
            return (_anthropic(anthropic, inference),)
        case "vllm":
            return (openai, _vllm(inference, lenient=lenient), anthropic)
        case "tgi":
            return (_tgi(inference), openai)
        case "ollama":
            return (_ollama(inference), openai, anthropic)
        case "llamacpp":
            return (_llamacpp(inference, lenient=lenient), openai, anthropic)
    raise AssertionError(f"{name} is no dialect")


def _having(
    dialect: Dialect, routes: Sequence[Route], operations: Mapping[str, Json], *schemas: type[msgspec.Struct]
) -> Dialect:
    """`dialect` with these besides, or instead of what it has at the same path."""
    return replace(
        dialect,
        routes=(*routes, *dialect.routes),
        operations={**dialect.operations, **operations},
        schemas=(*dialect.schemas, *schemas),
        closed=dialect.closed.union(kind.__name__ for kind in schemas if kind in tokenize.REQUESTS),
    )


def _anthropic(dialect: Dialect, inference: Inference) -> Dialect:
    """Its models are told whatever headers a request has."""
    listed = operation("Models that requests can name", json("AnthropicModels"), 400, 401, error="AnthropicErrorBody")
    one = operation("One model", json("AnthropicModel"), 401, 404, error="AnthropicErrorBody")
    return _having(
        dialect,
        [
            Route("/v1/models", models_endpoint(inference)),
            Route("/v1/models/{id:path}", model_endpoint(inference)),
        ],
        {"/v1/models": {"get": listed}, "/v1/models/{id}": {"get": {"parameters": [MODEL_ID], **one}}},
        AnthropicModels,
        AnthropicModel,
    )


def _vllm(inference: Inference, *, lenient: bool) -> Dialect:
    async def health(request: Request) -> Response:
        return Response(status_code=200 if inference.readiness().ready else 503)

    told = any_of(ref(tokenize.TokenizeText), ref(tokenize.TokenizeMessages))
    return _having(
        vllm_dialect(inference, lenient=lenient),
        [
            Route("/health", health),
            Route("/tokenize", tokenize.tokenize_endpoint(inference, only=("prompt", "messages")), methods=["POST"]),
            Route("/detokenize", tokenize.detokenize_endpoint(inference, tokenize.DetokenizedPrompt), methods=["POST"]),
            Route("/invocations", Invocations(inference, lenient=lenient, only=OPENAI), methods=["POST"]),
        ],
        {
            "/health": {"get": _health({})},
            "/tokenize": {"post": post("Tokens", told, json("TokenizedText"), error="ErrorBody")},
            "/detokenize": {"post": _detokenize("DetokenizedPrompt", "ErrorBody")},
            "/invocations": invocations(only=OPENAI),
        },
        tokenize.DetokenizedPrompt,
    )


def _tgi(inference: Inference) -> Dialect:
    async def health(request: Request) -> Response:
        if inference.readiness().ready:
            return Response()
        return Response(msgspec.json.encode(UNHEALTHY), 503, media_type="application/json")

    dialect = tgi_dialect(inference)
    healthy = _health(json("TgiError"))
    root = dialect.operations["/"]
    places: Json = {"type": "array", "items": ref(tokenize.TokenPlace)}
    tokens = tgi_post("The tokens of a text", "TokenizeInputs", content("application/json", places))
    return _having(
        dialect,
        [
            Route("/", health),
            Route("/health", health),
            Route("/tokenize", tokenize.tokenize_endpoint(inference, only=("inputs",)), methods=["POST"]),
        ],
        {"/": {"get": healthy, **root}, "/health": {"get": healthy}, "/tokenize": {"post": tokens}},
        tokenize.TokenizeInputs,
        tokenize.TokenPlace,
    )


def _ollama(inference: Inference) -> Dialect:
    async def running(request: Request) -> Response:
        return PlainTextResponse(RUNNING)

    told = operation("That it runs", TEXT, error="OllamaError") | PUBLIC
    return _having(ollama_dialect(inference), [Route("/", running)], {"/": {"get": told}})


def _llamacpp(inference: Inference, *, lenient: bool) -> Dialect:
    async def health(request: Request) -> Response:
        readiness = inference.readiness()
        if not readiness.ready:
            return LlamaErrors().response_of(Unavailable(f"Loading model: {readiness.reason}"))
        return Response(b'{"status":"ok"}', media_type="application/json")

    healthy = _health(json("LlamaErrorBody"), ANY_OBJECT)
    tokens = post("Tokens", json("TokenizeContent"), json("TokenizedContent"), error="LlamaErrorBody")
    return _having(
        llamacpp_dialect(inference, lenient=lenient),
        [
            Route("/health", health),
            Route("/v1/health", health),
            Route("/tokenize", tokenize.tokenize_endpoint(inference, only=("content",)), methods=["POST"]),
            Route(
                "/detokenize", tokenize.detokenize_endpoint(inference, tokenize.DetokenizedContent), methods=["POST"]
            ),
        ],
        {
            "/health": {"get": healthy},
            "/v1/health": {"get": healthy},
            "/tokenize": {"post": tokens},
            "/detokenize": {"post": _detokenize("DetokenizedContent", "LlamaErrorBody")},
        },
        tokenize.TokenizeContent,
        tokenize.TokenizedContent,
        tokenize.TokenPiece,
        tokenize.DetokenizeRequest,
        tokenize.DetokenizedContent,
    )


def _health(unhealthy: Json, healthy: Json | None = None) -> Json:
    responses = {
        "200": {"description": "OK", "content": healthy or {}},
        "503": {"description": "It would not; `/ready` says why.", "content": unhealthy},
    }
    return {"summary": "Whether a request would succeed now", "responses": responses, **PUBLIC}


def _detokenize(answer: str, error: str) -> Json:
    return post("The text of tokens", json("DetokenizeRequest"), json(answer), error=error)
