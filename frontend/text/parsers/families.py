"""Which parsers a model's answers want: read off its chat template, or named by who serves it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from types import MappingProxyType

from frontend.text.parsers.deepseek import CALLS, SHOWN, deepseek
from frontend.text.parsers.events import Calls, Content, Event
from frontend.text.parsers.feed import StreamParser
from frontend.text.parsers.generic import generic
from frontend.text.parsers.hermes import hermes
from frontend.text.parsers.llama3 import TAG, llama3
from frontend.text.parsers.mistral import ARGS, CALL_ID, mistral
from frontend.text.parsers.mistral import OPEN as TOOL_CALLS
from frontend.text.parsers.qwen3_coder import qwen3_coder
from frontend.text.parsers.thoughts import Thoughts


class ToolFamily(StrEnum):
    LLAMA3 = "llama3"
    HERMES = "hermes"
    QWEN3_CODER = "qwen3-coder"
    MISTRAL = "mistral"
    DEEPSEEK = "deepseek"
    JSON = "json"


_FORCED: Mapping[ToolFamily | None, ToolFamily] = MappingProxyType(
    {None: ToolFamily.JSON, ToolFamily.QWEN3_CODER: ToolFamily.HERMES}
)
"""How calls are spelled that a grammar makes, by a model of no family, or of one whose calls are not JSON."""


class ReasoningFamily(StrEnum):
    THINK = "think"
    MISTRAL = "mistral"


_THOUGHTS = {
    ReasoningFamily.THINK: ("<think>", "</think>"),
    ReasoningFamily.MISTRAL: ("[THINK]", "[/THINK]"),
}
_SHOWN = {
    ToolFamily.LLAMA3: frozenset({TAG}),
    ToolFamily.HERMES: frozenset({"<tool_call>", "</tool_call>"}),
    ToolFamily.QWEN3_CODER: frozenset({"<tool_call>", "</tool_call>"}),
    ToolFamily.MISTRAL: frozenset({TOOL_CALLS, CALL_ID, ARGS}),
    ToolFamily.DEEPSEEK: SHOWN,
    ToolFamily.JSON: frozenset[str](),
}
"""Words that may be special tokens, which a parser must see nevertheless."""


def takes_tools(template: str) -> bool:
    """Whether the template does anything with tools."""
    return re.search(r"\btools\b", template) is not None


def tool_family(template: str) -> ToolFamily | None:
    """How a model calls tools, if it does."""
    if not takes_tools(template):
        return None
    if TOOL_CALLS in template:
        return ToolFamily.MISTRAL
    if "<function=" in template and "<parameter=" in template:
        return ToolFamily.QWEN3_CODER
    if "<tool_call>" in template:
        return ToolFamily.HERMES
    if CALLS in template:
        return ToolFamily.DEEPSEEK
    return ToolFamily.LLAMA3 if "<|start_header_id|>" in template else ToolFamily.JSON


def reasoning_family(template: str) -> ReasoningFamily | None:
    """How a model marks its reasoning, if it does."""
    for family, markers in _THOUGHTS.items():
        if any(marker in template for marker in markers):
            return family
    return None


@dataclass(frozen=True, slots=True)
class Families:
    """Of one model. None: that part of its answers is left as text."""

    tools: ToolFamily | None = None
    reasoning: ReasoningFamily | None = None

    @classmethod
    def of(cls, template: str, tools: str = "auto", reasoning: str = "auto") -> "Families":
        """`auto` asks the template, `none` turns parsing off. Raises ValueError for an unknown name."""
        chosen = {"auto": tool_family(template), "none": None}
        thoughts = {"auto": reasoning_family(template), "none": None}
        return cls(
            tools=chosen[tools] if tools in chosen else ToolFamily(tools),
            reasoning=thoughts[reasoning] if reasoning in thoughts else ReasoningFamily(reasoning),
        )

    @property
    def forced(self) -> ToolFamily:
        """How calls are spelled that a grammar makes."""
        return _FORCED.get(self.tools) or self.tools or ToolFamily.JSON

    @property
    def marks_calls(self) -> bool:
        """Whether calls that a grammar makes can be told from other JSON by how they begin."""
        return self.forced not in (ToolFamily.LLAMA3, ToolFamily.JSON)

    def thoughts(self, prompt_end: str, *, continues: bool = False) -> Thoughts | None:
        """How one answer to a prompt that ends so marks its reasoning; None: not at all.

        If the answer `continues` what the model is taken to have said, that is `prompt_end`.
        """
        if self.reasoning is None:
            return None
        opening, closing = _THOUGHTS[self.reasoning]
        is_open = prompt_end.rstrip().endswith(opening)
        if continues:
            is_open = prompt_end.rfind(opening) > prompt_end.rfind(closing)
        return Thoughts(opening, closing, is_open)

    def parser(
        self,
        tools: Sequence[Mapping[str, object]],
        prompt_end: str,
        *,
        continues: bool = False,
        separate_reasoning: bool = True,
        forced: bool = False,
    ) -> "AnswerParser | None":
        """For one answer, as in `thoughts`; None: all of it is text. `tools` as in OpenAI's requests; they are called
        as a grammar spells it if that is `forced`."""
        thoughts = self.thoughts(prompt_end, continues=continues) if separate_reasoning else None
        family = self.forced if forced else self.tools
        if not tools:
            family = None
        if thoughts is None and family is None:
            return None
        return AnswerParser(thoughts, None if family is None else _call_parser(family, tools), _shown(family, thoughts))


def _call_parser(family: ToolFamily, tools: Sequence[Mapping[str, object]]) -> StreamParser:
    schemas = dict(map(_schemas, tools))
    calls = Calls(frozenset(schemas), short_ids=family is ToolFamily.MISTRAL)
    match family:
        case ToolFamily.LLAMA3:
            return StreamParser(partial(llama3, calls=calls))
        case ToolFamily.HERMES:
            return StreamParser(partial(hermes, calls=calls))
        case ToolFamily.QWEN3_CODER:
            return StreamParser(partial(qwen3_coder, calls=calls, schemas=schemas))
        case ToolFamily.MISTRAL:
            return StreamParser(partial(mistral, calls=calls))
        case ToolFamily.DEEPSEEK:
            return StreamParser(partial(deepseek, calls=calls))
        case ToolFamily.JSON:
            return StreamParser(partial(generic, calls=calls))


def _schemas(tool: Mapping[str, object]) -> tuple[str, Mapping[str, object]]:
    """A tool's name, and the schemas of its parameters."""
    match tool:
        case {"function": {"name": str(name), "parameters": {"properties": dict(properties)}}}:
            return name, properties
        case {"function": {"name": str(name)}}:
            return name, {}
        case _:
            return "", {}


def _shown(family: ToolFamily | None, thoughts: Thoughts | None) -> frozenset[str]:
    words = frozenset[str]() if family is None else _SHOWN[family]
    return words if thoughts is None else words | {thoughts.open, thoughts.close}


class AnswerParser:
    """Takes one answer apart: reasoning first, then calls in what is left."""

    def __init__(self, thoughts: Thoughts | None, calls: StreamParser | None, shown: frozenset[str]) -> None:
        self.shown = shown
        """Special tokens that belong to the text that is pushed."""
        self._thoughts = thoughts
        self._reasoning = None if thoughts is None else StreamParser(thoughts.story)
        self._calls = calls

    @property
    def reasons(self) -> bool:
        """Whether reasoning is told from the rest."""
        return self._thoughts is not None

    @property
    def thinking(self) -> bool:
        """Whether what comes next is reasoning, as far as is known."""
        return self._thoughts is not None and self._thoughts.thinking

    def push(self, text: str) -> list[Event]:
        """What is certain now and was not before."""
        events: list[Event] = [Content(text)] if self._reasoning is None else self._reasoning.push(text)
        return [found for event in events for found in self._read(event)]

    def finish(self) -> list[Event]:
        """What was held back, once no more text comes."""
        events = [] if self._reasoning is None else self._reasoning.finish()
        found = [found for event in events for found in self._read(event)]
        return found if self._calls is None else found + self._calls.finish()

    def _read(self, event: Event) -> list[Event]:
        if self._calls is None or not isinstance(event, Content):
            return [event]
        return self._calls.push(event.text)
