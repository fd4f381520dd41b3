"""What vLLM's server has beside OpenAI's paths: tokens, its version, whether it is there, how much it has to do."""

from collections.abc import Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.version import VERSION
from frontend.api import Inference
from frontend.rest import tokenize
from frontend.rest.describe import ANY_OBJECT, PUBLIC, json, operation
from frontend.rest.dialect import Dialect, Json
from frontend.rest.invocations import Invocations
from frontend.rest.invocations import operation as invocations
from frontend.rest.middleware import CALLER
from frontend.rest.openai.errors import OpenAIErrors


class Version(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    """Tandem's."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    server_load: int
    """Requests under way here, those that wait among them."""


def vllm_dialect(inference: Inference, *, lenient: bool = False) -> Dialect:
    pages = Pages(inference)
    return Dialect(
        name="vLLM",
        routes=(
            Route("/tokenize", tokenize.tokenize_endpoint(inference), methods=["POST"]),
            Route("/detokenize", tokenize.detokenize_endpoint(inference), methods=["POST"]),
            Route("/tokenizer_info", pages.tokenizer_info),
            Route("/version", pages.version),
            Route("/ping", pages.ping, methods=["GET", "POST"]),
            Route("/load", pages.load),
            Route("/invocations", Invocations(inference, lenient=lenient), methods=["POST"]),
        ),
        errors=OpenAIErrors(),
        operations={**tokenize.operations(), **_operations()},
        schemas=(*tokenize.SCHEMAS, Version, Load),
        closed=frozenset(kind.__name__ for kind in tokenize.REQUESTS),
        public=frozenset({"/version", "/ping"}),
    )


class Pages:
    """What can be asked without saying anything."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def tokenizer_info(self, request: Request) -> Response:
        config = self._inference.tokenizer_config(self._inference.model(None, request.scope[CALLER]).name)
        return _json({"tokenizer_class": "PreTrainedTokenizerFast", **config})

    async def version(self, request: Request) -> Response:
        return _json(Version(version=VERSION))

    async def ping(self, request: Request) -> Response:
        return Response(status_code=200 if self._inference.readiness().ready else 503)

    async def load(self, request: Request) -> Response:
        return _json(Load(server_load=self._inference.active_requests))


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _operations() -> Mapping[str, Json]:
    info = operation("What the model's files say of its tokenizer", ANY_OBJECT, 401, error="ErrorBody")
    load = operation("How many requests are under way", json("Load"), 401, error="ErrorBody")
    version = operation("The version of this server", json("Version"), error="ErrorBody")
    return {
        "/tokenizer_info": {"get": info},
        "/version": {"get": version | PUBLIC},
        "/ping": {"get": _ping() | PUBLIC, "post": _ping(401)},
        "/load": {"get": load},
        "/invocations": invocations(),
    }


def _ping(*statuses: int) -> Json:
    pong = operation("Whether a request would succeed now", {}, *statuses, error="ErrorBody")
    responses = pong["responses"]
    assert isinstance(responses, dict)
    return {**pong, "responses": {**responses, "503": {"description": "It would not; `/ready` says why."}}}
