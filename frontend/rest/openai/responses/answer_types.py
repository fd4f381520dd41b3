"""The JSON of a response, and of what is said of it besides. The Structs are the schemas of `/openapi.json`, too."""

from typing import Literal

from msgspec import Struct

from frontend.events import Usage
from frontend.rest.openai.request_types import Effort
from frontend.rest.openai.responses.items import Item, OutputItem
from frontend.rest.openai.responses.request_types import (
    JsonText,
    PlainText,
    ResponseAllowedTools,
    ResponseNamedTool,
    ResponseTool,
    SchemaText,
)

Status = Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]


class ResponseError(Struct, frozen=True, kw_only=True):
    code: str
    message: str


class IncompleteDetails(Struct, frozen=True, kw_only=True):
    reason: Literal["max_output_tokens"]


class AnswerText(Struct, frozen=True, kw_only=True):
    format: PlainText | JsonText | SchemaText
    verbosity: Literal["medium"] = "medium"


class AnswerReasoning(Struct, frozen=True, kw_only=True):
    effort: Effort | None
    summary: Literal["auto"] | None


class InputTokensDetails(Struct, frozen=True, kw_only=True):
    cached_tokens: int
    cache_write_tokens: int = 0
    """Nothing is ever charged for keeping a prompt in the cache."""


class OutputTokensDetails(Struct, frozen=True, kw_only=True):
    reasoning_tokens: int


class ResponseUsage(Struct, frozen=True, kw_only=True):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int

    @classmethod
    def of(cls, usage: Usage) -> "ResponseUsage":
        return cls(
            input_tokens=usage.prompt_tokens,
            input_tokens_details=InputTokensDetails(cached_tokens=usage.cached_tokens),
            output_tokens=usage.completion_tokens,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=usage.reasoning_tokens or 0),
            total_tokens=usage.prompt_tokens + usage.completion_tokens,
        )


class ResponseDocument(Struct, frozen=True, kw_only=True):
    """What was asked for is repeated; what was not given is null, or what stands for it."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Status
    background: bool
    completed_at: int | None = None
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: AnswerReasoning
    safety_identifier: str | None
    service_tier: Literal["default"] = "default"
    store: bool
    temperature: float | None
    text: AnswerText
    tool_choice: Literal["none", "auto", "required"] | ResponseNamedTool | ResponseAllowedTools
    tools: list[ResponseTool]
    top_logprobs: int
    top_p: float | None
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    user: str | None


class DeletedResponse(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class ResponseItemList(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool


class InputTokenCount(Struct, frozen=True, kw_only=True):
    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int
