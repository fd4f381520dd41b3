"""From the bytes of an Ollama request to what the frontend is asked for.

Ranges that bind every dialect are left to `frontend.checks.resolve`; `NAMES` says what its fields are called here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import msgspec

from engine.errors import InvalidRequest
from frontend.api import ServedModel
from frontend.checks import MAX_MESSAGES, MAX_PROMPT_IDS, MAX_STOP_STRINGS, check_count
from frontend.fields import Body, Off, UnsupportedParameter, convert, decode_body, supported
from frontend.request import Chat, GenerateRequest, Grammar, GrammarKind, Infill
from frontend.rest.ollama.conversation import conversation
from frontend.rest.ollama.request_types import (
    CHAT_OFF,
    GENERATE_OFF,
    MESSAGE_OFF,
    OPTIONS_OFF,
    KeepAlive,
    OllamaAsk,
    OllamaChatRequest,
    OllamaGenerateRequest,
    OllamaMessage,
    OllamaOptions,
)
from frontend.rest.ollama.thinking import Thinking, thinking_of
from frontend.rest.schema_grammar import schema_grammar
from frontend.tools import MAX_TOOLS

Find = Callable[[str], ServedModel]
"""The model of a name. Raises UnknownModel."""

NAMES = MappingProxyType(
    {
        "max_tokens": "options.num_predict",
        "temperature": "options.temperature",
        "top_k": "options.top_k",
        "top_p": "options.top_p",
        "min_p": "options.min_p",
        "repetition_penalty": "options.repeat_penalty",
        "presence_penalty": "options.presence_penalty",
        "frequency_penalty": "options.frequency_penalty",
        "stop": "options.stop",
        "logprobs": "top_logprobs",
        "grammar": "format",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What one HTTP request asks for."""

    model: str
    """As the client calls it."""
    served: ServedModel
    generation: GenerateRequest | None = None
    """None: nothing but that the model be loaded."""
    stream: bool
    names: Mapping[str, str] = field(default_factory=dict)
    """Fields of GenerateRequest that this request spells differently."""
    context: tuple[int, ...] = ()
    """Tokens that the prompt goes on after."""
    tells_context: bool = False
    """The answer says what a further prompt can go on after."""


def parse_generate(body: bytes, find: Find) -> Ask:
    fields = _fields(body, OllamaGenerateRequest, GENERATE_OFF)
    check_count(_list(fields.get("context")), MAX_PROMPT_IDS, "context")
    given = convert(fields, OllamaGenerateRequest)
    served = find(given.model)
    asked = Ask(model=given.model, served=served, stream=given.stream)
    if not given.prompt and not given.suffix:
        return _only_load(asked, given.keep_alive)
    is_plain = given.raw or bool(given.suffix) or not served.has_chat_template
    _check_plain(given, served, is_plain=is_plain)
    thinking = thinking_of(given, served, is_told=not is_plain and not given.context)
    prompt = _plain(given) if is_plain else _one_turn(given, thinking)
    return replace(
        asked,
        generation=_generation(given, served, prompt, thinking),
        names={**NAMES, "prompt": "context" if given.context else "prompt"},
        context=tuple(given.context),
        tells_context=not given.raw and not given.suffix,
    )


def parse_chat(body: bytes, find: Find) -> Ask:
    fields = _fields(body, OllamaChatRequest, CHAT_OFF)
    tools, messages = _list(fields.get("tools")), _list(fields.get("messages"))
    check_count(tools, MAX_TOOLS, "tools")
    check_count(messages, MAX_MESSAGES, "messages")
    if messages:
        fields["messages"] = [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]
    given = convert(fields, OllamaChatRequest)
    served = find(given.model)
    asked = Ask(model=given.model, served=served, stream=given.stream, names={**NAMES, "prompt": "messages"})
    if not given.messages:
        return _only_load(asked, given.keep_alive)
    if tools and not served.calls_tools:
        raise InvalidRequest(f"{given.model!r} does not support tools", field="tools")
    thinking = thinking_of(given, served)
    prompt = conversation(given.messages, tools, thinking.variables)
    return replace(asked, generation=_generation(given, served, prompt, thinking))


def _fields(body: bytes, kind: type[OllamaAsk], off: Off) -> Body:
    fields = supported(decode_body(body), kind, off)
    if isinstance(options := fields.get("options"), dict):
        fields["options"] = supported(options, OllamaOptions, OPTIONS_OFF, "options.")
        check_count(_list(options.get("stop")), MAX_STOP_STRINGS, "options.stop")
    return fields


def _list(value: object) -> list[object]:
    """What is no list shows when it is converted."""
    return value if isinstance(value, list) else []


def _message(given: object, path: str) -> object:
    if not isinstance(given, dict):
        return given
    fields = supported(given, OllamaMessage, MESSAGE_OFF, f"{path}.")
    if isinstance(role := fields.get("role"), str):
        fields["role"] = role.lower()
    return fields


def _check_plain(given: OllamaGenerateRequest, served: ServedModel, *, is_plain: bool) -> None:
    if given.raw and (given.system or given.context):
        raise InvalidRequest("raw takes neither system nor context", field="raw")
    if given.suffix and (given.raw or given.system or given.context):
        raise InvalidRequest("suffix takes neither raw nor system nor context", field="suffix")
    if given.suffix and not served.infills:
        raise UnsupportedParameter(f"suffix: {given.model!r} does not support insert", field="suffix")
    if is_plain and given.system:
        raise UnsupportedParameter("system needs a model with a chat template", field="system")


def _plain(given: OllamaGenerateRequest) -> str | Infill:
    return Infill(given.prompt, given.suffix) if given.suffix else given.prompt


def _one_turn(given: OllamaGenerateRequest, thinking: Thinking) -> Chat:
    system = [OllamaMessage(role="system", content=given.system)] if given.system else []
    return conversation([*system, OllamaMessage(role="user", content=given.prompt)], (), thinking.variables)


def _only_load(ask: Ask, keep_alive: KeepAlive) -> Ask:
    """Of who sends no prompt: the model is loaded as long as it is served."""
    if keep_alive is not None and not any(digit in "123456789" for digit in str(keep_alive)):
        message = "keep_alive 0 without a prompt unloads a model; they stay loaded here"
        raise UnsupportedParameter(message, field="keep_alive")
    return ask


def _generation(
    given: OllamaAsk, served: ServedModel, prompt: str | Chat | Infill, thinking: Thinking
) -> GenerateRequest:
    options = _checked(given.options, served)
    if given.top_logprobs and not given.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true", field="top_logprobs")
    return GenerateRequest(
        prompt=prompt,
        model=served.name,
        max_tokens=options.num_predict if options.num_predict > 0 else None,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repetition_penalty=options.repeat_penalty,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        seed=None if options.seed == -1 else options.seed,
        stop=tuple(options.stop),
        logprobs=given.top_logprobs if given.logprobs else None,
        grammar=_grammar(given.format),
        separate_reasoning=thinking.is_on,
    )


def _checked(options: OllamaOptions, served: ServedModel) -> OllamaOptions:
    """With penalties as they are here: over everything, or off."""
    if options.num_ctx is not None and options.num_ctx > served.max_context:
        message = f"options.num_ctx asks for {options.num_ctx} tokens; the context is {served.max_context} here"
        raise InvalidRequest(message, field="options.num_ctx")
    unpenalised = msgspec.structs.replace(options, repeat_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0)
    match options.repeat_last_n:
        case None | -1:
            return options
        case 0:
            return unpenalised
        case _ if options == unpenalised:
            return options
        case _:
            message = "options.repeat_last_n is not supported by this server: penalties look back over everything (-1)"
            raise UnsupportedParameter(message, field="options.repeat_last_n")


def _grammar(given: object) -> Grammar | None:
    match given:
        case None | "":
            return None
        case "json":
            return Grammar(GrammarKind.JSON_OBJECT)
        case dict():
            return schema_grammar(given, "format", is_closed=True)
        case _:
            raise InvalidRequest('format must be "json" or a JSON schema', field="format")
