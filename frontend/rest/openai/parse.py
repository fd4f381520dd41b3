"""From the bytes of an OpenAI request to what the frontend is asked for.

Ranges that bind every dialect are left to `frontend.checks.resolve`; `names` says what its fields are called here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from engine.errors import InvalidRequest
from frontend.checks import (
    MAX_DOCUMENTS,
    MAX_LOGIT_BIAS,
    MAX_LOGPROBS,
    MAX_MESSAGES,
    MAX_PROMPT_IDS,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKEN_IDS,
    check_count,
)
from frontend.fields import Body, Off, UnsupportedParameter, convert, decode_body, supported
from frontend.request import Chat, GenerateRequest, GrammarKind, Infill, TokenPrompt
from frontend.rest.errors import rename
from frontend.rest.openai.conversation import conversation
from frontend.rest.openai.grammar import StructuredOutputs, find_grammar
from frontend.rest.openai.request_types import (
    CHAT_OFF,
    COMPLETION_OFF,
    MESSAGE_OFF,
    PART_TYPES,
    STREAM_OPTIONS_OFF,
    STRUCTURED_OFF,
    ChatCompletionRequest,
    CompletionRequest,
    Message,
    Sampling,
    StreamOptions,
)
from frontend.tools import MAX_TOOLS

MAX_N = 16
MAX_PARTS = 1_024
"""Of one message's content."""
MAX_CHOICES = 128
"""Answers that one request may ask for: prompts times n."""

MOST = MappingProxyType(
    {
        "stop": MAX_STOP_STRINGS,
        "stop_token_ids": MAX_STOP_TOKEN_IDS,
        "logit_bias": MAX_LOGIT_BIAS,
        "metadata": 64,
        "tools": MAX_TOOLS,
        "functions": MAX_TOOLS,
        "documents": MAX_DOCUMENTS,
    }
)
"""Entries of parameters, refused before they are converted one by one."""
NAMES: Mapping[str, str] = MappingProxyType(
    {"include_stop": "include_stop_str_in_output", "truncate_prompt": "truncate_prompt_tokens"}
)
"""Fields of GenerateRequest that both endpoints spell differently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What one HTTP request asks for: `num_each` answers to each of its prompts, in the order of their choices."""

    generations: tuple[GenerateRequest, ...]
    num_each: int
    n: int
    """Of those, so many are given: the likeliest, if that is not all."""
    stream: bool
    include_usage: bool
    running_usage: bool
    """Every chunk of a stream has the usage so far."""
    echo: bool = False
    """Answers begin with their prompts."""
    shows_ids: bool = False
    """Answers tell the tokens of their prompts, and their own."""
    shows_logprobs: bool = True
    """False: they are wanted only to tell which answers are the likeliest."""
    echo_logprobs: int | None = None
    """Of the prompts that answers begin with: so many of the likeliest tokens in the place of each."""
    prompt_logprobs: int | None = None
    """The same, as vLLM tells them."""
    names: Mapping[str, str]
    """Fields of GenerateRequest that this request spells differently."""
    functions: bool = False
    """Calls are answered as they were before tools."""
    names_tool: bool = False
    """One call of one tool was asked for: it is no surprise, and the answer just stops."""


def parse_chat(body: bytes, *, lenient: bool = False) -> Ask:
    fields = _fields(body, ChatCompletionRequest, CHAT_OFF, lenient=lenient)
    if isinstance(messages := fields.get("messages"), list):
        check_count(messages, MAX_MESSAGES, "messages")
        fields["messages"] = [
            _message(message, f"messages[{i}]", lenient=lenient) for i, message in enumerate(messages)
        ]
    given = convert(fields, ChatCompletionRequest)
    names = {
        "prompt": "messages",
        **NAMES,
        "template_kwargs": "chat_template_kwargs",
    }
    if given.functions:
        names |= {"tools": "functions", "tool_choice": "function_call"}
    max_tokens = given.max_tokens
    if given.max_completion_tokens is not None:
        if max_tokens not in (None, given.max_completion_tokens):
            raise InvalidRequest("max_tokens and max_completion_tokens differ; give one", field="max_tokens")
        max_tokens, names["max_tokens"] = given.max_completion_tokens, "max_completion_tokens"
    chat = _conversation(given, fields, names)
    generation = replace(
        _generation(given),
        prompt=chat,
        max_tokens=max_tokens,
        logprobs=_chat_logprobs(given),
        separate_reasoning=given.separate_reasoning is not False,
    )
    ask = _ask(given, [generation], names)
    return replace(ask, functions=bool(given.functions), names_tool=chat.tool_choice.name is not None)


def parse_completion(body: bytes, *, lenient: bool = False) -> Ask:
    fields = _fields(body, CompletionRequest, COMPLETION_OFF, lenient=lenient)
    if isinstance(prompt := fields.get("prompt"), list):
        check_count(prompt, MAX_PROMPT_IDS if isinstance(prompt[0] if prompt else 0, int) else MAX_CHOICES, "prompt")
        for item in prompt:
            check_count(item if isinstance(item, list) else (), MAX_PROMPT_IDS, "prompt")
    given = convert(fields, CompletionRequest)
    if given.echo and given.suffix:
        raise InvalidRequest("echo and suffix exclude each other", field="suffix")
    is_chosen = (given.best_of or 1) > (given.n or 1)
    logprobs = 0 if is_chosen and given.logprobs is None else given.logprobs
    echo_logprobs = given.logprobs if given.echo else None
    told = [top for top in (echo_logprobs, given.prompt_logprobs) if top is not None]
    generation = replace(
        _generation(given),
        logprobs=logprobs,
        prompt_logprobs=max(told, default=None),
        tell_prompt=bool(given.return_token_ids or (given.echo and given.max_tokens == 0)),
    )
    prompts = [
        replace(generation, prompt=Infill(prompt, given.suffix) if given.suffix else prompt)
        for prompt in prompts_of(given.prompt, "prompt")
    ]
    names = {**NAMES, "token_ids": "prompt", "infill": "suffix"}
    if given.prompt_logprobs is None:
        names["prompt_logprobs"] = "logprobs"
    ask = _ask(given, prompts, names, given.best_of)
    return replace(ask, echo=bool(given.echo), shows_logprobs=given.logprobs is not None, echo_logprobs=echo_logprobs)


def _fields(body: bytes, kind: type[Sampling], off: Off, *, lenient: bool) -> Body:
    """The supported top-level parameters of `body` that are given."""
    fields = supported(decode_body(body), kind, off, lenient=lenient)
    for name, most in MOST.items():
        if isinstance(given := fields.get(name), list | dict):
            check_count(given, most, name)
    if isinstance(options := fields.get("stream_options"), dict):
        path = "stream_options."
        fields["stream_options"] = supported(options, StreamOptions, STREAM_OPTIONS_OFF, path, lenient=lenient)
    if isinstance(outputs := fields.get("structured_outputs"), dict):
        path = "structured_outputs."
        fields["structured_outputs"] = supported(outputs, StructuredOutputs, STRUCTURED_OFF, path, lenient=lenient)
    return fields


def _message(given: object, path: str, *, lenient: bool) -> object:
    if not isinstance(given, dict):
        return given  # _convert says what is wrong with it
    kept = supported(given, Message, MESSAGE_OFF, f"{path}.", lenient=lenient)
    content = kept.get("content")
    parts = content if isinstance(content, list) else []
    check_count(parts, MAX_PARTS, f"{path}.content")
    if isinstance(calls := kept.get("tool_calls"), list):
        check_count(calls, MAX_TOOLS, f"{path}.tool_calls")
    for position, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind in PART_TYPES:
            raise UnsupportedParameter(
                f"this server reads text; content parts of type {kind} are not supported",
                field=f"{path}.content[{position}].type",
            )
    return kept


def _conversation(given: ChatCompletionRequest, fields: Body, names: Mapping[str, str]) -> Chat:
    try:
        return conversation(given, fields)
    except InvalidRequest as error:
        rename(error, names)
        raise


def _generation(given: Sampling) -> GenerateRequest:
    """Everything but the prompt and what the endpoints spell differently."""
    return GenerateRequest(
        prompt="",
        model=given.model,
        max_tokens=given.max_tokens,
        min_tokens=given.min_tokens,
        temperature=given.temperature,
        top_k=given.top_k,
        top_p=given.top_p,
        min_p=given.min_p,
        repetition_penalty=given.repetition_penalty,
        presence_penalty=given.presence_penalty,
        frequency_penalty=given.frequency_penalty,
        logit_bias={_token_id(key): value for key, value in (given.logit_bias or {}).items()},
        seed=given.seed,
        stop=(given.stop,) if isinstance(given.stop, str) else tuple(given.stop or ()),
        stop_token_ids=tuple(given.stop_token_ids or ()),
        include_stop=bool(given.include_stop_str_in_output),
        ignore_eos=bool(given.ignore_eos),
        skip_special_tokens=given.skip_special_tokens is not False,
        tell_prompt=bool(given.return_token_ids),
        prompt_logprobs=given.prompt_logprobs,
        add_special_tokens=given.add_special_tokens,
        truncate_prompt=given.truncate_prompt_tokens,
        cache_salt=given.cache_salt,
    )


def _token_id(key: str) -> int:
    if len(key) > 10 or not (key.isascii() and key.isdecimal()) or str(int(key)) != key:
        raise InvalidRequest(
            f"logit_bias maps token ids to numbers; {key[:40]!r} is not a token id", field="logit_bias"
        )
    return int(key)


def _chat_logprobs(given: ChatCompletionRequest) -> int | None:
    top = given.top_logprobs or 0
    if not 0 <= top <= 20:
        raise InvalidRequest(f"top_logprobs must be between 0 and 20, not {top}", field="top_logprobs")
    if top and not given.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true", field="top_logprobs")
    return top if given.logprobs else None


def prompts_of(given: str | list[str | int | list[int]], name: str) -> list[str | TokenPrompt]:
    """One text, many texts, the tokens of one, or of many. Raises InvalidRequest for mixtures and emptiness."""
    if isinstance(given, str):
        prompts: list[str | TokenPrompt] = [given]
    elif all(isinstance(item, str) for item in given):
        prompts = [item for item in given if isinstance(item, str)]
    elif all(isinstance(item, int) for item in given):
        prompts = [TokenPrompt(_ints(given))]
    elif all(isinstance(item, list) for item in given):
        prompts = [TokenPrompt(tuple(item)) for item in given if isinstance(item, list)]
    else:
        raise InvalidRequest(f"{name} mixes texts, token ids and lists of token ids", field=name)
    if not prompts or any(prompt in ("", TokenPrompt(())) for prompt in prompts):
        raise InvalidRequest(f"{name} is empty", field=name)
    return prompts


def _ints(items: Iterable[object]) -> tuple[int, ...]:
    return tuple(item for item in items if isinstance(item, int))


def _ask(
    given: Sampling, generations: list[GenerateRequest], names: Mapping[str, str], best_of: int | None = None
) -> Ask:
    if found := find_grammar(given):
        names = {**names, "grammar": found[0]}
        format_only = found[0] == "response_format" and found[1].kind in (
            GrammarKind.JSON_SCHEMA,
            GrammarKind.JSON_OBJECT,
        )
        generations = [replace(generation, grammar=found[1], format_only=format_only) for generation in generations]
    n = 1 if given.n is None else given.n
    if not 1 <= n <= MAX_N:
        raise InvalidRequest(f"n must be between 1 and {MAX_N}, not {n}", field="n")
    num_each = n if best_of is None else best_of
    if not n <= num_each <= MAX_N:
        raise InvalidRequest(f"best_of must be between n ({n}) and {MAX_N}, not {num_each}", field="best_of")
    if num_each > n and given.stream:
        raise InvalidRequest(
            "which answers are the best shows at their end: best_of above n has no stream", field="best_of"
        )
    if len(generations) * num_each > MAX_CHOICES:
        name = "n" if best_of is None else "best_of"
        raise InvalidRequest(
            f"{len(generations)} prompts times {name}={num_each} exceed {MAX_CHOICES} answers", field="prompt"
        )
    if given.stream_options is not None and not given.stream:
        raise InvalidRequest("stream_options needs stream: true", field="stream_options")
    if given.prompt_logprobs is not None and given.prompt_logprobs < 0:  # else more may be wanted for an echo
        message = f"prompt_logprobs must be between 0 and {MAX_LOGPROBS}, not {given.prompt_logprobs}"
        raise InvalidRequest(message, field="prompt_logprobs")
    if given.stream and given.prompt_logprobs is not None:
        raise InvalidRequest("prompt_logprobs are not told in a stream", field="prompt_logprobs")
    together = [replace(generation, num_together=len(generations) * num_each) for generation in generations]
    stream = bool(given.stream)
    return Ask(
        generations=tuple(_numbered(each, i, stream=stream) for each in together for i in range(num_each)),
        num_each=num_each,
        n=n,
        stream=stream,
        include_usage=bool(given.stream_options and given.stream_options.include_usage),
        running_usage=bool(given.stream_options and given.stream_options.continuous_usage_stats),
        names=names,
        shows_ids=bool(given.return_token_ids),
        prompt_logprobs=given.prompt_logprobs,
    )


def _numbered(generation: GenerateRequest, i: int, *, stream: bool) -> GenerateRequest:
    """Choice `i` of its prompt: a given seed must not make all of them the same. What is said of the prompt is said to
    the first; in a stream, where the others cannot wait for that, to all."""
    if i == 0:
        return generation
    seed = None if generation.seed is None else generation.seed + i
    return replace(generation, seed=seed, prompt_logprobs=generation.prompt_logprobs if stream else None)
