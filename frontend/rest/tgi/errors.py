"""Errors as TGI's clients read them: one text, and one of a few words for its kind."""

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from engine.errors import (
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    PermissionDenied,
    TransferFailed,
    Unauthenticated,
    Unavailable,
    UnknownModel,
    Unsupported,
)
from frontend.rest.errors import headers_of, message_of, status_of

INVALID = 422
FAILED = 424


class TgiError(msgspec.Struct, frozen=True, kw_only=True):
    error: str
    error_type: str


class TgiErrors:
    """`frontend.rest.dialect.Errors` of this dialect."""

    def response_of(self, error: Exception) -> Response:
        status, body = _told(error)
        return Response(body, status, headers_of(error), media_type="application/json")

    def body_of(self, error: Exception) -> bytes:
        return _told(error)[1]

    def part_of(self, error: Exception) -> bytes:
        return b"data:" + self.body_of(error) + b"\n\n"


def _told(error: Exception) -> tuple[int, bytes]:
    status, kind = _kind(error)
    return status, msgspec.json.encode(TgiError(error=_text(error), error_type=kind))


def _kind(error: Exception) -> tuple[int, str]:
    match error:
        case InvalidRequest() | Unsupported():
            return INVALID, "validation"
        case HTTPException() | UnknownModel():
            return status_of(error), "validation"
        case Unauthenticated() | PermissionDenied():
            return status_of(error), "authentication"
        case Overloaded():
            return status_of(error), "overloaded"
        case Unavailable() | TransferFailed() | DeadlineExceeded():
            return status_of(error), "generation"
        case _:
            return FAILED, "generation"


def _text(error: Exception) -> str:
    """There is no field for the parameter's name, so the text has it."""
    message = message_of(error)
    field = error.field if isinstance(error, InvalidRequest) else None
    return message if not field or field in message else f"{field[:200]}: {message}"
