"""GET /v1/models and /v1/models/{id}, for who sends the header anthropic-version."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from engine.errors import InvalidRequest, UnknownModel
from frontend.api import Inference, ServedModel
from frontend.rest.anthropic.answer_types import AnthropicModel, AnthropicModels
from frontend.rest.middleware import CALLER

Page = Callable[[Request], Awaitable[Response]]

DEFAULT_LIMIT = 20
MAX_LIMIT = 1_000


def models_endpoint(inference: Inference) -> Page:
    async def models(request: Request) -> Response:
        models = inference.models(request.scope[CALLER])
        return _json(_page(list(map(_model, models)), request.query_params))

    return models


def model_endpoint(inference: Inference) -> Page:
    async def model(request: Request) -> Response:
        name = request.path_params["id"]
        if not name:
            raise UnknownModel("the path names no model", field="model")
        return _json(_model(inference.model(name, request.scope[CALLER])))

    return model


def _page(models: Sequence[AnthropicModel], query: Mapping[str, str]) -> AnthropicModels:
    """Those after `after_id`, or the last ones before `before_id`, `limit` at most."""
    limit = _limit(query.get("limit", ""))
    ids = [model.id for model in models]
    if (after := query.get("after_id")) is not None:
        models = models[_position(ids, after, "after_id") + 1 :]
    elif (before := query.get("before_id")) is not None:
        models = models[: _position(ids, before, "before_id")]
    page = models[-limit:] if "before_id" in query and "after_id" not in query else models[:limit]
    return AnthropicModels(
        data=list(page),
        has_more=len(page) < len(models),
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
    )


def _limit(text: str) -> int:
    if not text:
        return DEFAULT_LIMIT
    limit = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidRequest(f"limit must be between 1 and {MAX_LIMIT}, not {text[:40]}", field="limit")
    return limit


def _position(ids: Sequence[str], name: str, field: str) -> int:
    if name not in ids:
        raise InvalidRequest(f"{field} is no model that is served here", field=field)
    return ids.index(name)


def _model(served: ServedModel) -> AnthropicModel:
    return AnthropicModel(
        id=served.name,
        display_name=served.name,
        created_at=datetime.fromtimestamp(served.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        max_input_tokens=served.max_context,
        max_tokens=served.max_context,
    )


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
