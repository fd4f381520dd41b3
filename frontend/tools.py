"""The tools that a conversation offers to the model, and whether it may, must or must not call them.

Tools are as chat templates know them: `{"type": "function", "function": {"name": …, "parameters": {…}}}`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from engine.errors import InvalidRequest

MAX_TOOLS = 256
NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")

Tool = Mapping[str, object]


class ToolMode(StrEnum):
    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`name` is the one tool that must be called, once."""

    mode: ToolMode = ToolMode.AUTO
    name: str | None = None


AUTO, NO_TOOLS = ToolChoice(), ToolChoice(ToolMode.NONE)


def check_tools(tools: tuple[Tool, ...], choice: ToolChoice) -> None:
    """Raise InvalidRequest for tools that nobody can call, or for a choice that cannot be kept."""
    if len(tools) > MAX_TOOLS:
        raise InvalidRequest(f"at most {MAX_TOOLS} tools, not {len(tools)}", field="tools")
    for position, tool in enumerate(tools):
        if not NAME.fullmatch(name_of(tool)):
            raise InvalidRequest(
                f"the name of tools[{position}] must be 1 to 128 letters, digits and _ . : / -", field="tools"
            )
    if not tools and choice not in (AUTO, NO_TOOLS):
        raise InvalidRequest("tool_choice needs tools", field="tool_choice")
    if choice.name is not None and choice.name not in map(name_of, tools):
        message = f"tool_choice names {choice.name[:80]!r}, which is not among the tools"
        raise InvalidRequest(message, field="tool_choice")


def name_of(tool: Tool) -> str:
    """Empty where it has none."""
    match tool:
        case {"function": {"name": str(name)}}:
            return name
        case _:
            return ""
