"""Conversations of tandem.v1 as chat templates see them. Pure; what is wrong is named by its path in the message."""

import msgspec

from engine.errors import InvalidRequest
from frontend.checks import MAX_DOCUMENTS, MAX_MESSAGES, check_count, check_role
from frontend.request import Chat, opens_answer, reasoning_fields
from frontend.tools import MAX_TOOLS, Tool, ToolChoice, ToolMode, check_tools
from protos import generate_pb2 as pb

MAX_TEMPLATE_KWARGS = 64
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

_MODES = {
    pb.TOOL_MODE_UNSPECIFIED: ToolMode.AUTO,
    pb.TOOL_MODE_AUTO: ToolMode.AUTO,
    pb.TOOL_MODE_NONE: ToolMode.NONE,
    pb.TOOL_MODE_REQUIRED: ToolMode.REQUIRED,
}


def chat(message: pb.Chat) -> Chat:
    """Raises InvalidRequest for more of anything, or longer roles, than anybody means, and for JSON that is none."""
    check_count(message.messages, MAX_MESSAGES, "chat.messages")
    check_count(message.tools, MAX_TOOLS, "chat.tools")
    check_count(message.documents, MAX_DOCUMENTS, "chat.documents")
    check_count(message.template_kwargs, MAX_TEMPLATE_KWARGS, "chat.template_kwargs")
    tools = tuple(_tool(tool, f"chat.tools[{i}]") for i, tool in enumerate(message.tools))
    choice = _choice(message.tool_choice)
    add_generation_prompt = message.add_generation_prompt if message.HasField("add_generation_prompt") else None
    try:
        check_tools(tools, choice)
        opens = opens_answer(add_generation_prompt, message.continue_final_message)
    except InvalidRequest as error:
        error.field = f"chat.{error.field}"
        raise
    return Chat(
        tuple(_message(each, f"chat.messages[{i}]") for i, each in enumerate(message.messages)),
        add_generation_prompt=opens,
        continue_final_message=message.continue_final_message,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=message.parallel_tool_calls if message.HasField("parallel_tool_calls") else True,
        documents=tuple(_object(text, f"chat.documents[{i}]") for i, text in enumerate(message.documents)),
        strict_tools=frozenset(tool.name for tool in message.tools if tool.strict),
        reasoning_effort=_effort(message),
        template_kwargs={key: _json(text, "chat.template_kwargs") for key, text in message.template_kwargs.items()},
    )


def _effort(message: pb.Chat) -> str | None:
    if not message.HasField("reasoning_effort"):
        return None
    if message.reasoning_effort not in EFFORTS:
        told = f"reasoning_effort is one of {', '.join(EFFORTS)}"
        raise InvalidRequest(told, field="chat.reasoning_effort")
    return message.reasoning_effort


def _message(message: pb.ChatMessage, path: str) -> dict[str, object]:
    check_role(message.role, "chat.messages")
    check_count(message.tool_calls, MAX_TOOLS, f"{path}.tool_calls")
    rendered: dict[str, object] = {"role": message.role, "content": message.content}
    if message.HasField("name"):
        rendered["name"] = message.name
    if message.HasField("tool_call_id"):
        rendered["tool_call_id"] = message.tool_call_id
    if message.HasField("reasoning"):
        rendered |= reasoning_fields(message.reasoning)
    if message.tool_calls:
        rendered["content"] = message.content or None  # some templates look for calls only where there is nothing else
        rendered["tool_calls"] = [_call(call, f"{path}.tool_calls[{i}]") for i, call in enumerate(message.tool_calls)]
    return rendered


def _call(call: pb.ToolCall, path: str) -> dict[str, object]:
    arguments = _object(call.arguments, f"{path}.arguments") if call.arguments else {}
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _tool(tool: pb.Tool, path: str) -> Tool:
    function: dict[str, object] = {"name": tool.name}
    if tool.HasField("description"):
        function["description"] = tool.description
    if tool.HasField("parameters"):
        function["parameters"] = _object(tool.parameters, f"{path}.parameters")
    return {"type": "function", "function": function}


def _choice(choice: pb.ToolChoice) -> ToolChoice:
    mode = _MODES.get(choice.mode)
    if mode is None:
        raise InvalidRequest(f"there is no mode {choice.mode} of choosing tools", field="chat.tool_choice.mode")
    name = choice.name if choice.HasField("name") else None
    if name is not None and mode is not ToolMode.REQUIRED:
        raise InvalidRequest("a tool is named for TOOL_MODE_REQUIRED only", field="chat.tool_choice.name")
    return ToolChoice(mode, name)


def _object(text: str, path: str) -> dict[str, object]:
    value = _json(text, path)
    if not isinstance(value, dict):
        raise InvalidRequest(f"{path} must be a JSON object", field=path)
    return value


def _json(text: str, path: str) -> object:
    try:
        value: object = msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{path} is not JSON: {error}", field=path) from error
    return value
