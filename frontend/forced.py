"""The grammar of an answer that must call tools, or may, and then by their schemas, or instead of JSON: calls as its
model writes them, behind what the model may think.

What the grammar makes is read by the parser of the same family (`frontend.parsed`), so that calls that had to be made
come out as those that the model chose to make. Does not know how grammars are compiled, or dialects.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from engine.errors import InvalidRequest
from frontend.closed_schema import closed
from frontend.model import LoadedModel
from frontend.parsed import end_of_prompt
from frontend.request import Chat, GenerateRequest, Grammar, GrammarKind
from frontend.tags import Call, Thought, calls
from frontend.text.parsers import deepseek, hermes, mistral
from frontend.text.parsers.families import ToolFamily
from frontend.tools import Tool, name_of


def calls_grammar(model: LoadedModel, request: GenerateRequest, prompt: Sequence[int]) -> Grammar | None:
    """None: the request's own grammar, if it has one, says all. `prompt` is the request's in tokens.

    Raises InvalidRequest for what goes with no calls that must be made.
    """
    chat = request.prompt
    if not isinstance(chat, Chat):
        return None
    if chat.demanded:
        return _forced(model, request, chat, prompt)
    if request.grammar is not None:
        return _formatted(model, request, request.grammar, chat, prompt) if request.format_only else None
    is_strict = not chat.strict_tools.isdisjoint(map(name_of, chat.offered))
    return _strict(model, chat, prompt) if is_strict else None


def _formatted(
    model: LoadedModel, request: GenerateRequest, grammar: Grammar, chat: Chat, prompt: Sequence[int]
) -> Grammar | None:
    """Of JSON, or calls instead, behind thoughts. None where it can only be the former."""
    tools = chat.offered if model.families.marks_calls else ()
    thought = _thought(model, chat, prompt) if request.separate_reasoning else None
    if not tools and thought is None:
        return None
    spelling = _spelling(model.families.forced, _source(model))
    return calls(
        [_call(spelling, tool, is_strict=name_of(tool) in chat.strict_tools) for tool in tools],
        prefix=spelling.prefix,
        separator=spelling.separator if chat.parallel_tool_calls else None,
        suffix=spelling.suffix,
        thought=thought,
        content='{"type": "object"}' if grammar.kind is GrammarKind.JSON_OBJECT else grammar.text,
    )


def _strict(model: LoadedModel, chat: Chat, prompt: Sequence[int]) -> Grammar | None:
    """Of any text with calls in it. None where nothing but their JSON tells calls from the text."""
    family = model.families.tools
    marker = None if family is None else _MARKERS.get(family)
    if family is None or marker is None:
        return None
    spelling = _spelling(family, _source(model))
    return calls(
        [_call(spelling, tool, is_strict=name_of(tool) in chat.strict_tools) for tool in chat.offered],
        prefix=spelling.prefix,
        separator=spelling.separator,
        suffix=spelling.suffix,
        thought=_thought(model, chat, prompt),
        marker=marker,
    )


def _forced(model: LoadedModel, request: GenerateRequest, chat: Chat, prompt: Sequence[int]) -> Grammar:
    if request.grammar is not None and not request.format_only:
        raise InvalidRequest("an answer that must call a tool cannot match a grammar, too", field="grammar")
    if model.families.reasoning is not None and not request.separate_reasoning:
        message = "where a tool must be called, reasoning cannot be left in the content"
        raise InvalidRequest(message, field="separate_reasoning")
    spelling = _spelling(model.families.forced, _source(model))
    is_one = chat.tool_choice.name is not None or not chat.parallel_tool_calls
    return calls(
        [_call(spelling, tool) for tool in chat.demanded],
        prefix=spelling.prefix,
        separator=None if is_one else spelling.separator,
        suffix=spelling.suffix,
        thought=_thought(model, chat, prompt),
    )


def _source(model: LoadedModel) -> str:
    return "" if model.template is None else model.template.source


def _thought(model: LoadedModel, chat: Chat, prompt: Sequence[int]) -> Thought | None:
    end, continues = end_of_prompt(model, chat, prompt)
    thoughts = model.families.thoughts(end, continues=continues)
    if thoughts is None or (continues and not thoughts.thinking):  # who has begun to answer has thought
        return None
    return Thought(thoughts.open, thoughts.close, thoughts.thinking)


@dataclass(frozen=True, slots=True)
class _Spelling:
    """A call is its name and its arguments between three texts; several are separated, and all of them wrapped."""

    before_name: str
    after_name: str
    end: str
    separator: str
    prefix: str = ""
    suffix: str = ""


def _spelling(family: ToolFamily, template: str) -> _Spelling:
    """Of families that have spelled calls in several ways, as the template does."""
    match family:
        case ToolFamily.HERMES | ToolFamily.QWEN3_CODER:
            opening, closing = f'{hermes.OPEN}\n{{"name": "', f"}}\n{hermes.CLOSE}"
            return _Spelling(opening, '", "arguments": ', closing, "\n")
        case ToolFamily.MISTRAL if mistral.ARGS in template:
            return _Spelling(mistral.OPEN, mistral.ARGS, "", "")
        case ToolFamily.MISTRAL:
            return _Spelling('{"name": "', '", "arguments": ', "}", ", ", f"{mistral.OPEN}[", "]")
        case ToolFamily.DEEPSEEK if f"{deepseek.FENCE}{deepseek.LANGUAGE}" in template:
            opening = f"{deepseek.CALL}function{deepseek.SEPARATOR}"
            body = f"\n{deepseek.FENCE}{deepseek.LANGUAGE}\n", f"\n{deepseek.FENCE}{deepseek.END_CALL}"
            return _Spelling(opening, *body, "\n", deepseek.CALLS, deepseek.END_CALLS)
        case ToolFamily.DEEPSEEK:
            wrapping = deepseek.CALLS, deepseek.END_CALLS
            return _Spelling(deepseek.CALL, deepseek.SEPARATOR, deepseek.END_CALL, "", *wrapping)
        case ToolFamily.LLAMA3:
            return _Spelling('{"name": "', '", "parameters": ', "}", "; ")
        case ToolFamily.JSON:
            return _Spelling('{"name": "', '", "arguments": ', "}", "\n")


_MARKERS = MappingProxyType(
    {ToolFamily.HERMES: hermes.OPEN, ToolFamily.MISTRAL: mistral.OPEN, ToolFamily.DEEPSEEK: deepseek.CALLS}
)
"""What calls begin with, and text never has in it, of families that spell them as grammars do."""


def _call(spelling: _Spelling, tool: Tool, *, is_strict: bool = True) -> Call:
    name = name_of(tool)
    try:
        schema = _arguments(tool) if is_strict else {"type": "object"}
    except RecursionError:
        raise InvalidRequest(f"the schema of {name}'s arguments is nested too deeply", field="tools") from None
    return Call(f"{spelling.before_name}{name}{spelling.after_name}", schema, spelling.end, name)


def _arguments(tool: Tool) -> object:
    """Their schema. They are an object, whether it says so or not; a tool without one takes none."""
    match tool:
        case {"function": {"parameters": {**parameters}}}:
            kinds = parameters.get("type", "object")
            if kinds != "object" and not (isinstance(kinds, list) and "object" in kinds):
                message = f"the arguments of {name_of(tool)} are an object; their schema asks for {kinds!r}"
                raise InvalidRequest(message[:1000], field="tools")
            return closed({**parameters, "type": "object"})
        case _:
            return {"type": "object", "properties": {}, "additionalProperties": False}
