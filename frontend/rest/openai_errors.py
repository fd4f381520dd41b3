"""Errors as OpenAI's clients read them: the body, the status and the headers of each.

Knows the one table of status codes (`engine.errors`) and OpenAI's words. Does not know where errors come from.
"""

import logging
import math
from collections.abc import Mapping

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from engine.errors import (
    CODES,
    ContextOverflow,
    InvalidRequest,
    Overloaded,
    PermissionDenied,
    Poisoned,
    TandemError,
    Unauthenticated,
    UnknownModel,
    Unsupported,
    codes,
)

log = logging.getLogger(__name__)


class UnsupportedParameter(InvalidRequest):
    """A parameter of OpenAI's or vLLM's that this server does not have."""

    reason = "UNSUPPORTED_PARAMETER"


class UnknownParameter(InvalidRequest):
    """A parameter that nobody has."""

    reason = "UNKNOWN_PARAMETER"


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
    Overloaded: "rate_limit_exceeded",
    Poisoned: "poisoned_request",
}
TYPE_WORDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def status_of(error: Exception) -> int:
    if isinstance(error, HTTPException):
        return error.status_code
    return codes(error).http if isinstance(error, TandemError) else CODES[TandemError].http


def body_of(error: Exception) -> bytes:
    """The JSON of `error`; of an exception that is not ours, nothing but that there was one."""
    status = status_of(error)
    kind = TYPE_WORDS.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
    match error:
        case TandemError():
            word = next((CODE_WORDS[c] for c in type(error).__mro__ if c in CODE_WORDS), None)
            param = error.field and error.field[:200]  # the caller may have made it up
            detail = ErrorDetail(message=error.message[:1000], type=kind, param=param, code=word, **_forecast(error))
        case HTTPException():
            detail = ErrorDetail(message=error.detail, type=kind)
        case _:
            detail = ErrorDetail(message="internal error", type=kind)
    return msgspec.json.encode(ErrorBody(detail))


def _forecast(error: TandemError) -> dict[str, int]:
    if not isinstance(error, Overloaded) or error.queue_position is None or error.predicted_ttft_s is None:
        return {}
    return {"queue_position": error.queue_position, "predicted_ttft_ms": round(error.predicted_ttft_s * 1e3)}


def response_of(error: Exception) -> Response:
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    match error:
        case Overloaded():
            headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
            headers["Retry-After-Ms"] = str(math.ceil(error.retry_after_s * 1e3))  # OpenAI's clients read it first
        case Unauthenticated():
            headers["WWW-Authenticate"] = "Bearer"
        case Unsupported():
            headers["x-should-retry"] = "false"  # OpenAI's clients repeat what fails with 5xx
    return Response(body_of(error), status_of(error), headers, media_type="application/json")


def chunk_of(error: Exception) -> bytes:
    """The end of a stream that failed after its headers were sent."""
    return b"data: " + body_of(error) + b"\n\ndata: [DONE]\n\n"
