"""The JSON that Anthropic's clients read. The Structs are encoded as they are, and are schemas of `/openapi.json`."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from frontend.events import Usage


class TextContent(Struct, frozen=True, kw_only=True, tag_field="type", tag="text"):
    text: str


class ThinkingContent(Struct, frozen=True, kw_only=True, tag_field="type", tag="thinking"):
    """`signature` is a checksum of the thinking, which is taken back unread."""

    thinking: str
    signature: str


class ToolUseContent(Struct, frozen=True, kw_only=True, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: Annotated[Raw, Meta(extra_json_schema={"type": "object"})]


Content = TextContent | ThinkingContent | ToolUseContent
StopReason = Literal["end_turn", "max_tokens", "model_context_window_exceeded", "stop_sequence", "tool_use"]


class ThinkingTokens(Struct, frozen=True, kw_only=True):
    thinking_tokens: int


class MessageUsage(Struct, frozen=True, kw_only=True):
    """The prompt is input_tokens and cache_read_input_tokens together."""

    input_tokens: int
    cache_creation_input_tokens: Literal[0] = 0
    """What is new is kept, too, but is not told from other input: it costs nothing."""
    cache_read_input_tokens: int | None
    """null where it is not known yet."""
    output_tokens: int
    output_tokens_details: ThinkingTokens | UnsetType = UNSET
    """Of a model whose thinking is told from the rest."""

    @classmethod
    def of(cls, usage: Usage) -> "MessageUsage":
        thoughts = usage.reasoning_tokens
        return cls(
            input_tokens=usage.prompt_tokens - usage.cached_tokens,
            cache_read_input_tokens=usage.cached_tokens,
            output_tokens=usage.completion_tokens,
            output_tokens_details=UNSET if thoughts is None else ThinkingTokens(thinking_tokens=thoughts),
        )


class AnthropicMessage(Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """`stop_reason` is null only where a stream begins."""

    id: str
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[Content]
    stop_reason: StopReason | None
    stop_sequence: str | None
    """Of the request's, the one that ended the answer."""
    usage: MessageUsage


class MessageTokens(Struct, frozen=True, kw_only=True):
    input_tokens: int


class AnthropicModel(Struct, frozen=True, kw_only=True, tag_field="type", tag="model"):
    id: str
    display_name: str
    created_at: str
    lifecycle: Literal["active"] = "active"
    max_input_tokens: int
    max_tokens: int


class AnthropicModels(Struct, frozen=True, kw_only=True):
    data: list[AnthropicModel]
    has_more: bool
    first_id: str | None
    last_id: str | None


# -- events of a stream ------------------------------------------------------------------------------------------------


class MessageStart(Struct, frozen=True, kw_only=True, tag_field="type", tag="message_start"):
    message: AnthropicMessage


class Ping(Struct, frozen=True, kw_only=True, tag_field="type", tag="ping"):
    """Means nothing."""


class ContentBlockStart(Struct, frozen=True, kw_only=True, tag_field="type", tag="content_block_start"):
    index: int
    content_block: Content


class TextDelta(Struct, frozen=True, kw_only=True, tag_field="type", tag="text_delta"):
    text: str


class ThinkingDelta(Struct, frozen=True, kw_only=True, tag_field="type", tag="thinking_delta"):
    thinking: str


class SignatureDelta(Struct, frozen=True, kw_only=True, tag_field="type", tag="signature_delta"):
    signature: str


class InputJsonDelta(Struct, frozen=True, kw_only=True, tag_field="type", tag="input_json_delta"):
    """Of one block joined, the JSON of its input."""

    partial_json: str


class ContentBlockDelta(Struct, frozen=True, kw_only=True, tag_field="type", tag="content_block_delta"):
    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta


class ContentBlockStop(Struct, frozen=True, kw_only=True, tag_field="type", tag="content_block_stop"):
    index: int


class MessageEnd(Struct, frozen=True, kw_only=True):
    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(Struct, frozen=True, kw_only=True, tag_field="type", tag="message_delta"):
    """`usage` replaces that of the stream's beginning."""

    delta: MessageEnd
    usage: MessageUsage


class MessageStop(Struct, frozen=True, kw_only=True, tag_field="type", tag="message_stop"):
    """The end."""


AnyEvent = MessageStart | Ping | ContentBlockStart | ContentBlockDelta | ContentBlockStop | MessageDelta | MessageStop
