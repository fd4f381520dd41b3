"""TGI's dialect: which paths it has, and what they take and answer."""

from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.version import VERSION
from frontend.api import Inference
from frontend.checks import MAX_STOP_STRINGS
from frontend.rest.describe import content, events, json, operation, ref
from frontend.rest.dialect import Dialect, Json
from frontend.rest.middleware import CALLER
from frontend.rest.tgi.answer import Endpoint
from frontend.rest.tgi.answer_types import TgiAnswer, TgiEvent, TgiInfo
from frontend.rest.tgi.errors import TgiError, TgiErrors
from frontend.rest.tgi.parse import GENERATE, GENERATE_STREAM, ROOT
from frontend.rest.tgi.request_types import MAX_BEST_OF, TgiCompatRequest, TgiRequest

FAILURES = {
    401: "The API key is missing or wrong.",
    413: "The body is larger than this server takes.",
    422: "The request is malformed, or names what is unknown or unsupported.",
    424: "Answering failed.",
    429: "No room now; retry after `Retry-After` seconds.",
    503: "Draining, or the workers are gone.",
}
EVENTS = events("TgiEvent")


def tgi_dialect(inference: Inference) -> Dialect:
    return Dialect(
        name="TGI",
        routes=(
            Route("/", Endpoint(inference, ROOT), methods=["POST"]),
            Route("/generate", Endpoint(inference, GENERATE), methods=["POST"]),
            Route("/generate_stream", Endpoint(inference, GENERATE_STREAM), methods=["POST"]),
            Route("/info", info_endpoint(inference)),
        ),
        errors=TgiErrors(),
        operations=_operations(),
        schemas=(TgiRequest, TgiCompatRequest, TgiAnswer, TgiEvent, TgiInfo, TgiError),
        closed=frozenset({"TgiRequest", "TgiCompatRequest", "TgiParameters"}),
    )


def info_endpoint(inference: Inference) -> Callable[[Request], Awaitable[Response]]:
    async def info(request: Request) -> Response:
        model, (status, *_) = inference.model(None, request.scope[CALLER]), inference.statuses()
        told = TgiInfo(
            model_id=model.name,
            max_concurrent_requests=status.max_queued_requests,
            max_best_of=MAX_BEST_OF,
            max_stop_sequences=MAX_STOP_STRINGS,
            max_input_tokens=model.max_context - 1,
            max_total_tokens=model.max_context,
            version=VERSION,
        )
        return Response(msgspec.json.encode(told), media_type="application/json")

    return info


def _operations() -> dict[str, Json]:
    listed = content("application/json", {"type": "array", "items": ref(TgiAnswer)})
    return {
        "/": {"post": tgi_post("Continue a text; with `stream`, as it is made", "TgiCompatRequest", listed | EVENTS)},
        "/generate": {"post": tgi_post("Continue a text", "TgiRequest", json("TgiAnswer"))},
        "/generate_stream": {"post": tgi_post("Continue a text, as it is made", "TgiRequest", EVENTS)},
        "/info": {"get": operation("The model, and what requests may ask", json("TgiInfo"), 401, error="TgiError")},
    }


def tgi_post(summary: str, request: str, answer: Json) -> Json:
    failures = {
        str(status): {"description": described, "content": json("TgiError")} for status, described in FAILURES.items()
    }
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": json(request)},
        "responses": {"200": {"description": "OK", "content": answer}, **failures},
    }
