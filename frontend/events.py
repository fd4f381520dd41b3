"""What a client hears back, the same for every dialect: Started, Deltas, Finished.

A dialect turns the events of an answer to its `frontend.request.GenerateRequest` into its own messages. Does not know
dialects, tokenizers or workers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from frontend.callers import UNLIMITED, Allowance


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
    way_ms: float = 0.0
    """Of `egress`, what was before `prefill_queue`: the way to the worker."""
    clock_within_ms: float | None = None
    """Workers have clocks of their own: where their parts begin and end may be so much off. None: nobody knows."""


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
