"""The JSON of a request to /v1/responses: what is supported, what means nothing, and what is refused by name.

As `frontend.rest.openai.request_types`, whose ranges hold here, too.
"""

from types import MappingProxyType
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from frontend.fields import Off
from frontend.rest.openai.grammar import JsonObject
from frontend.rest.openai.request_types import (
    Count,
    Effort,
    IgnoredText,
    MinP,
    Penalty,
    Repetition,
    Seed,
    Stops,
    Temperature,
    Tokens,
    TopK,
    TopP,
    limits,
)
from frontend.rest.openai.responses.items import InputItem
from frontend.rest.openai.tool_types import FunctionName, Id


class ResponseTool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="function"):
    name: FunctionName
    description: str | None = None
    parameters: Annotated[dict[str, Any], Meta(description="JSON schema of the arguments.")] | None = None
    strict: (
        Annotated[
            bool,
            Meta(
                description="Where the model need not call, arguments are held to the schema if this is true and its "
                "family marks calls; where it must, they always are."
            ),
        ]
        | None
    ) = None


class ResponseNamedTool(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="function"
):
    name: FunctionName


class ResponseAllowedTools(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="allowed_tools"
):
    """The model is told of these only."""

    mode: Literal["auto", "required"]
    tools: list[ResponseNamedTool]


class PlainText(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """Any."""


class JsonText(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="json_object"):
    """Any JSON object."""


class SchemaText(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """Followed to the letter if `strict`; if not, too, but objects that name all their properties have no others."""

    name: Annotated[str, Meta(max_length=256)]
    schema: JsonObject
    description: str | None = None
    strict: bool | None = None


class TextConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: PlainText | JsonText | SchemaText | None = None
    verbosity: Literal["medium"] | None = None


class ReasoningConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it is told, whatever the summary."""

    effort: Annotated[Effort, Meta(description="As reasoning_effort of a chat.")] | None = None
    summary: Literal["auto"] | None = None
    generate_summary: Literal["auto"] | None = None


class ResponseStreamOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    include_obfuscation: Literal[False] | None = None


class Asked(Struct, frozen=True, kw_only=True):
    """What a response is the answer to, and what tokens can be counted of."""

    input: str | list[InputItem] | None = None
    instructions: Annotated[str, Meta(description="What the system says first, in this response only.")] | None = None
    previous_response_id: Annotated[Id, Meta(description="Goes on with what is kept of this one.")] | None = None
    tools: Annotated[list[ResponseTool], Meta(extra_json_schema=limits(maxItems=256))] | None = None
    tool_choice: Literal["none", "auto", "required"] | ResponseNamedTool | ResponseAllowedTools | None = None
    parallel_tool_calls: Annotated[bool, Meta(description="false: the answer ends with its first call.")] | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    truncation: Literal["disabled"] | None = None
    chat_template_kwargs: (
        Annotated[dict[str, Any], Meta(description="Variables of the chat template, like enable_thinking.")] | None
    ) = None


class CountRequest(Asked, frozen=True, kw_only=True):
    model: str | None = None


class ResponseRequest(Asked, frozen=True, kw_only=True):
    model: str
    max_output_tokens: Annotated[Tokens, Meta(description="Default: what is left of the context.")] | None = None
    max_tool_calls: (
        Annotated[Tokens, Meta(description="Of tools that the server runs, of which there are none.")] | None
    ) = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    repetition_penalty: Repetition | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = None
    stop: Stops | None = None
    top_logprobs: Annotated[Count, Meta(extra_json_schema=limits(maximum=20))] | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    background: (
        Annotated[bool, Meta(description="Answer when it has begun; the end is to be retrieved. Not with stream.")]
        | None
    ) = None
    store: Annotated[bool, Meta(description="Default: true; for a while, as far as there is room.")] | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    metadata: dict[str, str] | None = None
    user: IgnoredText | None = None
    safety_identifier: IgnoredText | None = None
    prompt_cache_key: IgnoredText | None = None
    service_tier: Literal["auto", "default"] | None = None


COUNT_OFF: Off = MappingProxyType({"conversation": (), "personality": ()})
RESPONSE_OFF: Off = MappingProxyType(
    {
        "access_programs": (),
        "context_management": ([],),
        "conversation": (),
        "image": (),
        "moderation": (),
        "priority": (0,),
        "prompt": (),
        "prompt_cache_options": (),
        "prompt_cache_retention": (),
        "request_id": (),
    }
)
