"""The OpenAPI 3.1 document of this server. Schemas are those of the Structs that parse and encode the JSON."""

from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import msgspec

from frontend.rest import debug, usage
from frontend.rest.describe import ANY_OBJECT, PUBLIC, content, operation
from frontend.rest.dialect import Dialect, Json

KEYS: Json = {
    "key": {"type": "http", "scheme": "bearer"},
    "key_header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
"""How a key may be sent: one of these."""
ERROR = "ErrorBody"
"""The schema of errors on paths that are nobody's: the first dialect's."""


def openapi_document(
    dialects: Sequence[Dialect], *, guarded: bool = True, is_whole: bool = True, prefix: str = ""
) -> Json:
    """Of a server that asks for keys, or of one that is open; if it `is_whole`, with what its operator reads. `prefix`
    is what its paths begin with."""
    security: Json = {"security": [{key: []} for key in KEYS]} if guarded else {}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tandem",
            "version": tandem_version(),
            "description": "LLM inference with separate prefill and decode workers, in the dialects of "
            f"{', '.join(dialect.name for dialect in dialects)}. "
            "A parameter works or is refused by name; null is the same as leaving it out.",
        },
        **security,
        **({"servers": [{"url": prefix}]} if prefix else {}),
        "paths": _own_paths(is_whole=is_whole)
        | {path: each for dialect in dialects for path, each in dialect.operations.items()},
        "components": {"schemas": _schemas(dialects, is_whole=is_whole), "securitySchemes": KEYS},
    }


def tandem_version() -> str:
    try:
        return version("tandem-serve")
    except PackageNotFoundError:
        return "0"


def _own_paths(*, is_whole: bool) -> Json:
    return {
        "/health": {"get": _get("The process is alive", ANY_OBJECT) | PUBLIC},
        "/ready": {"get": _ready() | PUBLIC},
        "/metrics": {"get": _get("Prometheus metrics", content("text/plain", {"type": "string"})) | PUBLIC},
        **(_operators_paths() if is_whole else {}),
        "/openapi.json": {"get": _get("This document", ANY_OBJECT) | PUBLIC},
        "/docs": {"get": _get("This document, to read", content("text/html", {"type": "string"})) | PUBLIC},
    }


def _operators_paths() -> Json:
    page = _get("The console, a page", content("text/html", {"type": "string"})) | PUBLIC
    return {**debug.operations(ERROR), **usage.operations(ERROR), "/console": {"get": page}}


def _get(summary: str, answer: Json) -> Json:
    return operation(summary, answer, error=ERROR)


def _ready() -> Json:
    not_ready = {"description": "It would not; `reason` says why.", "content": ANY_OBJECT}
    ready = {"description": "OK", "content": ANY_OBJECT}
    unknown = {"description": "There is no such model.", "content": ANY_OBJECT}
    model = {"name": "model", "in": "query", "schema": {"type": "string"}, "description": "Default: the default one."}
    responses = {"200": ready, "503": not_ready, "404": unknown}
    return {"summary": "Whether a request would succeed now", "parameters": [model], "responses": responses}


def _schemas(dialects: Sequence[Dialect], *, is_whole: bool) -> Json:
    own = (*debug.SCHEMAS, *usage.SCHEMAS) if is_whole else ()
    taken = {kind for dialect in dialects for kind in dialect.schemas}.union(own)
    closed = frozenset(name for dialect in dialects for name in dialect.closed)
    return _described(tuple(sorted(taken, key=lambda kind: kind.__name__)), closed)


@cache
def _described(kinds: tuple[type, ...], closed: frozenset[str]) -> Json:
    """Nobody may change it. `closed` are the names of those that have no other fields."""
    _, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    for name in closed:
        components[name]["additionalProperties"] = False
    plain: Json = msgspec.json.decode(msgspec.json.encode(components))  # defaults are values of Python's
    return plain
