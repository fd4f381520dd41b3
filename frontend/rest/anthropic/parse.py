"""From the bytes of an Anthropic request to what the frontend is asked for.

Ranges that bind every dialect are left to `frontend.checks.resolve`; `NAMES` says what its fields are called here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from msgspec import Struct

from engine.errors import InvalidRequest
from frontend.checks import MAX_MESSAGES, MAX_STOP_STRINGS, check_count
from frontend.fields import Body, Off, UnsupportedParameter, convert, decode_body, supported
from frontend.request import Chat, GenerateRequest, Grammar, GrammarKind
from frontend.rest.anthropic.conversation import conversation
from frontend.rest.anthropic.request_types import (
    BLOCKS,
    COUNT_OFF,
    MESSAGES_OFF,
    TOOL_OFF,
    UNREAD_BLOCKS,
    CountTokensRequest,
    MessageOutputConfig,
    MessagesRequest,
    MessageTool,
    ThinkingEnabled,
    Turn,
)
from frontend.tools import MAX_TOOLS

MAX_BLOCKS = 1_024
"""Of one message's content."""
MIN_BUDGET = 1_024

Kinds = Mapping[str, tuple[type[Struct], Off]]
"""Blocks by their types, and what of them is known and not supported."""
TEXTS: Kinds = MappingProxyType({"text": BLOCKS["text"]})
"""Of a system's message, and of a tool's result."""

NAMES = MappingProxyType(
    {
        "prompt": "messages",
        "stop": "stop_sequences",
        "grammar": "output_config.format",
        "template_kwargs": "thinking",
        "reasoning_effort": "output_config.effort",
    }
)
"""Fields of GenerateRequest that this dialect spells differently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What one request for a message asks for."""

    generation: GenerateRequest
    stream: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A conversation whose tokens are to be counted."""

    model: str
    chat: Chat


def parse_messages(body: bytes) -> Ask:
    given = convert(_fields(body, MessagesRequest, MESSAGES_OFF), MessagesRequest)
    _check_sampling(given)
    if isinstance(given.thinking, ThinkingEnabled):
        _check_thinking(given, given.thinking)
    generation = GenerateRequest(
        prompt=conversation(given),
        model=given.model,
        max_tokens=given.max_tokens,
        temperature=given.temperature,
        top_p=given.top_p,
        top_k=given.top_k,
        stop=tuple(given.stop_sequences or ()),
        grammar=_grammar(given.output_config),
    )
    return Ask(generation=generation, stream=bool(given.stream))


def parse_count(body: bytes) -> Prompt:
    given = convert(_fields(body, CountTokensRequest, COUNT_OFF), CountTokensRequest)
    if isinstance(given.thinking, ThinkingEnabled):
        _check_budget(given.thinking)
    return Prompt(model=given.model, chat=conversation(given))


def _grammar(given: MessageOutputConfig | None) -> Grammar | None:
    if given is None or given.format is None:
        return None
    try:
        schema = json.dumps(given.format.schema, ensure_ascii=False)  # msgspec knows no numbers beyond 64 bits
    except RecursionError:
        raise InvalidRequest("the schema is nested too deeply", field="output_config.format") from None
    return Grammar(GrammarKind.JSON_SCHEMA, schema)


# -- ranges that only Anthropic has ------------------------------------------------------------------------------------


def _check_sampling(given: MessagesRequest) -> None:
    if given.temperature is not None and not 0 <= given.temperature <= 1:  # NaN is not
        raise InvalidRequest(f"temperature must be between 0 and 1, not {given.temperature}", field="temperature")
    if given.top_k is not None and given.top_k < 0:
        raise InvalidRequest(f"top_k must be at least 0, not {given.top_k}", field="top_k")


def _check_thinking(given: MessagesRequest, thinking: ThinkingEnabled) -> None:
    _check_budget(thinking)
    if thinking.budget_tokens >= given.max_tokens:
        message = f"thinking.budget_tokens must be below max_tokens ({given.max_tokens}), not {thinking.budget_tokens}"
        raise InvalidRequest(message, field="thinking.budget_tokens")
    if given.output_config is not None and given.output_config.format is not None:
        raise InvalidRequest("an answer in the format of output_config has no thinking before it", field="thinking")


def _check_budget(thinking: ThinkingEnabled) -> None:
    if thinking.budget_tokens < MIN_BUDGET:
        message = f"thinking.budget_tokens must be at least {MIN_BUDGET}, not {thinking.budget_tokens}"
        raise InvalidRequest(message, field="thinking.budget_tokens")


# -- what is supported -------------------------------------------------------------------------------------------------


def _fields(body: bytes, kind: type[CountTokensRequest], off: Off) -> Body:
    """The supported parameters of `body` that are given, all the way down. What is of another type than it should be is
    left for `convert` to tell."""
    fields = supported(decode_body(body), kind, off)
    most = {"messages": MAX_MESSAGES, "tools": MAX_TOOLS, "stop_sequences": MAX_STOP_STRINGS, "system": MAX_BLOCKS}
    for name, limit in most.items():
        if isinstance(given := fields.get(name), list):
            check_count(given, limit, name)
    if isinstance(messages := fields.get("messages"), list):
        fields["messages"] = [_turn(message, f"messages[{i}]") for i, message in enumerate(messages)]
    if isinstance(tools := fields.get("tools"), list):
        fields["tools"] = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
    if isinstance(system := fields.get("system"), list):
        fields["system"] = _content(system, "system", TEXTS)
    if isinstance(config := fields.get("output_config"), dict):
        fields["output_config"] = supported(config, MessageOutputConfig, {}, "output_config.")
    if isinstance(thinking := fields.get("thinking"), dict) and thinking.get("display") == "omitted":
        message = "thinking.display omitted is not supported by this server, which keeps no thinking"
        raise UnsupportedParameter(message, field="thinking.display")
    return fields


def _turn(given: object, path: str) -> object:
    if not isinstance(given, dict):
        return given
    kept = supported(given, Turn, {}, f"{path}.")
    return {**kept, "content": _content(kept["content"], f"{path}.content", BLOCKS)} if "content" in kept else kept


def _content(given: object, path: str, kinds: Kinds) -> object:
    if not isinstance(given, list):
        return given
    check_count(given, MAX_BLOCKS, path)
    return [_block(block, f"{path}[{i}]", kinds) for i, block in enumerate(given)]


def _block(given: object, path: str, kinds: Kinds) -> object:
    if not isinstance(given, dict):
        return given
    kind = given.get("type")
    if not isinstance(kind, str):
        return given
    if kind in UNREAD_BLOCKS:
        message = f"this server reads text; content blocks of type {kind} are not supported"
        raise UnsupportedParameter(message, field=f"{path}.type")
    if kind not in kinds:
        return given
    kept = supported({name: given[name] for name in given if name != "type"}, *kinds[kind], f"{path}.")
    if kind == "tool_result" and "content" in kept:
        kept["content"] = _content(kept["content"], f"{path}.content", TEXTS)
    return {"type": kind, **kept}


def _tool(given: object, path: str) -> object:
    """Tools of other types than custom are Anthropic's own, which only its models know and its servers run."""
    match given:
        case {"type": str(kind)} if kind != "custom":
            message = f"tools of type {kind[:80]} are not supported by this server; custom tools are"
            raise UnsupportedParameter(message, field=f"{path}.type")
        case dict():
            return supported(given, MessageTool, TOOL_OFF, f"{path}.")
        case _:
            return given
