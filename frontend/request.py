"""What a client asks, the same for every dialect; what it hears back is `frontend.events`.

A dialect (gRPC, OpenAI REST, ...) turns its own message into one `GenerateRequest`. `None` means "not given": the
model's default, then the documented one, applies (`checks.resolve`).

Does not know ranges and defaults, dialects, tokenizers or workers.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from engine.errors import InvalidRequest
from engine.pooling import Pooling
from frontend.callers import ANYBODY, Caller
from frontend.tools import AUTO, NO_TOOLS, Tool, ToolChoice, ToolMode, name_of


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """A prompt that is tokens already, used as they are."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OtherFile:
    """What a model is told beside the file that it writes in."""

    text: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Infill:
    """What stands between two texts is asked for, of models that have tokens for it (`frontend.infill`)."""

    prefix: str | TokenPrompt
    suffix: str
    begun: str = ""
    """What the answer has already; it goes on there."""
    others: tuple[OtherFile, ...] = ()
    with_file: bool = False
    """Tell the model of a project and the names of files, if it knows such things."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, to be rendered with the model's chat template. Messages are as the template sees them, and the
    arguments of calls are objects."""

    messages: tuple[Mapping[str, object], ...]
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    """The answer goes on where the last message ends."""
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = AUTO
    parallel_tool_calls: bool = True
    """False: the answer ends with its first call."""
    strict_tools: frozenset[str] = frozenset()
    """Names of those whose arguments must match their schemas even where the model need not call."""
    documents: tuple[Mapping[str, object], ...] = ()
    reasoning_effort: str | None = None
    """How much the model is to reason, in the words that its template knows; none, or medium, is known to all."""
    template_kwargs: Mapping[str, object] = field(default_factory=dict)
    """Further names that the template may know, like enable_thinking."""

    @property
    def offered(self) -> tuple[Tool, ...]:
        """What the model is told of, and may call."""
        return () if self.tool_choice == NO_TOOLS else self.tools

    @property
    def demanded(self) -> tuple[Tool, ...]:
        """Of which the answer must call one; none where it may say something else."""
        if self.tool_choice.mode is not ToolMode.REQUIRED:
            return ()
        return tuple(tool for tool in self.tools if self.tool_choice.name in (None, name_of(tool)))


def opens_answer(add_generation_prompt: bool | None, continue_final_message: bool) -> bool:
    """Whether the template begins an answer after the last message. Raises InvalidRequest for a contradiction."""
    if add_generation_prompt and continue_final_message:
        message = "add_generation_prompt and continue_final_message exclude each other"
        raise InvalidRequest(message, field="continue_final_message")
    return not continue_final_message if add_generation_prompt is None else add_generation_prompt


def reasoning_fields(text: str) -> dict[str, object]:
    """What an assistant thought, under every name by which templates know it."""
    return {"reasoning_content": text, "reasoning": text, "thinking": text}


class GrammarKind(StrEnum):
    """How a grammar's text is to be read."""

    JSON_SCHEMA = "JSON schema"
    JSON_OBJECT = "JSON object"
    """Any; there is no text."""
    REGEX = "regular expression"
    """As Rust's regex crate writes them, for the whole answer."""
    CHOICE = "choice"
    """A JSON list of texts, one of which is the answer."""
    LARK = "grammar"
    """Lark as llguidance reads it, or GBNF."""
    STRUCTURAL_TAG = "structural tag"
    """JSON as vLLM takes it: text with tagged parts."""
    CALLS = "tool calls"
    """Made by `frontend.grammar.calls`, where a tool must be called."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must match. Whether it can be honoured shows when it is compiled (`frontend.grammar`)."""

    kind: GrammarKind
    text: str = ""


Prompt = str | TokenPrompt | Chat | Infill


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One answer asked for. Field names are those of errors; a dialect that spells one differently renames it."""

    prompt: Prompt
    add_special_tokens: bool | None = None
    """Whether a prompt that is not tokens yet gets the model's, like that of its beginning. None: a text does, and a
    conversation has what its template gives it."""
    truncate_prompt: int | None = None
    """Of a prompt with more tokens, only so many count: the last ones."""
    cache_salt: str | None = None
    """Not empty. The prefix cache knows only prompts that came with the same one. None: those that came with none."""
    model: str | None = None
    """None or empty: the default one, of those that are served."""
    max_tokens: int | None = None
    """None: what is left of the context. 0: no answer, where something of the prompt is to be told."""
    min_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    """0 and -1 keep all."""
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    """None: drawn at random, so that retries continue the same text. Taken modulo 2**64."""
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop: bool = False
    ignore_eos: bool = False
    logprobs: int | None = None
    skip_special_tokens: bool = True
    grammar: Grammar | None = None
    """None: any text will do."""
    pooling: Pooling | None = None
    """The prompt is also wanted as a vector (`frontend.embedding`)."""
    format_only: bool = False
    """The grammar is JSON's, and of what is said to be read alone: an answer to a conversation may think before it, and
    call tools instead."""
    separate_reasoning: bool = True
    """Tell reasoning from the answer to a conversation, where the model marks it."""
    tell_prompt: bool = False
    """Say in `Started` what tokens the prompt is."""
    prompt_logprobs: int | None = None
    """Say how likely each token of the prompt is, and so many of the likeliest ones in its place (`PromptLogprobs`).
    The prompt is then computed whole: of what the prefix cache holds nobody computes that."""
    num_together: int = 1
    """Answers that one response holds, this one among them: they share what may be said of prompts."""
    deadline_s: float | None = None
    """Seconds from now after which nobody waits for the answer."""
    trace_headers: Mapping[str, str] = field(default_factory=dict)
    """W3C `traceparent` and `tracestate` as the caller sent them."""
    caller: Caller = ANYBODY
    request_id: str | None = None
    """By which the request is known everywhere, and no other one ever; None: drawn."""


def new_request_id() -> str:
    return f"req-{secrets.token_hex(12)}"
