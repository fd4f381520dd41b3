"""The items of an answer that are not complete: what they grow by, and the events that tell of it."""

import secrets
from typing import Any, TypeVar

from frontend.rest.openai.answer_types import ChatTokenLogprob
from frontend.rest.openai.responses import events as ev
from frontend.rest.openai.responses.items import (
    OutputText,
    ReasoningText,
    ResponseFunctionCall,
    ResponseMessage,
    ResponseReasoning,
    State,
)

E = TypeVar("E", bound=ev.Event)
Events = list[ev.Event]


class Numbering:
    """Numbers the events of one stream."""

    def __init__(self) -> None:
        self._next = 0

    def event(self, kind: type[E], **fields: Any) -> E:
        made = kind(sequence_number=self._next, **fields)
        self._next += 1
        return made


class OpenMessage:
    """What the model says."""

    def __init__(self, numbering: Numbering, index: int) -> None:
        self._event = numbering.event
        self._index = index
        self._id = f"msg_{secrets.token_hex(12)}"
        self._in: dict[str, Any] = {"item_id": self._id, "output_index": index}
        self._texts: list[str] = []
        self._logprobs: list[ChatTokenLogprob] = []

    def begin(self) -> Events:
        return [
            self._event(ev.OutputItemAdded, output_index=self._index, item=self._item([], "in_progress")),
            self._event(ev.ContentPartAdded, **self._in, part=OutputText(text="")),
        ]

    def more(self, text: str, logprobs: list[ChatTokenLogprob]) -> ev.Event:
        self._texts.append(text)
        self._logprobs += logprobs
        return self._event(ev.OutputTextDelta, **self._in, delta=text, logprobs=logprobs)

    def end(self, state: State) -> tuple[ResponseMessage, Events]:
        part = OutputText(text="".join(self._texts), logprobs=self._logprobs)
        item = self._item([part], state)
        return item, [
            self._event(ev.OutputTextDone, **self._in, text=part.text, logprobs=part.logprobs),
            self._event(ev.ContentPartDone, **self._in, part=part),
            self._event(ev.OutputItemDone, output_index=self._index, item=item),
        ]

    def _item(self, content: list[Any], state: State) -> ResponseMessage:
        return ResponseMessage(id=self._id, role="assistant", content=content, status=state)


class OpenReasoning:
    """What the model thinks."""

    def __init__(self, numbering: Numbering, index: int) -> None:
        self._event = numbering.event
        self._index = index
        self._id = f"rs_{secrets.token_hex(12)}"
        self._in: dict[str, Any] = {"item_id": self._id, "output_index": index}
        self._texts: list[str] = []

    def begin(self) -> Events:
        return [
            self._event(ev.OutputItemAdded, output_index=self._index, item=self._item([], "in_progress")),
            self._event(ev.ContentPartAdded, **self._in, part=ReasoningText(text="")),
        ]

    def more(self, text: str) -> ev.Event:
        self._texts.append(text)
        return self._event(ev.ReasoningTextDelta, **self._in, delta=text)

    def end(self, state: State) -> tuple[ResponseReasoning, Events]:
        part = ReasoningText(text="".join(self._texts))
        item = self._item([part], state)
        return item, [
            self._event(ev.ReasoningTextDone, **self._in, text=part.text),
            self._event(ev.ContentPartDone, **self._in, part=part),
            self._event(ev.OutputItemDone, output_index=self._index, item=item),
        ]

    def _item(self, content: list[ReasoningText], state: State) -> ResponseReasoning:
        return ResponseReasoning(id=self._id, summary=[], content=content, status=state)


class OpenCall:
    """A tool that the model calls."""

    def __init__(self, numbering: Numbering, index: int, call_id: str, name: str) -> None:
        self._event = numbering.event
        self._index = index
        self._id = f"fc_{secrets.token_hex(12)}"
        self._call_id = call_id
        self._name = name
        self._in: dict[str, Any] = {"item_id": self._id, "output_index": index}
        self._arguments: list[str] = []

    def begin(self) -> Events:
        return [self._event(ev.OutputItemAdded, output_index=self._index, item=self._item("", "in_progress"))]

    def more(self, arguments: str) -> ev.Event:
        self._arguments.append(arguments)
        return self._event(ev.CallArgumentsDelta, **self._in, delta=arguments)

    def end(self, state: State) -> tuple[ResponseFunctionCall, Events]:
        item = self._item("".join(self._arguments), state)
        return item, [
            self._event(ev.CallArgumentsDone, **self._in, name=self._name, arguments=item.arguments),
            self._event(ev.OutputItemDone, output_index=self._index, item=item),
        ]

    def _item(self, arguments: str, state: State) -> ResponseFunctionCall:
        return ResponseFunctionCall(
            id=self._id, call_id=self._call_id, name=self._name, arguments=arguments, status=state
        )
