"""The REST app: which path leads where, and what stands before all of them.

A request passes `Outermost` (ids, errors), `Authentication` and `BodyLimit`, then its endpoint. Does not know workers.
"""

from collections.abc import Callable

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from engine.errors import UnknownModel
from frontend.api import Inference, ServedModel
from frontend.callers import KeyRing
from frontend.metrics import CONTENT_TYPE
from frontend.rest.docs import HOME, docs_page
from frontend.rest.middleware import Authentication, BodyLimit, Outermost
from frontend.rest.openai_chat import chat_endpoint
from frontend.rest.openai_completions import completions_endpoint
from frontend.rest.openai_errors import response_of
from frontend.rest.openai_responses import Model, ModelList
from frontend.rest.openapi import Json, openapi_document


def build_app(inference: Inference, *, keys: KeyRing, max_body_bytes: int, metrics: Callable[[], bytes]) -> Starlette:
    """`metrics` is the Prometheus exposition of now."""
    pages = Pages(inference, metrics, openapi_document(guarded=not keys.is_open))
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", chat_endpoint(inference), methods=["POST"]),
            Route("/v1/completions", completions_endpoint(inference), methods=["POST"]),
            Route("/v1/models", pages.models),
            Route("/v1/models/{id:path}", pages.model),
            Route("/health", pages.health),
            Route("/ready", pages.ready),
            Route("/metrics", pages.metrics),
            Route("/debug/custody", pages.custody),
            Route("/openapi.json", pages.openapi),
            Route("/docs", pages.docs),
            Route("/", pages.home),
        ],
        middleware=[
            Middleware(Outermost),
            Middleware(Authentication, keys=keys),
            Middleware(BodyLimit, max_bytes=max_body_bytes),
        ],
        exception_handlers={HTTPException: _http_error},
    )
    app.router.redirect_slashes = False
    return app


class Pages:
    """What can be read with GET."""

    def __init__(self, inference: Inference, metrics: Callable[[], bytes], document: Json) -> None:
        self._inference = inference
        self._metrics = metrics
        self._openapi = msgspec.json.encode(document)
        self._docs = docs_page(document)

    async def models(self, request: Request) -> Response:
        return _json(ModelList(data=[_model(model) for model in self._inference.models()]))

    async def model(self, request: Request) -> Response:
        name = request.path_params["id"]
        if not name:
            raise UnknownModel("the path names no model", field="model")
        return _json(_model(self._inference.model(name)))

    async def health(self, request: Request) -> Response:
        return _json({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        readiness = self._inference.readiness()
        return _json(readiness, 200 if readiness.ready else 503)

    async def metrics(self, request: Request) -> Response:
        return Response(self._metrics(), headers={"Content-Type": CONTENT_TYPE})

    async def custody(self, request: Request) -> Response:
        return _json(await self._inference.custody())

    async def openapi(self, request: Request) -> Response:
        return Response(self._openapi, media_type="application/json")

    async def docs(self, request: Request) -> Response:
        return HTMLResponse(self._docs)

    async def home(self, request: Request) -> Response:
        return HTMLResponse(HOME)


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _model(served: ServedModel) -> Model:
    return Model(id=served.name, created=served.created, max_model_len=served.max_context, vocab_size=served.vocab_size)


async def _http_error(request: Request, error: Exception) -> Response:
    """Of routing and reading the body; TandemErrors go on to `Outermost`."""
    assert isinstance(error, HTTPException)
    match error.status_code:
        case 404:
            error.detail = f"there is no {request.url.path} here"
        case 405:
            error.detail = f"{request.url.path} does not take {request.method}"
    return response_of(error)
