"""From Ollama's messages and tools to the conversation that chat templates know.

Ollama's clients name the tool that an answer is from where others give the id of its call, and give calls no ids.
Templates want both, so calls without an id get one, and each answer is told which call it belongs to.
"""

from collections.abc import Mapping, Sequence

from engine.errors import InvalidRequest
from frontend.request import Chat, reasoning_fields
from frontend.rest.ollama.request_types import OllamaCall, OllamaMessage
from frontend.tools import AUTO, Tool, check_tools

Json = Mapping[str, object]


def conversation(messages: Sequence[OllamaMessage], tools: Sequence[object], variables: Json) -> Chat:
    """`tools` are as the client spelled them, `variables` the template's. An answer goes on where an assistant's last
    message ends, as Ollama's do. Raises InvalidRequest."""
    offered = tuple(_tool(tool) for tool in tools if isinstance(tool, dict))
    check_tools(offered, AUTO)
    last = messages[-1]
    continues = last.role == "assistant" and bool(last.content) and not last.tool_calls
    return Chat(
        _messages(messages),
        add_generation_prompt=not continues,
        continue_final_message=continues,
        tools=offered,
        template_kwargs=variables,
    )


def _tool(given: Json) -> Tool:
    match given:
        case {"function": dict(function)}:
            kept = {key: value for key, value in function.items() if value is not None}
            return {"type": "function", "function": kept}
        case _:
            return given


def _messages(messages: Sequence[OllamaMessage]) -> tuple[Json, ...]:
    rendered: list[Json] = []
    open_calls: list[tuple[str, str]] = []
    num_calls = 0
    for i, message in enumerate(messages):
        fields: dict[str, object] = {"role": message.role, "content": message.content}
        if message.thinking is not None:
            fields |= reasoning_fields(message.thinking)
        if message.tool_calls:
            if message.role != "assistant":
                path = f"messages[{i}].tool_calls"
                raise InvalidRequest(f"{path}: only an assistant calls tools", field=path)
            calls = [_call(call, f"fn{num_calls + n:07}") for n, call in enumerate(message.tool_calls)]
            num_calls += len(calls)
            open_calls = [
                (str(each["id"]), call.function.name) for each, call in zip(calls, message.tool_calls, strict=True)
            ]
            fields["tool_calls"] = calls
        if message.role == "tool":
            fields |= _answered(message, open_calls)
        rendered.append(fields)
    return tuple(rendered)


def _call(call: OllamaCall, new_id: str) -> Json:
    function = {"name": call.function.name, "arguments": call.function.arguments}
    return {"id": call.id or new_id, "type": "function", "function": function}


def _answered(message: OllamaMessage, open_calls: list[tuple[str, str]]) -> dict[str, object]:
    """Which call a tool's answer is for: the one it says, the first of its tool, or the first. None gets two."""
    found = next(
        (
            (call_id, name)
            for call_id, name in open_calls
            if message.tool_call_id in (None, "", call_id) and message.tool_name in (None, "", name)
        ),
        None,
    )
    if found is not None:
        open_calls.remove(found)
    call_id, name = found or (None, None)
    named = {"name": message.tool_name or name, "tool_call_id": message.tool_call_id or call_id}
    return {key: value for key, value in named.items() if value}
