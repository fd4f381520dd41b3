"""The JSON that OpenAI's clients read. The Structs are encoded as they are, and are the schemas of `/openapi.json`."""

from collections.abc import Mapping
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from frontend.events import Timing
from frontend.rest.openai.tool_types import FunctionCall


class Model(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "tandem"
    max_model_len: int
    """Not OpenAI's; clients of other servers look for it."""
    vocab_size: int
    """Not OpenAI's; who sends token ids must know it."""


class ModelList(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Model]


class PromptTokensDetails(Struct, frozen=True, kw_only=True):
    cached_tokens: int


class CompletionTokensDetails(Struct, frozen=True, kw_only=True):
    reasoning_tokens: int


class CompletionUsage(Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | UnsetType = UNSET
    """Known at the end."""
    completion_tokens_details: CompletionTokensDetails | UnsetType = UNSET
    """Of a model whose reasoning is told from the rest."""


class RequestTiming(Struct, frozen=True, kw_only=True):
    """Milliseconds of the first choice; segments do not overlap and sum to the figure before them. `client_ms`: that
    tokens waited for who reads the stream; `cached_share`: of the prompt's tokens, those that the prefix cache had;
    `clock_within_ms`: where workers' segments begin and end may be so much off, for workers have their own clocks."""

    ttft_ms: float
    segments: Mapping[str, float]
    second_token_ms: float | None
    second_token_segments: Mapping[str, float]
    client_ms: float
    cached_share: float
    clock_within_ms: float | None

    @classmethod
    def of(cls, timing: Timing) -> "RequestTiming":
        return cls(
            ttft_ms=timing.ttft_ms,
            segments=timing.ttft_segments,
            second_token_ms=timing.second_token_ms,
            second_token_segments=timing.second_token_segments,
            client_ms=timing.client_ms,
            cached_share=timing.cached_share,
            clock_within_ms=timing.clock_within_ms,
        )


class TopLogprob(Struct, frozen=True, kw_only=True):
    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(Struct, frozen=True, kw_only=True):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct, frozen=True, kw_only=True):
    content: list[ChatTokenLogprob]
    refusal: None = None


class CompletionLogprobs(Struct, frozen=True, kw_only=True):
    """Of an answer; with echo of its prompt, too, whose first token follows nothing: it has null."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class PromptLogprob(Struct, frozen=True, kw_only=True):
    logprob: float
    rank: int
    """1 where no token is likelier."""
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]
"""With prompt_logprobs, as vLLM has it: of each token of the prompt, by their ids, itself and the likeliest ones in its
place; null for the first."""


FinishReason = Literal["stop", "length"]
ChatFinishReason = Literal["stop", "length", "tool_calls", "function_call"]


class MessageToolCall(Struct, frozen=True, kw_only=True):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class AssistantMessage(Struct, frozen=True, kw_only=True):
    """`content` is null where there is nothing but calls."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[MessageToolCall] | UnsetType = UNSET
    function_call: FunctionCall | UnsetType = UNSET
    """Instead of tool_calls, for who sent functions."""
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    """The same; clients of some servers look for one, clients of others for the other."""


class ChatChoice(Struct, frozen=True, kw_only=True):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason
    token_ids: list[int] | UnsetType = UNSET
    """With return_token_ids, as `prompt_token_ids`."""


class CompletionChoice(Struct, frozen=True, kw_only=True):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason
    token_ids: list[int] | UnsetType = UNSET
    """With return_token_ids."""
    prompt_token_ids: list[int] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class ChatCompletion(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: CompletionUsage
    system_fingerprint: str
    prompt_token_ids: list[int] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    timing: RequestTiming | UnsetType = UNSET


class Completion(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage
    system_fingerprint: str
    timing: RequestTiming | UnsetType = UNSET


class FunctionDelta(Struct, frozen=True, kw_only=True):
    """The name comes first, and once."""

    name: str | UnsetType = UNSET
    arguments: str


class ToolCallDelta(Struct, frozen=True, kw_only=True):
    """Of one call the first has id, type and name, and those that follow more of its arguments."""

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: FunctionDelta


class Delta(Struct, frozen=True, kw_only=True):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    refusal: None | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET
    function_call: FunctionDelta | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET


class ChunkChoice(Struct, frozen=True, kw_only=True):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason | None
    token_ids: list[int] | UnsetType = UNSET
    """With return_token_ids: those that are new."""


class ChatCompletionChunk(Struct, frozen=True, kw_only=True):
    """One event of a chat stream; `choices` is empty in the last, which carries what was asked for of usage, timing."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: CompletionUsage | None | UnsetType = UNSET
    system_fingerprint: str
    prompt_token_ids: list[int] | UnsetType = UNSET
    """In the first chunk of each choice, with return_token_ids."""
    timing: RequestTiming | UnsetType = UNSET


class CompletionChunkChoice(Struct, frozen=True, kw_only=True):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None
    token_ids: list[int] | UnsetType = UNSET
    """With return_token_ids: those that are new."""
    prompt_token_ids: list[int] | UnsetType = UNSET
    """In the first chunk of each choice."""


class CompletionChunk(Struct, frozen=True, kw_only=True):
    """One event of a completion stream; `choices` is empty in the last, as in a chat's."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChunkChoice]
    usage: CompletionUsage | None | UnsetType = UNSET
    system_fingerprint: str
    timing: RequestTiming | UnsetType = UNSET
