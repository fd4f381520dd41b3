"""What a client asks and what it hears back, the same for every dialect.

A dialect (gRPC, OpenAI REST, ...) turns its own message into one `GenerateRequest` and the events of its answer into
its own messages. `None` means "not given": the model's default, then the documented one, applies (`resolve`).

Knows fields, ranges and defaults. Does not know dialects, tokenizers or workers.
"""

import secrets
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from engine.errors import ContextOverflow, InvalidRequest
from engine.pooling import Pooling
from engine.sequence import SamplingParams
from frontend.callers import ANYBODY, UNLIMITED, Allowance, Caller
from frontend.tools import AUTO, NO_TOOLS, Tool, ToolChoice, ToolMode, name_of

MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 1_000
MAX_LOGIT_BIAS = 1_024
MAX_STOP_TOKEN_IDS = 1_024
MAX_LOGPROBS = 20
MAX_PROMPT_LOGPROBS = 1 << 18
"""Log-probabilities of prompts that one response has: of every token, and of the likeliest ones in its place."""
MAX_MESSAGES = 4_096
MAX_ROLE_CHARS = 64
MAX_DOCUMENTS = 1_024
MAX_SALT_CHARS = 1_024
MAX_PROMPT_IDS = 1 << 20
"""Checked before ids are looked at one by one; which of them fit the model's context is checked later."""


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


class Finish(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    """The model waits for what the tools that it called will say."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token_id: int
    logprob: float
    token: bytes
    """The token's own bytes; not always whole characters."""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """One output token's natural-log probability, and the most likely alternatives, most likely first."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]


class PromptToken(NamedTuple):  # there may be very many
    """One token of a prompt, and how likely it is after those before it: natural logarithms, of the raw logits."""

    token_id: int
    token: bytes
    """Its own bytes; not always whole characters."""
    logprob: float | None = None
    """None: the first, which follows nothing."""
    rank: int | None = None
    """1, and one for each token that is likelier in its place."""
    top: tuple[TokenLogprob, ...] = ()
    """The likeliest ones in its place, likeliest first."""


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """What was asked of the prompt: once, after Started and before anything of the answer."""

    tokens: tuple[PromptToken, ...]
    first_index: int = 0
    """Of `tokens` in the prompt, for who tells them in parts."""


@dataclass(frozen=True, slots=True)
class Started:
    """The request was taken: a worker has promised room for it. Always the first event; what fails before, raises."""

    request_id: str
    model: str
    """The one that answers: another than was asked for, where that one answers for it."""
    prompt_tokens: int
    seed: int
    allowance: Allowance = UNLIMITED
    """What the caller has left."""
    prompt_ids: tuple[int, ...] = ()
    """Where they were asked for."""


@dataclass(frozen=True, slots=True)
class CallDelta:
    """More of the call number `index`. The first has its id and name, and may have arguments; those that follow have
    only arguments, which joined are JSON."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


class Delta(NamedTuple):  # there is one for almost every token
    """More of the answer, gapless and in order. `text` may be empty while a character, a stop string or a call is open;
    reasoning and calls are not part of it."""

    text: str
    token_ids: tuple[int, ...]
    first_index: int
    logprobs: tuple[TokenLogprobs, ...] = ()
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()
    is_last: bool = False
    """Finished follows."""


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int | None = None
    """Of the answer; None where reasoning is not told from the rest."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time went: segments (name to milliseconds) do not overlap and sum to the figure before them."""

    ttft_ms: float
    ttft_segments: Mapping[str, float]
    second_token_ms: float | None = None
    second_token_segments: Mapping[str, float] = field(default_factory=dict)
    client_ms: float = 0.0
    """That tokens waited for the client to take those before them, over the whole answer."""
    cached_share: float = 0.0
    """Of the prompt's tokens, those that the prefix cache had."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event. `matched` is the stop string or the stop token's id that ended the answer, if one did."""

    reason: Finish
    matched: str | int | None
    usage: Usage
    timing: Timing
    vector: bytes = b""
    """The prompt as one: little-endian float32, for who asked."""


Event = Started | PromptLogprobs | Delta | Finished


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """Of one served model, what requests are checked against and defaulted from."""

    vocab_size: int
    max_context: int
    eos_token_ids: frozenset[int]
    defaults: Mapping[str, float] = field(default_factory=dict)
    """Sampling fields that generation_config.json sets, by this module's names."""


def resolve(request: GenerateRequest, prompt_tokens: int, limits: ModelLimits) -> SamplingParams:
    """Check every sampling field of `request` and fill in what was not given.

    Raises InvalidRequest naming the field at fault, ContextOverflow when prompt and answer do not fit the context.
    """

    def number(name: str, default: float, low: float, high: float) -> float:
        given: float | None = getattr(request, name)
        value = limits.defaults.get(name, default) if given is None else given
        if not low <= value <= high:  # NaN is not
            raise InvalidRequest(f"{name} must be between {low:g} and {high:g}, not {value}", field=name)
        return float(value)

    max_tokens = _max_tokens(request, prompt_tokens, limits.max_context)
    min_tokens = request.min_tokens or 0
    if not 0 <= min_tokens <= max_tokens:
        raise InvalidRequest(
            f"min_tokens must be between 0 and max_tokens ({max_tokens}), not {min_tokens}", field="min_tokens"
        )
    top_k = int(limits.defaults.get("top_k", 0)) if request.top_k is None else request.top_k
    if not -1 <= top_k < 2**31:
        raise InvalidRequest(f"top_k must be -1 (off), 0 (off) or more, not {top_k}", field="top_k")
    if request.logprobs is not None and not 0 <= request.logprobs <= MAX_LOGPROBS:
        raise InvalidRequest(f"logprobs must be between 0 and {MAX_LOGPROBS}, not {request.logprobs}", field="logprobs")
    _check_prompt_logprobs(request, prompt_tokens)
    if request.truncate_prompt is not None and request.truncate_prompt < 1:
        message = f"truncate_prompt must be at least 1, not {request.truncate_prompt}"
        raise InvalidRequest(message, field="truncate_prompt")
    if request.cache_salt is not None and not 0 < len(request.cache_salt) <= MAX_SALT_CHARS:
        raise InvalidRequest(f"cache_salt has 1 to {MAX_SALT_CHARS} characters", field="cache_salt")
    _check_stops(request)
    check_count(request.stop_token_ids, MAX_STOP_TOKEN_IDS, "stop_token_ids")
    check_token_ids(request.stop_token_ids, limits.vocab_size, "stop_token_ids")
    top_p = number("top_p", 1.0, 0.0, 1.0)
    if top_p == 0:  # as of every nucleus, the likeliest token is part of it
        top_k, top_p = 1, 1.0
    return SamplingParams(
        max_tokens=max(max_tokens, 1),  # nobody computes a prompt without drawing a token
        min_tokens=min_tokens,
        seed=secrets.randbits(63) if request.seed is None else request.seed % 2**64,
        temperature=number("temperature", 1.0, 0.0, 2.0),
        top_k=min(max(top_k, 0), limits.vocab_size),
        top_p=top_p,
        min_p=number("min_p", 0.0, 0.0, 1.0),
        repetition_penalty=number("repetition_penalty", 1.0, 0.01, 100.0),
        presence_penalty=number("presence_penalty", 0.0, -2.0, 2.0),
        frequency_penalty=number("frequency_penalty", 0.0, -2.0, 2.0),
        logit_bias=_logit_bias(request.logit_bias, limits.vocab_size),
        stop_token_ids=frozenset(request.stop_token_ids)
        | (frozenset() if request.ignore_eos else limits.eos_token_ids),
        num_logprobs=request.logprobs,
    )


def _check_prompt_logprobs(request: GenerateRequest, prompt_tokens: int) -> None:
    top, name = request.prompt_logprobs, "prompt_logprobs"
    if top is None:
        return
    if not 0 <= top <= MAX_LOGPROBS:
        raise InvalidRequest(f"{name} must be between 0 and {MAX_LOGPROBS}, not {top}", field=name)
    most, entries = MAX_PROMPT_LOGPROBS // request.num_together, prompt_tokens * (top + 1)
    if entries > most:
        many = f"{prompt_tokens} tokens of a prompt and {top} more in the place of each are {entries} log-probabilities"
        raise InvalidRequest(f"{many}; at most {most} are told here", field=name)


def check_count(values: Sized, most: int, name: str) -> None:
    """Raise InvalidRequest for too many of what `name` lists: before each costs time that others wait for."""
    if len(values) > most:
        raise InvalidRequest(f"{name} has at most {most} entries, not {len(values)}", field=name)


def check_role(role: str, name: str) -> None:
    """Raise InvalidRequest for a role that no chat template knows: it is text that nobody counts."""
    if len(role) > MAX_ROLE_CHARS:
        raise InvalidRequest(f"a role has at most {MAX_ROLE_CHARS} characters, not {len(role)}", field=name)


def check_token_ids(ids: tuple[int, ...], vocab_size: int, name: str) -> None:
    """Raise InvalidRequest for the first id that is not in the vocabulary."""
    if not ids or 0 <= min(ids) <= max(ids) < vocab_size:
        return
    for position, token in enumerate(ids):
        if not 0 <= token < vocab_size:
            raise InvalidRequest(f"{name}[{position}] is {token}; the vocabulary is 0 to {vocab_size - 1}", field=name)


def _max_tokens(request: GenerateRequest, prompt_tokens: int, max_context: int) -> int:
    room = max_context - prompt_tokens
    if room < 1:
        raise ContextOverflow(
            f"the prompt has {prompt_tokens} tokens and the answer needs one; the model's context is {max_context}",
            field="prompt",
            prompt_tokens=prompt_tokens,
            max_context=max_context,
        )
    if request.max_tokens is None:
        return room
    least = 0 if request.tell_prompt or request.prompt_logprobs is not None else 1
    if request.max_tokens < least:
        raise InvalidRequest(f"max_tokens must be at least {least}, not {request.max_tokens}", field="max_tokens")
    if request.max_tokens > room:
        raise ContextOverflow(
            f"prompt ({prompt_tokens} tokens) and max_tokens ({request.max_tokens}) exceed the model's context of "
            f"{max_context} tokens",
            field="max_tokens",
            prompt_tokens=prompt_tokens,
            max_context=max_context,
        )
    return request.max_tokens


def _check_stops(request: GenerateRequest) -> None:
    if len(request.stop) > MAX_STOP_STRINGS:
        raise InvalidRequest(f"at most {MAX_STOP_STRINGS} stop strings, not {len(request.stop)}", field="stop")
    for stop in request.stop:
        if not 0 < len(stop) <= MAX_STOP_CHARS:
            raise InvalidRequest(f"a stop string has 1 to {MAX_STOP_CHARS} characters, not {len(stop)}", field="stop")


def _logit_bias(bias: Mapping[int, float], vocab_size: int) -> tuple[tuple[int, float], ...]:
    check_count(bias, MAX_LOGIT_BIAS, "logit_bias")
    for token, value in bias.items():
        if not 0 <= token < vocab_size:
            raise InvalidRequest(
                f"logit_bias names token {token}; the vocabulary is 0 to {vocab_size - 1}", field="logit_bias"
            )
        if not -100 <= value <= 100:  # false for NaN too
            raise InvalidRequest(
                f"logit_bias of token {token} must be between -100 and 100, not {value}", field="logit_bias"
            )
    return tuple(sorted(bias.items()))
