"""From the bytes of a request to /v1/responses to what the frontend is asked for. Does not know how answers look."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from msgspec import Struct

from engine.errors import InvalidRequest
from frontend.checks import MAX_MESSAGES, MAX_STOP_STRINGS, check_count
from frontend.fields import Body, Off, UnsupportedParameter, convert, decode_body, supported
from frontend.request import Chat, GenerateRequest, Grammar, GrammarKind
from frontend.rest.openai.conversation import allowed
from frontend.rest.openai.parse import MAX_PARTS
from frontend.rest.openai.responses.conversation import messages_of
from frontend.rest.openai.responses.items import ITEM_OFF, KINDS, OTHER_PARTS, Item, ItemReference, ResponseMessage
from frontend.rest.openai.responses.request_types import (
    COUNT_OFF,
    RESPONSE_OFF,
    Asked,
    CountRequest,
    JsonText,
    ReasoningConfig,
    ResponseAllowedTools,
    ResponseNamedTool,
    ResponseRequest,
    ResponseStreamOptions,
    SchemaText,
    TextConfig,
)
from frontend.rest.openai.responses.store import CallersStore, Kept
from frontend.rest.schema_grammar import schema_grammar
from frontend.tools import AUTO, MAX_TOOLS, Tool, ToolChoice, ToolMode, check_tools

MOST = MappingProxyType(
    {"input": MAX_MESSAGES, "tools": MAX_TOOLS, "metadata": 16, "include": 16, "stop": MAX_STOP_STRINGS}
)
NESTED: Mapping[str, type[Struct]] = MappingProxyType(
    {"text": TextConfig, "reasoning": ReasoningConfig, "stream_options": ResponseStreamOptions}
)
MAX_NESTING = 128
"""Of what is repeated in responses, which are encoded deeper in the interpreter's stack than this was decoded."""
NAMES = MappingProxyType(
    {
        "prompt": "input",
        "messages": "input",
        "max_tokens": "max_output_tokens",
        "logprobs": "top_logprobs",
        "grammar": "text.format",
        "template_kwargs": "chat_template_kwargs",
        "reasoning_effort": "reasoning.effort",
    }
)
"""Fields of GenerateRequest that are spelled differently here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseAsk:
    """What one HTTP request asks for."""

    given: ResponseRequest
    generation: GenerateRequest
    input: tuple[Item, ...]
    before: Kept | None
    """The response that it goes on with."""


def parse_response(body: bytes, store: CallersStore, *, lenient: bool = False) -> ResponseAsk:
    given = convert(_fields(body, ResponseRequest, RESPONSE_OFF, lenient=lenient), ResponseRequest)
    before = None if given.previous_response_id is None else store.previous(given.previous_response_id)
    items = _items(given, store)
    chat = _conversation(given, items, before)
    if given.top_logprobs is not None and not 0 <= given.top_logprobs <= 20:
        raise InvalidRequest(f"top_logprobs must be between 0 and 20, not {given.top_logprobs}", field="top_logprobs")
    wants_logprobs = bool(given.top_logprobs) or "message.output_text.logprobs" in (given.include or ())
    if given.stream_options is not None and not given.stream:
        raise InvalidRequest("stream_options needs stream: true", field="stream_options")
    if given.background and (given.stream or given.store is False):
        field = "stream" if given.stream else "store"
        raise UnsupportedParameter(f"{field} does not go with background, whose responses are retrieved", field=field)
    grammar = _grammar(given)
    generation = GenerateRequest(
        prompt=chat,
        model=given.model,
        max_tokens=given.max_output_tokens,
        temperature=given.temperature,
        top_k=given.top_k,
        top_p=given.top_p,
        min_p=given.min_p,
        repetition_penalty=given.repetition_penalty,
        presence_penalty=given.presence_penalty,
        frequency_penalty=given.frequency_penalty,
        seed=given.seed,
        stop=(given.stop,) if isinstance(given.stop, str) else tuple(given.stop or ()),
        logprobs=(given.top_logprobs or 0) if wants_logprobs else None,
        grammar=grammar,
        format_only=grammar is not None,
    )
    return ResponseAsk(given=given, generation=generation, input=items, before=before)


def parse_count(body: bytes, store: CallersStore, *, lenient: bool = False) -> tuple[str | None, Chat]:
    """The model, and the conversation whose tokens are to be counted."""
    given = convert(_fields(body, CountRequest, COUNT_OFF, lenient=lenient), CountRequest)
    before = None if given.previous_response_id is None else store.previous(given.previous_response_id)
    return given.model, _conversation(given, _items(given, store), before)


def _fields(body: bytes, kind: type[Struct], off: Off, *, lenient: bool) -> Body:
    """The supported parameters of `body` that are given."""
    fields = supported(decode_body(body), kind, off, lenient=lenient)
    for name, most in MOST.items():
        if isinstance(given := fields.get(name), list | dict):
            check_count(given, most, name)
    for name in ("tools", "text"):
        _check_nesting(fields.get(name), name)
    for name, nested in NESTED.items():
        if isinstance(given := fields.get(name), dict):
            fields[name] = supported(given, nested, {}, f"{name}.", lenient=lenient)
    if isinstance(tools := fields.get("tools"), list):
        for position, tool in enumerate(tools):
            kind_of = tool.get("type") if isinstance(tool, dict) else None
            if isinstance(kind_of, str) and kind_of != "function":
                message = f"this server runs no tools; those of type {kind_of[:80]} are not supported"
                raise UnsupportedParameter(message, field=f"tools[{position}].type")
    if isinstance(items := fields.get("input"), list):
        fields["input"] = [_item(item, f"input[{i}]", lenient=lenient) for i, item in enumerate(items)]
    return fields


def _check_nesting(given: object, name: str) -> None:
    level = [given]
    for _ in range(MAX_NESTING):
        nested = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = [item for items in nested for item in items]
        if not level:
            return
    raise InvalidRequest(f"{name} is nested more than {MAX_NESTING} deep", field=name)


def _item(given: object, path: str, *, lenient: bool) -> object:
    """With its type, which messages and references may leave out."""
    if not isinstance(given, dict):
        return given  # `convert` says what is wrong with it
    fields = dict(given)
    kind = fields.pop("type", None) or ("message" if "role" in fields else "item_reference")
    if not isinstance(kind, str) or kind not in KINDS:
        raise UnsupportedParameter(f"items of type {str(kind)[:80]} are not supported", field=f"{path}.type")
    off = {name: none for name, none in ITEM_OFF.items() if name not in KINDS[kind].__struct_fields__}
    if kind == "function_call_output":
        fields.pop("name", None)  # the call's own, which is known
    kept = supported(fields, KINDS[kind], off, f"{path}.", lenient=lenient)
    if kept.get("encrypted_content") is not None:
        message = "this server cannot read reasoning that others have encrypted"
        raise UnsupportedParameter(message, field=f"{path}.encrypted_content")
    for name in ("content", "output"):
        value = kept.get(name)
        parts = value if isinstance(value, list) else []
        check_count(parts, MAX_PARTS, f"{path}.{name}")
        for position, part in enumerate(parts):
            kind_of = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind_of, str) and kind_of in OTHER_PARTS:
                message = f"this server reads text; content parts of type {kind_of} are not supported"
                raise UnsupportedParameter(message, field=f"{path}.{name}[{position}].type")
    return {"type": kind, **kept}


def _items(given: Asked, store: CallersStore) -> tuple[Item, ...]:
    match given.input:
        case None if given.previous_response_id is None:
            raise InvalidRequest("missing required parameter: input", field="input")
        case None:
            return ()
        case str(text):
            return (ResponseMessage(role="user", content=text),)
        case items:
            return tuple(store.item(item.id) if isinstance(item, ItemReference) else item for item in items)


def _conversation(given: Asked, items: tuple[Item, ...], before: Kept | None) -> Chat:
    tools = tuple(_tools(given))
    choice = AUTO
    match given.tool_choice:
        case ResponseNamedTool(name=name):
            choice = ToolChoice(ToolMode.REQUIRED, name)
        case ResponseAllowedTools(mode=mode, tools=named):
            tools = allowed(tools, [tool.name for tool in named])
            choice = ToolChoice(ToolMode(mode))
        case str(mode):
            choice = ToolChoice(ToolMode(mode))
    check_tools(tools, choice)
    messages = messages_of((*(before.context if before is not None else ()), *items), given.instructions)
    check_count(messages, MAX_MESSAGES, "input")
    return Chat(
        messages,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=given.parallel_tool_calls is not False,
        strict_tools=frozenset(tool.name for tool in given.tools or () if tool.strict),
        reasoning_effort=given.reasoning.effort if given.reasoning is not None else None,
        template_kwargs=given.chat_template_kwargs or {},
    )


def _tools(given: Asked) -> list[Tool]:
    tools: list[Tool] = []
    for tool in given.tools or ():
        fields = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
        function = {name: value for name, value in fields.items() if value is not None}
        tools.append({"type": "function", "function": function})
    return tools


def _grammar(given: Asked) -> Grammar | None:
    match None if given.text is None else given.text.format:
        case SchemaText(schema=schema, strict=strict):
            return schema_grammar(schema, "text.format", is_closed=not strict)
        case JsonText():
            return Grammar(GrammarKind.JSON_OBJECT)
        case _:
            return None
