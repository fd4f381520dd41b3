"""The events of a response's stream, each with its type and its place in the stream."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from frontend.rest.openai.answer_types import ChatTokenLogprob
from frontend.rest.openai.responses.answer_types import ResponseDocument
from frontend.rest.openai.responses.items import OutputItem, OutputText, ReasoningText

_encoder = msgspec.json.Encoder()


class Event(Struct, frozen=True, kw_only=True, tag_field="type"):
    sequence_number: int


class _OfResponse(Event, frozen=True, kw_only=True):
    response: ResponseDocument


class ResponseCreated(_OfResponse, frozen=True, kw_only=True, tag="response.created"):
    """It has been taken: room for it is there."""


class ResponseInProgress(_OfResponse, frozen=True, kw_only=True, tag="response.in_progress"):
    """It is being made."""


class ResponseCompleted(_OfResponse, frozen=True, kw_only=True, tag="response.completed"):
    """The last event."""


class ResponseIncomplete(_OfResponse, frozen=True, kw_only=True, tag="response.incomplete"):
    """The last event, of one that its length has cut."""


class ResponseFailed(_OfResponse, frozen=True, kw_only=True, tag="response.failed"):
    """The last event, of one that could not be made."""


class _OfItem(Event, frozen=True, kw_only=True):
    output_index: int
    item: OutputItem


class OutputItemAdded(_OfItem, frozen=True, kw_only=True, tag="response.output_item.added"):
    """Nothing of it is there yet."""


class OutputItemDone(_OfItem, frozen=True, kw_only=True, tag="response.output_item.done"):
    """All of it is."""


class _InItem(Event, frozen=True, kw_only=True):
    item_id: str
    output_index: int


class _OfPart(_InItem, frozen=True, kw_only=True):
    content_index: int = 0
    part: OutputText | ReasoningText


class ContentPartAdded(_OfPart, frozen=True, kw_only=True, tag="response.content_part.added"):
    pass


class ContentPartDone(_OfPart, frozen=True, kw_only=True, tag="response.content_part.done"):
    pass


class OutputTextDelta(_InItem, frozen=True, kw_only=True, tag="response.output_text.delta"):
    content_index: int = 0
    delta: str
    logprobs: list[ChatTokenLogprob]


class OutputTextDone(_InItem, frozen=True, kw_only=True, tag="response.output_text.done"):
    content_index: int = 0
    text: str
    logprobs: list[ChatTokenLogprob]


class ReasoningTextDelta(_InItem, frozen=True, kw_only=True, tag="response.reasoning_text.delta"):
    content_index: int = 0
    delta: str


class ReasoningTextDone(_InItem, frozen=True, kw_only=True, tag="response.reasoning_text.done"):
    content_index: int = 0
    text: str


class CallArgumentsDelta(_InItem, frozen=True, kw_only=True, tag="response.function_call_arguments.delta"):
    delta: str


class CallArgumentsDone(_InItem, frozen=True, kw_only=True, tag="response.function_call_arguments.done"):
    name: str
    arguments: Annotated[str, Meta(description="A JSON object, unless the answer was cut.")]


KINDS: tuple[type[Event], ...] = (
    ResponseCreated,
    ResponseInProgress,
    ResponseCompleted,
    ResponseIncomplete,
    ResponseFailed,
    OutputItemAdded,
    OutputItemDone,
    ContentPartAdded,
    ContentPartDone,
    OutputTextDelta,
    OutputTextDone,
    ReasoningTextDelta,
    ReasoningTextDone,
    CallArgumentsDelta,
    CallArgumentsDone,
)


def encoded(events: list[Event]) -> bytes:
    """As server-sent events."""
    parts: list[bytes] = []
    for event in events:
        name: Any = event.__struct_config__.tag
        parts += (b"event: ", name.encode(), b"\ndata: ", _encoder.encode(event), b"\n\n")
    return b"".join(parts)
