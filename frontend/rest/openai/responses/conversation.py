"""From the items of a response to the conversation that chat templates know. Pure.

What an assistant thought, said and called without anybody in between is one message of its.
"""

from collections.abc import Iterable, Mapping, Sequence

from engine.errors import InvalidRequest
from frontend.request import reasoning_fields
from frontend.rest.openai.conversation import arguments_of
from frontend.rest.openai.responses.items import (
    InputText,
    Item,
    OutputText,
    ResponseFunctionCall,
    ResponseFunctionCallOutput,
    ResponseMessage,
    ResponseReasoning,
)

Json = Mapping[str, object]


def messages_of(items: Iterable[Item], instructions: str | None) -> tuple[Json, ...]:
    """Raises InvalidRequest for calls whose arguments are none."""
    turns = _Turns()
    if instructions is not None:
        turns.add({"role": "system", "content": instructions})
    for item in items:
        match item:
            case ResponseMessage(role="assistant"):
                turns.say(_text(item.content))
            case ResponseMessage():
                turns.add({"role": _ROLES.get(item.role, item.role), "content": _text(item.content)})
            case ResponseReasoning():
                turns.think(_thought(item))
            case ResponseFunctionCall():
                turns.call(item)
            case ResponseFunctionCallOutput():
                turns.answer(item)
    return turns.messages()


_ROLES: Mapping[str, str] = {"developer": "system"}


class _Turns:
    def __init__(self) -> None:
        self._messages: list[dict[str, object]] = []
        self._calls: list[Json] = []
        """Of the message that an assistant is still at."""
        self._is_open = False
        self._names: dict[str, str] = {}
        """Of the tools that were called, by the call's id."""

    def add(self, message: dict[str, object]) -> None:
        self._is_open = False
        self._messages.append(message)

    def think(self, text: str) -> None:
        self._begin()
        self._messages[-1] |= reasoning_fields(text)

    def say(self, text: str) -> None:
        if not self._is_open or self._calls or self._messages[-1]["content"] is not None:
            self._begin()
        self._messages[-1]["content"] = text

    def call(self, call: ResponseFunctionCall) -> None:
        if not self._is_open:
            self._begin()
        self._names[call.call_id] = call.name
        try:
            arguments = arguments_of(call.arguments, f"the arguments of the call {call.call_id[:80]!r}")
        except InvalidRequest as error:
            error.field = "input"
            raise
        function = {"name": call.name, "arguments": arguments}
        self._calls.append({"id": call.call_id, "type": "function", "function": function})
        self._messages[-1]["tool_calls"] = self._calls

    def answer(self, output: ResponseFunctionCallOutput) -> None:
        if output.call_id not in self._names:
            message = f"no function_call in the input has the call_id {output.call_id[:80]!r}"
            raise InvalidRequest(message, field="input")
        name = self._names[output.call_id]
        answered = {"tool_call_id": output.call_id, "name": name}
        self.add({"role": "tool", "content": _text(output.output), **answered})

    def messages(self) -> tuple[Json, ...]:
        """Reasoning that led to nothing, because it was cut, is not told the model."""
        return tuple(message for message in self._messages if message["content"] is not None or "tool_calls" in message)

    def _begin(self) -> None:
        self._messages.append({"role": "assistant", "content": None})
        self._calls = []
        self._is_open = True


def _text(content: str | Sequence[InputText | OutputText]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _thought(item: ResponseReasoning) -> str:
    return "".join(part.text for part in item.content) if item.content else "\n".join(p.text for p in item.summary)
