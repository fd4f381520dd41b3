"""GET /v1/models and /v1/models/{id}."""

from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from engine.errors import UnknownModel
from frontend.api import Inference, ServedModel
from frontend.rest.middleware import CALLER
from frontend.rest.openai.answer_types import Model, ModelList

Page = Callable[[Request], Awaitable[Response]]


def models_endpoint(inference: Inference) -> Page:
    async def models(request: Request) -> Response:
        return _json(ModelList(data=[_model(model) for model in inference.models(request.scope[CALLER])]))

    return models


def model_endpoint(inference: Inference) -> Page:
    async def model(request: Request) -> Response:
        name = request.path_params["id"]
        if not name:
            raise UnknownModel("the path names no model", field="model")
        return _json(_model(inference.model(name, request.scope[CALLER])))

    return model


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _model(served: ServedModel) -> Model:
    return Model(id=served.name, created=served.created, max_model_len=served.max_context, vocab_size=served.vocab_size)
