"""From OpenAI's messages and tools to the conversation that chat templates know.

Templates know a system role instead of OpenAI's developer, text instead of content parts, objects instead of the JSON
text of arguments, and tools instead of the functions that came before them.
"""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

import msgspec

from engine.errors import InvalidRequest
from frontend.request import Chat, opens_answer, reasoning_fields
from frontend.rest.openai.request_types import ChatCompletionRequest, Message
from frontend.rest.openai.tool_types import AllowedChoice, AllowedTools, FunctionRef, FunctionSpec, NamedTool, ToolCall
from frontend.tools import AUTO, NO_TOOLS, Tool, ToolChoice, ToolMode, check_tools, name_of

Json = Mapping[str, object]

ROLES = MappingProxyType({"developer": "system", "function": "tool"})


def conversation(given: ChatCompletionRequest, fields: Json) -> Chat:
    """`fields` is what `given` was made of: templates see tools as the client spelled them. Raises InvalidRequest."""
    continues = bool(given.continue_final_message)
    tools, choice = _tools(given, fields), _choice(given)
    if isinstance(given.tool_choice, AllowedChoice):
        tools = allowed(tools, [tool.function.name for tool in given.tool_choice.allowed_tools.tools])
    check_tools(tools, choice or AUTO)
    if choice not in (None, NO_TOOLS) and not tools:
        raise InvalidRequest("tool_choice needs tools", field="tool_choice")
    return Chat(
        _messages(given.messages),
        add_generation_prompt=opens_answer(given.add_generation_prompt, continues),
        continue_final_message=continues,
        tools=tools,
        tool_choice=choice or AUTO,
        parallel_tool_calls=given.parallel_tool_calls is not False and not given.functions,
        strict_tools=frozenset(function.name for function in _functions(given) if function.strict),
        documents=tuple(given.documents or ()),
        reasoning_effort=given.reasoning_effort,
        template_kwargs=given.chat_template_kwargs or {},
    )


def _tools(given: ChatCompletionRequest, fields: Json) -> tuple[Tool, ...]:
    if given.functions and given.tools:
        raise InvalidRequest("functions is what tools were called before; give one of them", field="tools")
    match fields:
        case {"functions": [*functions]} if functions:
            return tuple({"type": "function", "function": _function(function)} for function in functions)
        case {"tools": [*tools]}:
            return tuple(_tool(tool) for tool in tools if isinstance(tool, dict))
        case _:
            return ()


def _functions(given: ChatCompletionRequest) -> Sequence[FunctionSpec]:
    return given.functions or [tool.function for tool in given.tools or ()]


def _tool(tool: Json) -> Tool:
    return {key: _function(value) if key == "function" else value for key, value in tool.items()}


def _function(given: object) -> Json:
    """Without what is null, and without what only tells the server how to sample."""
    function = given if isinstance(given, dict) else {}
    return {key: value for key, value in function.items() if value is not None and key != "strict"}


def allowed(tools: Sequence[Tool], names: Collection[str]) -> tuple[Tool, ...]:
    """Those that are so called. Raises InvalidRequest for a name that is none of theirs."""
    known = {name_of(tool) for tool in tools}
    if unknown := next((name for name in names if name not in known), None):
        raise InvalidRequest(f"tool_choice names {unknown[:80]!r}, which is not among the tools", field="tool_choice")
    return tuple(tool for tool in tools if name_of(tool) in names)


def _choice(given: ChatCompletionRequest) -> ToolChoice | None:
    """None: nothing was said."""
    if given.function_call is not None and given.tool_choice is not None:
        raise InvalidRequest("function_call is what tool_choice was called before; give one", field="tool_choice")
    match given.tool_choice if given.function_call is None else given.function_call:
        case NamedTool(function=FunctionRef(name=name)) | FunctionRef(name=name):
            return ToolChoice(ToolMode.REQUIRED, name)
        case AllowedChoice(allowed_tools=AllowedTools(mode=mode)):
            return ToolChoice(ToolMode(mode))
        case str(mode):
            return ToolChoice(ToolMode(mode))
        case _:
            return None


def _messages(messages: Sequence[Message]) -> tuple[Json, ...]:
    rendered = []
    call_id = None
    for i, message in enumerate(messages):
        if message.function_call is not None:
            call_id = f"fn{i:07}"  # the answer to it names only the function
        rendered.append(_message(message, f"messages[{i}]", call_id))
    return tuple(rendered)


def _message(message: Message, path: str, call_id: str | None) -> Json:
    calls = list(message.tool_calls or ())
    if message.function_call is not None:
        calls.append(ToolCall(id=call_id or "", function=message.function_call))
    if calls and message.role != "assistant":
        raise InvalidRequest(f"{path}: only an assistant calls tools", field=f"{path}.tool_calls")
    if message.content is None and not calls:
        raise InvalidRequest(f"missing required parameter: {path}.content", field=f"{path}.content")
    rendered: dict[str, object] = {"role": ROLES.get(message.role, message.role), "content": _text(message)}
    if message.name is not None:
        rendered["name"] = message.name
    answers = message.tool_call_id or (call_id if message.role == "function" else None)
    if answers is not None:
        rendered["tool_call_id"] = answers
    thought = message.reasoning if message.reasoning_content is None else message.reasoning_content
    if thought is not None:
        rendered |= reasoning_fields(thought)
    if calls:
        rendered["tool_calls"] = [_call(call, f"{path}.tool_calls[{i}]") for i, call in enumerate(calls)]
    return rendered


def _text(message: Message) -> str | None:
    return "".join(part.text for part in message.content) if isinstance(message.content, list) else message.content


def _call(call: ToolCall, path: str) -> Json:
    function = {
        "name": call.function.name,
        "arguments": arguments_of(call.function.arguments, f"{path}.function.arguments"),
    }
    return {"id": call.id, "type": "function", "function": function}


def arguments_of(text: str, field: str) -> Json:
    """The object; nothing is an empty one, as of functions that take none. Raises InvalidRequest naming `field`."""
    try:
        arguments = msgspec.json.decode(text) if text else {}
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidRequest(f"{field} must be a JSON object, as text", field=field)
    return arguments
