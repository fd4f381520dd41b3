"""The content of an answer that is sent whole."""

from dataclasses import dataclass, field

import msgspec

from frontend.events import CallDelta, Delta
from frontend.rest.anthropic.answer_types import Content, TextContent, ThinkingContent, ToolUseContent
from frontend.rest.anthropic.blocks import Blocks, Closed, Kind, More, Opened, Step


@dataclass(slots=True)
class _Block:
    """As far as it has been said."""

    kind: Kind
    call: CallDelta | None
    texts: list[str] = field(default_factory=list)
    signature: str = ""

    def content(self) -> Content:
        text = "".join(self.texts)
        if self.kind is Kind.THINKING:
            return ThinkingContent(thinking=text, signature=self.signature)
        if self.call is None:
            return TextContent(text=text)
        name = self.call.name or ""
        if not _is_object(text or "{}"):
            return TextContent(text=name + text)
        return ToolUseContent(id=self.call.id or "", name=name, input=msgspec.Raw((text or "{}").encode()))


class WholeContent:
    """Collects the blocks of an answer.

    The use of a tool whose input is no JSON object, because the answer was cut or the model went astray, is text: with
    another input than was meant the tool must not run.
    """

    def __init__(self) -> None:
        self._blocks = Blocks()
        self._collected: list[_Block] = []

    def take(self, delta: Delta) -> None:
        self._collect(self._blocks.take(delta))

    def finish(self) -> list[Content]:
        self._collect(self._blocks.finish())
        return [block.content() for block in self._collected]

    def _collect(self, steps: list[Step]) -> None:
        for step in steps:
            match step:
                case Opened():
                    self._collected.append(_Block(step.kind, step.call))
                case More():
                    self._collected[step.index].texts.append(step.text)
                case Closed():
                    self._collected[step.index].signature = step.signature or ""


def _is_object(text: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except (ValueError, RecursionError):
        return False
