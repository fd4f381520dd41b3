"""Errors as clients of llama.cpp's server read them."""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec
from starlette.responses import Response

from engine.errors import ContextOverflow, TandemError
from frontend.rest.errors import headers_of, message_of, status_of


class LlamaErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    code: int
    """The status."""
    message: str
    type: str
    n_prompt_tokens: int | msgspec.UnsetType = msgspec.UNSET
    """Of a prompt that is too long, where it was counted; as the next."""
    n_ctx: int | msgspec.UnsetType = msgspec.UNSET


class LlamaErrorBody(msgspec.Struct, frozen=True):
    error: LlamaErrorDetail


TYPE_WORDS: Mapping[int, str] = MappingProxyType(
    {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        429: "unavailable_error",  # llama.cpp has no other word for being full, and lets everybody wait
        501: "not_supported_error",
        503: "unavailable_error",
    }
)


def body_of(error: Exception) -> bytes:
    """The JSON of `error`; of an exception that is not ours, nothing but that there was one."""
    status = status_of(error)
    kind = TYPE_WORDS.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
    detail = LlamaErrorDetail(code=status, message=_message(error), type=kind)
    if isinstance(error, ContextOverflow):
        detail = msgspec.structs.replace(
            detail,
            type="exceed_context_size_error",
            n_prompt_tokens=msgspec.UNSET if error.prompt_tokens is None else error.prompt_tokens,
            n_ctx=msgspec.UNSET if error.max_context is None else error.max_context,
        )
    return msgspec.json.encode(LlamaErrorBody(detail))


def _message(error: Exception) -> str:
    """There is no place for the parameter at fault but the message."""
    message = message_of(error)
    if isinstance(error, TandemError) and error.field and error.field not in message:
        return f"{error.field[:200]}: {message}"
    return message


class LlamaErrors:
    """`frontend.rest.dialect.Errors` of this dialect."""

    def response_of(self, error: Exception) -> Response:
        return Response(body_of(error), status_of(error), headers_of(error), media_type="application/json")

    def body_of(self, error: Exception) -> bytes:
        return body_of(error)

    def part_of(self, error: Exception) -> bytes:
        return b"data: " + body_of(error) + b"\n\n"
