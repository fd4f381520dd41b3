"""Anthropic's dialect: which paths it has, and what they take and answer."""

from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from frontend.api import Inference
from frontend.rest.anthropic.answer import CountEndpoint, MessagesEndpoint
from frontend.rest.anthropic.answer_types import (
    AnthropicMessage,
    ContentBlockDelta,
    ContentBlockStart,
    ContentBlockStop,
    MessageDelta,
    MessageStart,
    MessageStop,
    MessageTokens,
    Ping,
)
from frontend.rest.anthropic.errors import AnthropicErrorBody, AnthropicErrors
from frontend.rest.anthropic.models import model_endpoint, models_endpoint
from frontend.rest.anthropic.request_types import CountTokensRequest, MessagesRequest
from frontend.rest.describe import events, json, post
from frontend.rest.dialect import Dialect, HeaderRoute, Json

VERSION_HEADER = "anthropic-version"
"""All of Anthropic's clients send it. Where it decides, its value does not."""
EVENTS = (
    MessageStart,
    Ping,
    ContentBlockStart,
    ContentBlockDelta,
    ContentBlockStop,
    MessageDelta,
    MessageStop,
    AnthropicErrorBody,
)


def anthropic_dialect(inference: Inference) -> Dialect:
    return Dialect(
        name="Anthropic",
        routes=(
            Route("/v1/messages", MessagesEndpoint(inference), methods=["POST"]),
            Route("/v1/messages/count_tokens", CountEndpoint(inference), methods=["POST"]),
            Route("/v1/messages/batches", NoBatches()),
            Route("/v1/messages/batches/{rest:path}", NoBatches()),
            HeaderRoute(VERSION_HEADER, "/v1/models", models_endpoint(inference)),
            HeaderRoute(VERSION_HEADER, "/v1/models/{id:path}", model_endpoint(inference)),
        ),
        errors=AnthropicErrors(),
        operations=_operations(),
        schemas=(MessagesRequest, CountTokensRequest, AnthropicMessage, MessageTokens, *EVENTS),
        closed=frozenset(
            {
                "MessagesRequest",
                "CountTokensRequest",
                "Turn",
                "MessageTool",
                "MessageOutputConfig",
                "TextBlock",
                "ThinkingBlock",
                "RedactedThinkingBlock",
                "ToolUseBlock",
                "ToolResultBlock",
            }
        ),
    )


class NoBatches:
    """What Anthropic has below its path, and this server has not; said as Anthropic says it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise HTTPException(404)


def _operations() -> dict[str, Json]:
    message = post(
        "Answer a conversation, as Anthropic does",
        json("MessagesRequest"),
        json("AnthropicMessage") | events(*(kind.__name__ for kind in EVENTS)),
        error="AnthropicErrorBody",
        description="With `stream`, server-sent events, each named by its type. What fails after the first is an "
        "event with `error`.",
    )
    count = post(
        "Count the tokens of a conversation",
        json("CountTokensRequest"),
        json("MessageTokens"),
        error="AnthropicErrorBody",
    )
    return {"/v1/messages": {"post": message}, "/v1/messages/count_tokens": {"post": count}}
