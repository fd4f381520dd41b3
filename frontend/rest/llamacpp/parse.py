"""From the bytes of a llama.cpp request to what the frontend is asked for, with llama.cpp's defaults.

Ranges that bind every dialect are left to `frontend.checks.resolve`; `Ask.names` says what its fields are called here.
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import TypeVar

from engine.errors import InvalidRequest
from frontend.api import Inference
from frontend.checks import MAX_LOGIT_BIAS, MAX_PROMPT_IDS, MAX_STOP_STRINGS, check_count
from frontend.fields import Body, UnsupportedParameter, convert, decode_body, supported
from frontend.infill import check_chars, infill_tokens
from frontend.request import GenerateRequest, Grammar, GrammarKind, Infill, OtherFile, TokenPrompt
from frontend.rest.llamacpp.request_types import (
    DETAILS,
    OFF,
    Bias,
    LlamaCompletionRequest,
    LlamaInfillRequest,
    LlamaSampling,
    Part,
    Prompt,
    PromptObject,
)
from frontend.rest.llamacpp.samplers import Chain
from frontend.rest.llamacpp.sampling import Numbers
from frontend.rest.schema_grammar import schema_grammar

MAX_N = 16
MAX_ANSWERS = 128
"""That one request may ask for: prompts times n_cmpl."""
MAX_BIAS_CHARS = 1_000
"""Of a text in logit_bias."""
MAX_ID_DIGITS = 10
MAX_RESPONSE_FIELDS = 256
RANDOM_SEEDS = (-1, 2**32 - 1)
BANNED = -100.0

MOST = MappingProxyType(
    {
        "stop": MAX_STOP_STRINGS,
        "logit_bias": MAX_LOGIT_BIAS,
        "response_fields": MAX_RESPONSE_FIELDS,
        "input_extra": 1024,
    }
)
"""Entries of parameters, refused before they are converted one by one."""

Tokenize = Callable[..., list[int]]
"""`Inference.tokenize` of the model that is asked."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What one HTTP request asks for: answers to each of its prompts, in their order."""

    generations: tuple[GenerateRequest, ...]
    given: LlamaSampling
    chain: Chain
    numbers: Numbers
    names: Mapping[str, str]
    """Fields of GenerateRequest that this request spells differently."""


async def parse_completion(body: bytes, inference: Inference) -> Ask:
    fields = _fields(body, LlamaCompletionRequest)
    _check_prompt(fields.get("prompt"))
    given = convert(fields, LlamaCompletionRequest)
    tokenize = partial(inference.tokenize, given.model)
    prompts = [await _prompt(each, tokenize) for each in _prompts(given.prompt)]
    return await _ask(given, prompts, tokenize)


async def parse_infill(body: bytes, inference: Inference) -> Ask:
    fields = _fields(body, LlamaInfillRequest)
    given = convert(fields, LlamaInfillRequest)
    tokenize = partial(inference.tokenize, given.model)
    others = tuple(OtherFile(extra.text, extra.filename or "") for extra in given.input_extra or ())
    asked = Infill(given.input_prefix, given.input_suffix, given.prompt or "", others, with_file=True)
    ids = await asyncio.to_thread(infill_tokens, asked, tokenize)
    return await _ask(given, [TokenPrompt(tuple(ids))], tokenize)


def _fields(body: bytes, kind: type[LlamaSampling]) -> Body:
    """The supported parameters of `body` that are given."""
    given = {name: value for name, value in decode_body(body).items() if name not in DETAILS}
    fields = supported(given, kind, OFF)
    for name, most in MOST.items():
        if isinstance(value := fields.get(name), list | dict):
            check_count(value, most, name)
    return fields


# -- prompts -----------------------------------------------------------------------------------------------------------


def _check_prompt(given: object) -> None:
    """Before it is looked at one by one."""
    prompts = given if isinstance(given, list) else [given]
    has_number = any(isinstance(item, int) for item in prompts[:MAX_ANSWERS])
    check_count(prompts, MAX_PROMPT_IDS if has_number else MAX_ANSWERS, "prompt")
    for prompt in prompts:
        parts = prompt.get("prompt_string") if isinstance(prompt, dict) else prompt
        check_count(parts if isinstance(parts, list) else (), MAX_PROMPT_IDS, "prompt")


def _prompts(given: Prompt) -> list[str | Sequence[Part]]:
    """A list with a number in it is one prompt; any other one is a list of prompts. Raises InvalidRequest."""
    if not isinstance(given, list):
        given = [given]
    elif any(isinstance(item, int) for item in given):
        given = [[item for item in given if isinstance(item, int | str)]] if _is_flat(given) else []
    prompts = [item.prompt_string if isinstance(item, PromptObject) else item for item in given]
    if any(isinstance(item, PromptObject) and item.multimodal_data for item in given):
        raise UnsupportedParameter("multimodal_data: this model reads only text", field="prompt")
    if not prompts or [] in prompts:
        raise InvalidRequest("prompt is empty, or mixes lists with tokens", field="prompt")
    return [prompt for prompt in prompts if not isinstance(prompt, int)]


def _is_flat(given: Sequence[object]) -> bool:
    return all(isinstance(item, int | str) for item in given)


async def _prompt(given: str | Sequence[Part], tokenize: Tokenize) -> str | TokenPrompt:
    if isinstance(given, str):
        return given
    ids = tuple(item for item in given if isinstance(item, int))
    return TokenPrompt(ids if len(ids) == len(given) else await asyncio.to_thread(_mixed, given, tokenize))


def _mixed(parts: Sequence[Part], tokenize: Tokenize) -> tuple[int, ...]:
    """Special tokens are added to a text that comes first, and to no other."""
    check_chars(part for part in parts if isinstance(part, str))
    ids: list[int] = []
    for number, part in enumerate(parts):
        ids += [part] if isinstance(part, int) else tokenize(part, add_special_tokens=number == 0)
    return tuple(ids)


# -- everything else ---------------------------------------------------------------------------------------------------


async def _ask(given: LlamaSampling, prompts: Sequence[str | TokenPrompt], tokenize: Tokenize) -> Ask:
    n_name, n = _one_of({"n_cmpl": given.n_cmpl, "n": given.n}, 1)
    if not 1 <= n <= MAX_N:
        raise InvalidRequest(f"{n_name} must be between 1 and {MAX_N}, not {n}", field=n_name)
    if len(prompts) * n > MAX_ANSWERS:
        raise InvalidRequest(f"{len(prompts)} prompts times {n} exceed {MAX_ANSWERS} answers", field="prompt")
    if given.timings_per_token and given.stream:
        raise UnsupportedParameter("timings_per_token is not supported in a stream", field="timings_per_token")
    length_name, max_tokens = _length(given)
    probs_name, num_probs = _one_of({"n_probs": given.n_probs, "logprobs": given.logprobs}, 0)
    grammar_name, grammar = _grammar(given)
    chain = Chain.of(given.samplers)
    numbers = Numbers.of(given, chain)
    seed = secrets.randbits(32) if given.seed is None or given.seed in RANDOM_SEEDS else given.seed % 2**32
    generation = replace(
        numbers.request(chain, given.model),
        max_tokens=max_tokens,
        logit_bias=await asyncio.to_thread(_logit_bias, given.logit_bias, tokenize) if given.logit_bias else {},
        stop=tuple(filter(None, (given.stop,) if isinstance(given.stop, str) else given.stop or ())),
        ignore_eos=bool(given.ignore_eos),
        logprobs=num_probs or None,
        grammar=grammar,
    )
    return Ask(
        generations=tuple(replace(generation, prompt=prompt, seed=seed + i) for prompt in prompts for i in range(n)),
        given=given,
        chain=chain,
        numbers=numbers,
        names={
            "max_tokens": length_name,
            "logprobs": probs_name,
            "grammar": grammar_name,
            "repetition_penalty": "repeat_penalty",
        },
    )


def _one_of(named: Mapping[str, T | None], default: T) -> tuple[str, T]:
    """The name and value of what is given, of several names for the same."""
    given = [(name, value) for name, value in named.items() if value is not None]
    for name, value in given[1:]:
        if value != given[0][1]:
            raise InvalidRequest(f"{given[0][0]} and {name} differ; give one", field=name)
    return given[0] if given else (next(iter(named)), default)


def _length(given: LlamaSampling) -> tuple[str, int | None]:
    named = {
        "n_predict": given.n_predict,
        "max_completion_tokens": given.max_completion_tokens,
        "max_tokens": given.max_tokens,
    }
    name, length = _one_of(named, -1)
    if not -1 <= length < 2**31:
        raise InvalidRequest(f"{name} must be -1 (no limit), 0 or more, not {length}", field=name)
    return name, None if length == -1 else max(length, 1)


def _grammar(given: LlamaSampling) -> tuple[str, Grammar | None]:
    if given.json_schema is not None:
        if given.grammar:
            raise InvalidRequest("grammar and json_schema exclude each other; give one", field="json_schema")
        return "json_schema", schema_grammar(given.json_schema, "json_schema", is_closed=True)
    return "grammar", Grammar(GrammarKind.LARK, given.grammar) if given.grammar else None


def _logit_bias(given: list[tuple[Part, Bias]] | dict[str, Bias], tokenize: Tokenize) -> Mapping[int, float]:
    """By token; those of one token add up. Of a text every token has it."""
    pairs = given if isinstance(given, list) else [(_key(key), bias) for key, bias in given.items()]
    sums: dict[int, float] = {}
    banned: dict[int, float] = {}
    for key, bias in pairs:
        if bias is True:
            raise InvalidRequest("logit_bias: a bias is a number, or false", field="logit_bias")
        for token in [key] if isinstance(key, int) else _tokens(key, tokenize):
            if bias is False:
                banned[token] = BANNED
            else:
                sums[token] = sums.get(token, 0.0) + bias
    return sums | banned


def _key(name: str) -> Part:
    """In an object, a number is a token."""
    return int(name) if name.isascii() and name.isdecimal() and len(name) <= MAX_ID_DIGITS else name


def _tokens(text: str, tokenize: Tokenize) -> list[int]:
    if len(text) > MAX_BIAS_CHARS:
        raise InvalidRequest(f"logit_bias: a text has at most {MAX_BIAS_CHARS} characters", field="logit_bias")
    return tokenize(text, add_special_tokens=False)
