"""The paths below /v1/responses in OpenAPI's words."""

from frontend.rest.describe import events, json, operation, post
from frontend.rest.dialect import Json
from frontend.rest.openai.responses.answer_types import (
    DeletedResponse,
    InputTokenCount,
    ResponseDocument,
    ResponseItemList,
)
from frontend.rest.openai.responses.events import KINDS
from frontend.rest.openai.responses.request_types import CountRequest, ResponseRequest

SCHEMAS: tuple[type, ...] = (
    ResponseRequest,
    CountRequest,
    ResponseDocument,
    DeletedResponse,
    ResponseItemList,
    InputTokenCount,
    *KINDS,
)
CLOSED = frozenset(
    {
        "ResponseRequest",
        "CountRequest",
        "ResponseMessage",
        "ResponseFunctionCall",
        "ResponseFunctionCallOutput",
        "ResponseReasoning",
        "ItemReference",
    }
)
ID: Json = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}


def operations() -> dict[str, Json]:
    creation = post(
        "Answer what was said, and keep the answer",
        json("ResponseRequest"),
        json("ResponseDocument") | events(*(kind.__name__ for kind in KINDS)),
        error="ErrorBody",
        description="With `stream`, server-sent events, each with its type; the last is `response.completed`, "
        "`response.incomplete` or `response.failed`.",
    )
    count = post(
        "Count the tokens of what would be asked", json("CountRequest"), json("InputTokenCount"), error="ErrorBody"
    )
    return {
        "/v1/responses": {"post": creation},
        "/v1/responses/input_tokens": {"post": count},
        "/v1/responses/{id}": {
            "get": _of_kept("A response that is kept", "ResponseDocument"),
            "delete": _of_kept("Forget a response", "DeletedResponse"),
        },
        "/v1/responses/{id}/cancel": {"post": _of_kept("End a response in the background", "ResponseDocument")},
        "/v1/responses/{id}/input_items": {
            "get": _of_kept(
                "What a response is the answer to",
                "ResponseItemList",
                _query("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}),
                _query("order", {"enum": ["asc", "desc"], "default": "desc"}),
                _query("after", {"type": "string", "description": "Begin behind the item of this id."}),
            )
        },
    }


def _of_kept(summary: str, answer: str, *query: Json) -> Json:
    return {"parameters": [ID, *query], **operation(summary, json(answer), 400, 401, 404, error="ErrorBody")}


def _query(name: str, schema: Json) -> Json:
    return {"name": name, "in": "query", "required": False, "schema": schema}
