"""The JSON that Anthropic's clients send: what is supported, what means nothing, and what is refused by name.

Each Struct is both the parser's type and the schema in `/openapi.json`; null is the same as leaving a parameter out.
Limits are documented here and checked where they bind every dialect (`frontend.checks.resolve`), but for those that
only Anthropic has. Does not know HTTP or how answers look.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from frontend.fields import Off

JsonObject = dict[str, Any]
Id = Annotated[str, Meta(max_length=256)]
Name = Annotated[str, Meta(description="Letters, digits, _ and -", max_length=128)]


class CacheControl(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


CacheHint = Annotated[CacheControl, Meta(description="Accepted; whatever begins alike is found in the cache anyway.")]


class Block(Struct, frozen=True, kw_only=True, tag_field="type"):
    """Part of a message's content."""


class TextBlock(Block, frozen=True, kw_only=True, tag="text"):
    text: str
    cache_control: CacheHint | None = None


class ThinkingBlock(Block, frozen=True, kw_only=True, tag="thinking"):
    """What an assistant thought before it answered. The template decides what becomes of it."""

    thinking: str
    signature: Annotated[str, Meta(description="Accepted; nothing is checked by it.")] | None = None


class RedactedThinkingBlock(Block, frozen=True, kw_only=True, tag="redacted_thinking"):
    """Only Anthropic can read these: the model does not see them."""

    data: str


class ToolUseBlock(Block, frozen=True, kw_only=True, tag="tool_use"):
    id: Id
    name: Name
    input: JsonObject
    cache_control: CacheHint | None = None


class ToolResultBlock(Block, frozen=True, kw_only=True, tag="tool_result"):
    tool_use_id: Id
    content: str | list[TextBlock] | None = None
    is_error: Annotated[bool, Meta(description="true: the model reads `Error: ` before the content.")] | None = None
    cache_control: CacheHint | None = None


AnyBlock = TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock


class Turn(Struct, frozen=True, kw_only=True):
    """One message. Neighbours of one role are one message to the model."""

    role: Literal["user", "assistant", "system"]
    content: str | list[AnyBlock]


class MessageTool(Struct, frozen=True, kw_only=True):
    name: Name
    description: str | None = None
    input_schema: Annotated[JsonObject, Meta(description="JSON schema of the input.")]
    strict: (
        Annotated[
            bool,
            Meta(
                description="Where the model need not use it, its input is held to the schema if this is true and the "
                "model marks uses; where it must, it always is."
            ),
        ]
        | None
    ) = None
    type: Literal["custom"] | None = None
    eager_input_streaming: (
        Annotated[bool, Meta(description="Accepted; input is always streamed as it is made.")] | None
    ) = None
    cache_control: CacheHint | None = None


class Choose(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Whether the model may, must or must not use tools."""


class MayChoose(Choose, frozen=True, kw_only=True):
    disable_parallel_tool_use: (
        Annotated[bool, Meta(description="true: the answer ends with its first use of a tool.")] | None
    ) = None


class ChooseAuto(MayChoose, frozen=True, kw_only=True, tag="auto"):
    """The model decides."""


class ChooseAny(MayChoose, frozen=True, kw_only=True, tag="any"):
    """The model must use one."""


class ChooseTool(MayChoose, frozen=True, kw_only=True, tag="tool"):
    """The model must use this one."""

    name: Name


class ChooseNone(Choose, frozen=True, kw_only=True, tag="none"):
    """The model is not told of the tools."""


class ThinkingConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Whether to think first, of models that can be told. Left out: as the model does by itself."""


class ThinkingShown(ThinkingConfig, frozen=True, kw_only=True):
    display: Annotated[Literal["summarized"], Meta(description="The thinking, whole.")] | None = None


class ThinkingEnabled(ThinkingShown, frozen=True, kw_only=True, tag="enabled"):
    budget_tokens: Annotated[
        int,
        Meta(
            description="Checked to be below max_tokens, but nothing ends the thinking there.",
            extra_json_schema={"minimum": 1024},
        ),
    ]


class ThinkingAdaptive(ThinkingShown, frozen=True, kw_only=True, tag="adaptive"):
    """The same as leaving `thinking` out."""


class ThinkingDisabled(ThinkingConfig, frozen=True, kw_only=True, tag="disabled"):
    """A model that cannot be told thinks all the same, and its thinking is shown."""


class JsonOutputFormat(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Literal["json_schema"]
    schema: JsonObject


class MessageOutputConfig(Struct, frozen=True, kw_only=True):
    format: Annotated[JsonOutputFormat, Meta(description="Followed to the letter.")] | None = None
    effort: (
        Annotated[
            Literal["low", "medium", "high", "xhigh", "max"],
            Meta(description="high: as the model does by itself. Others are for models whose template knows of it."),
        ]
        | None
    ) = None


class MessageMetadata(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    user_id: Annotated[str, Meta(description="Accepted; means nothing here.")] | None = None


class CountTokensRequest(Struct, frozen=True, kw_only=True):
    """What makes up a prompt."""

    model: str
    messages: Annotated[list[Turn], Meta(min_length=1)]
    system: str | list[TextBlock] | None = None
    tools: Annotated[list[MessageTool], Meta(extra_json_schema={"maxItems": 256})] | None = None
    tool_choice: ChooseAuto | ChooseAny | ChooseTool | ChooseNone | None = None
    thinking: ThinkingEnabled | ThinkingAdaptive | ThinkingDisabled | None = None
    output_config: MessageOutputConfig | None = None
    cache_control: CacheHint | None = None


class MessagesRequest(CountTokensRequest, frozen=True, kw_only=True):
    max_tokens: Annotated[
        int,
        Meta(
            description="Where the context has less room, the answer ends for model_context_window_exceeded.",
            extra_json_schema={"minimum": 1},
        ),
    ]
    temperature: (
        Annotated[float, Meta(description="0 is greedy.", extra_json_schema={"minimum": 0, "maximum": 1})] | None
    ) = None
    top_p: (
        Annotated[
            float,
            Meta(
                description="Nucleus sampling; 0 keeps the likeliest token.",
                extra_json_schema={"minimum": 0, "maximum": 1},
            ),
        ]
        | None
    ) = None
    top_k: Annotated[int, Meta(description="0 keeps all.", extra_json_schema={"minimum": 0})] | None = None
    stop_sequences: Annotated[list[str], Meta(extra_json_schema={"maxItems": 16})] | None = None
    stream: bool | None = None
    metadata: MessageMetadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None


COUNT_OFF: Off = MappingProxyType({"speed": ("standard",), "mcp_servers": ([],), "context_management": ()})
MESSAGES_OFF: Off = MappingProxyType(
    {
        **COUNT_OFF,
        "billing_policy": (),
        "compaction": (),
        "container": (),
        "diagnostics": (),
        "fallback_credit_token": (),
        "fallbacks": ([],),
        "inference_geo": (),
        "output_format": (),
        "thread": (),
    }
)
TOOL_OFF: Off = MappingProxyType(
    {
        "allowed_callers": (["direct"],),
        "defer_loading": (False,),
        "input_examples": ([],),
    }
)
BLOCKS: Mapping[str, tuple[type[Block], Off]] = MappingProxyType(
    {
        "text": (TextBlock, {"citations": ([],)}),
        "thinking": (ThinkingBlock, {}),
        "redacted_thinking": (RedactedThinkingBlock, {}),
        "tool_use": (ToolUseBlock, {"caller": ({"type": "direct"},), "toolset_name": ()}),
        "tool_result": (ToolResultBlock, {"toolset_name": ()}),
    }
)
"""What each kind of block takes, by its type."""
UNREAD_BLOCKS = frozenset(
    {
        "bash_code_execution_tool_result",
        "browser_state",
        "code_execution_tool_result",
        "container_upload",
        "document",
        "image",
        "search_result",
        "server_tool_use",
        "text_editor_code_execution_tool_result",
        "tool_reference",
        "tool_search_tool_result",
        "web_fetch_tool_result",
        "web_search_tool_result",
    }
)
"""Kinds of blocks that are known and not supported."""
