"""Server-sent events of one stream, as bytes. This is the cost of REST per token, so nothing is encoded twice."""

import msgspec

from frontend.events import CallDelta, Delta
from frontend.rest.anthropic.answer_types import (
    AnthropicMessage,
    ContentBlockStart,
    ContentBlockStop,
    MessageDelta,
    MessageStart,
    MessageStop,
    Ping,
    TextContent,
    ThinkingContent,
    ToolUseContent,
)
from frontend.rest.anthropic.blocks import Blocks, Closed, Kind, More, Opened, Step

_encode = msgspec.json.Encoder().encode

_FIELDS = {
    Kind.TEXT: b'{"type":"text_delta","text":',
    Kind.THINKING: b'{"type":"thinking_delta","thinking":',
    Kind.TOOL_USE: b'{"type":"input_json_delta","partial_json":',
}
_NOTHING = msgspec.Raw(b"{}")


def event(value: msgspec.Struct) -> bytes:
    """Clients look at the event's name, and some at its type."""
    return b"event: %s\ndata: %s\n\n" % (str(value.__struct_config__.tag).encode(), _encode(value))


class Events:
    """Encodes one answer."""

    def __init__(self) -> None:
        self._blocks = Blocks()

    @property
    def has_tool_use(self) -> bool:
        return self._blocks.has_tool_use

    def first(self, message: AnthropicMessage) -> bytes:
        return event(MessageStart(message=message)) + event(Ping())

    def delta(self, delta: Delta) -> bytes:
        """Empty where nothing was said that can be told already."""
        return self._encoded(self._blocks.take(delta))

    def last(self, delta: MessageDelta) -> bytes:
        return self._encoded(self._blocks.finish()) + event(delta) + event(MessageStop())

    def _encoded(self, steps: list[Step]) -> bytes:
        parts = []
        for step in steps:
            match step:
                case More():
                    parts.append(_more(step.index, _FIELDS[step.kind], step.text))
                case Opened():
                    parts.append(event(ContentBlockStart(index=step.index, content_block=_empty(step.kind, step.call))))
                case Closed():
                    if step.signature is not None:
                        parts.append(_more(step.index, b'{"type":"signature_delta","signature":', step.signature))
                    parts.append(event(ContentBlockStop(index=step.index)))
        return b"".join(parts)


def _more(index: int, fields: bytes, text: str) -> bytes:
    return b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":%s%s}}\n\n' % (
        index,
        fields,
        _encode(text),
    )


def _empty(kind: Kind, call: CallDelta | None) -> TextContent | ThinkingContent | ToolUseContent:
    if call is not None:
        return ToolUseContent(id=call.id or "", name=call.name or "", input=_NOTHING)
    return ThinkingContent(thinking="", signature="") if kind is Kind.THINKING else TextContent(text="")
