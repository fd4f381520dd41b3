"""Errors as OpenAI's clients read them."""

from collections.abc import Mapping

import msgspec
from starlette.responses import Response

from engine.errors import (
    ContextOverflow,
    Overloaded,
    PermissionDenied,
    Poisoned,
    TandemError,
    Unauthenticated,
    UnknownModel,
)
from frontend.callers import UsedUp
from frontend.fields import UnknownParameter, UnsupportedParameter
from frontend.rest.errors import headers_of, message_of, status_of
from frontend.rest.openai.limits import limit_headers
from frontend.rest.openai.responses.store import UnknownPrevious


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    message: str
    type: str
    param: str | None = None
    code: str | None = None
    queue_position: int | msgspec.UnsetType = msgspec.UNSET
    """Of a request that there is no room for: how many wait before it. Beside OpenAI's own fields, as the next."""
    predicted_ttft_ms: int | msgspec.UnsetType = msgspec.UNSET


class ErrorBody(msgspec.Struct, frozen=True):
    error: ErrorDetail


CODE_WORDS: Mapping[type[TandemError], str] = {
    ContextOverflow: "context_length_exceeded",
    UnknownModel: "model_not_found",
    Unauthenticated: "invalid_api_key",
    PermissionDenied: "permission_denied",
    UnsupportedParameter: "unsupported_parameter",
    UnknownParameter: "unknown_parameter",
    UnknownPrevious: "previous_response_not_found",
    Overloaded: "rate_limit_exceeded",
    Poisoned: "poisoned_request",
}
TYPE_WORDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def body_of(error: Exception) -> bytes:
    """The JSON of `error`; of an exception that is not ours, nothing but that there was one."""
    status = status_of(error)
    kind = TYPE_WORDS.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
    detail = ErrorDetail(message=message_of(error), type=kind)
    if isinstance(error, TandemError):
        word = next((CODE_WORDS[c] for c in type(error).__mro__ if c in CODE_WORDS), None)
        param = error.field and error.field[:200]  # the caller may have made it up
        detail = msgspec.structs.replace(detail, param=param, code=word, **_forecast(error))
    return msgspec.json.encode(ErrorBody(detail))


def _forecast(error: TandemError) -> dict[str, int]:
    if not isinstance(error, Overloaded) or error.queue_position is None or error.predicted_ttft_s is None:
        return {}
    return {"queue_position": error.queue_position, "predicted_ttft_ms": round(error.predicted_ttft_s * 1e3)}


class OpenAIErrors:
    """`frontend.rest.dialect.Errors` of this dialect."""

    def response_of(self, error: Exception) -> Response:
        headers = headers_of(error)
        if isinstance(error, UsedUp):
            headers |= limit_headers(error.allowance)
        return Response(body_of(error), status_of(error), headers, media_type="application/json")

    def body_of(self, error: Exception) -> bytes:
        return body_of(error)

    def part_of(self, error: Exception) -> bytes:
        return b"data: " + body_of(error) + b"\n\ndata: [DONE]\n\n"
