"""What is checked of every request, whatever dialect it came in: how much of everything, which ranges, which defaults.

Dialects ask for counts before they convert what there may be too much of; a model asks for the rest (`resolve`), when
it knows the prompt's tokens. Does not know dialects, tokenizers or workers.
"""

import secrets
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field

from engine.errors import ContextOverflow, InvalidRequest
from engine.sequence import SamplingParams
from frontend.request import GenerateRequest

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """Of one served model, what requests are checked against and defaulted from."""

    vocab_size: int
    max_context: int
    eos_token_ids: frozenset[int]
    defaults: Mapping[str, float] = field(default_factory=dict)
    """Sampling fields that generation_config.json sets, by the names of `GenerateRequest`."""


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
