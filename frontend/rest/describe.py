"""The words in which dialects describe their paths: pieces of OpenAPI operations."""

from msgspec import Struct

from frontend.rest.dialect import Json

FAILURES = {
    400: "The request is malformed, or names what is unknown or unsupported; the error says which.",
    401: "The API key is missing or wrong.",
    404: "No worker serves the model, or nothing is kept under this id.",
    413: "The body is larger than this server takes.",
    415: "The body has a Content-Encoding, and is not unpacked here.",
    429: "No room now; retry after `Retry-After` seconds.",
    501: "The model cannot do this.",
    503: "Draining, or the workers are gone.",
}
PUBLIC: Json = {"security": []}
"""Needs no key."""


def operation(summary: str, answer: Json, *statuses: int, error: str, missing: str = "") -> Json:
    """`answer` is the content of status 200; `error` names the schema of the others. `missing` is what 404 means where
    it is not about a model."""
    responses: Json = {"200": {"description": "OK", "content": answer}}
    for status in statuses:
        responses[str(status)] = {"description": FAILURES[status], "content": json(error)}
    if missing:
        responses["404"] = {"description": missing, "content": json(error)}
    return {"summary": summary, "responses": responses}


def post(summary: str, request: Json, answer: Json, *, error: str, **more: object) -> Json:
    """An operation that takes a JSON body and may fail in every way."""
    body = {"required": True, "content": request}
    return {**more, "requestBody": body, **operation(summary, answer, *FAILURES, error=error)}


def content(media_type: str, schema: Json) -> Json:
    return {media_type: {"schema": schema}}


def json(name: str) -> Json:
    return content("application/json", {"$ref": f"#/components/schemas/{name}"})


def parts(media_type: str, name: str) -> Json:
    """An answer that comes in parts, each of the schema `name`."""
    return content(media_type, {"$ref": f"#/components/schemas/{name}"})


def events(*names: str) -> Json:
    """An answer that comes as server-sent events, the data of each being JSON of one of these schemas."""
    references: list[Json] = [{"$ref": f"#/components/schemas/{name}"} for name in names]
    said: Json = {"anyOf": references} if len(references) > 1 else references[0]
    data: Json = {"type": "string", "contentMediaType": "application/json", "contentSchema": said}
    return content("text/event-stream", {"type": "object", "properties": {"data": data}, "required": ["data"]})


ANY_OBJECT = content("application/json", {"type": "object"})


def ref(kind: type[Struct]) -> Json:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def any_of(*schemas: Json) -> Json:
    """JSON of one of these."""
    return content("application/json", {"anyOf": list(schemas)})


def also(described: Json, status: int, description: str, *, error: str) -> Json:
    """An operation that fails in one more way."""
    responses = described["responses"]
    assert isinstance(responses, dict)
    failure = {"description": description, "content": json(error)}
    return {**described, "responses": {**responses, str(status): failure}}
