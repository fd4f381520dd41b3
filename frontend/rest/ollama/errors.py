"""Errors as Ollama's clients read them: one text, which names the parameter at fault."""

import msgspec
from starlette.responses import Response

from engine.errors import TandemError
from frontend.rest.errors import headers_of, message_of, status_of


class OllamaError(msgspec.Struct, frozen=True):
    error: str


def body_of(error: Exception) -> bytes:
    return msgspec.json.encode(OllamaError(_text(error)))


def _text(error: Exception) -> str:
    message = message_of(error)
    field = error.field[:200] if isinstance(error, TandemError) and error.field else ""
    return message if field in message else f"{field}: {message}"


class OllamaErrors:
    """`frontend.rest.dialect.Errors` of this dialect."""

    def response_of(self, error: Exception) -> Response:
        return Response(body_of(error), status_of(error), headers_of(error), media_type="application/json")

    def body_of(self, error: Exception) -> bytes:
        return body_of(error)

    def part_of(self, error: Exception) -> bytes:
        return body_of(error) + b"\n"
