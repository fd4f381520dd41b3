"""Errors as Anthropic's clients read them."""

from typing import Literal

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.errors import TandemError
from frontend.fields import UnsupportedParameter
from frontend.rest.errors import headers_of, message_of, status_of
from frontend.rest.middleware import REQUEST_ID

ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "request_too_large",
    "rate_limit_error",
    "api_error",
    "overloaded_error",
    "timeout_error",
]
TYPES: dict[int, ErrorType] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class ErrorCode(msgspec.Struct, frozen=True, kw_only=True):
    """Tells a client that holds a conversation as a thread to send all of it instead."""

    error_code: Literal["thread_unsupported_request"] = "thread_unsupported_request"


class AnthropicErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    type: ErrorType
    message: str
    details: ErrorCode | msgspec.UnsetType = msgspec.UNSET


class AnthropicErrorBody(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="error"):
    error: AnthropicErrorDetail
    request_id: str | msgspec.UnsetType = msgspec.UNSET
    """Not in a stream, whose headers had it, and not of what is not HTTP."""


class AnthropicErrors:
    """`frontend.rest.dialect.Errors` of this dialect."""

    def response_of(self, error: Exception) -> Response:
        return _ErrorResponse(error)

    def body_of(self, error: Exception) -> bytes:
        return msgspec.json.encode(AnthropicErrorBody(error=_detail(error)))

    def part_of(self, error: Exception) -> bytes:
        return b"event: error\ndata: " + self.body_of(error) + b"\n\n"


class _ErrorResponse(Response):
    """Has the request's id in its body, which shows when it is sent."""

    def __init__(self, error: Exception) -> None:
        super().__init__(status_code=status_of(error))
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = msgspec.json.encode(AnthropicErrorBody(error=_detail(self._error), request_id=scope[REQUEST_ID]))
        headers = headers_of(self._error)
        await Response(body, self.status_code, headers, media_type="application/json")(scope, receive, send)


def _detail(error: Exception) -> AnthropicErrorDetail:
    """There is no place for the parameter at fault but the message."""
    status, message = status_of(error), message_of(error)
    if isinstance(error, TandemError) and error.field and error.field not in message:
        message = f"{error.field[:200]}: {message}"  # the caller may have made it up
    kind = TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
    is_thread = isinstance(error, UnsupportedParameter) and error.field == "thread"
    return AnthropicErrorDetail(type=kind, message=message, details=ErrorCode() if is_thread else msgspec.UNSET)
