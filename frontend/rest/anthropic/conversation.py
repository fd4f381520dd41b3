"""From Anthropic's messages and tools to the conversation that chat templates know.

Templates know one message where Anthropic has neighbours of one role, text instead of blocks, messages of tools instead
of results in a user's message, and a message of the system's instead of a parameter.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from engine.errors import InvalidRequest
from frontend.request import Chat, reasoning_fields
from frontend.rest.anthropic.request_types import (
    AnyBlock,
    ChooseAny,
    ChooseNone,
    ChooseTool,
    CountTokensRequest,
    MayChoose,
    MessageTool,
    TextBlock,
    ThinkingBlock,
    ThinkingDisabled,
    ThinkingEnabled,
    ToolResultBlock,
    ToolUseBlock,
)
from frontend.tools import AUTO, NO_TOOLS, Tool, ToolChoice, ToolMode, check_tools

Json = Mapping[str, object]

BETWEEN_TEXTS = "\n"
"""Blocks are things of their own, like a document and a question about it."""
ERROR = "Error: "
KINDS: Mapping[str, tuple[str, ...]] = {
    "system": ("text",),
    "user": ("text", "tool_result"),
    "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
}
"""Types of the blocks that a role has."""


def conversation(given: CountTokensRequest) -> Chat:
    """What `given` comes to. Raises InvalidRequest."""
    tools, choice = tuple(map(_tool, given.tools or ())), _choice(given)
    check_tools(tools, choice or AUTO)
    if choice is not None and not tools:
        raise InvalidRequest("tool_choice needs tools", field="tool_choice")
    one_call = isinstance(given.tool_choice, MayChoose) and given.tool_choice.disable_parallel_tool_use
    chat = Chat(
        _messages(given),
        tools=tools,
        tool_choice=choice or AUTO,
        parallel_tool_calls=not one_call,
        strict_tools=frozenset(tool.name for tool in given.tools or () if tool.strict),
        reasoning_effort=_effort(given),
        template_kwargs=_thinking(given),
    )
    return _answered(chat)


def _tool(given: MessageTool) -> Tool:
    described = {} if given.description is None else {"description": given.description}
    return {"type": "function", "function": {"name": given.name, **described, "parameters": given.input_schema}}


def _choice(given: CountTokensRequest) -> ToolChoice | None:
    """None: nothing was said."""
    match given.tool_choice:
        case None:
            return None
        case ChooseNone():
            return NO_TOOLS
        case ChooseAny():
            return ToolChoice(ToolMode.REQUIRED)
        case ChooseTool(name=name):
            return ToolChoice(ToolMode.REQUIRED, name)
        case _:
            return AUTO


def _thinking(given: CountTokensRequest) -> Json:
    """Under the names by which templates know it."""
    match given.thinking:
        case ThinkingEnabled():
            return {"enable_thinking": True, "thinking": True}
        case ThinkingDisabled():
            return {"enable_thinking": False, "thinking": False}
        case _:
            return {}


def _effort(given: CountTokensRequest) -> str | None:
    """high is what leaving it out means, so nothing has to be told."""
    effort = None if given.output_config is None else given.output_config.effort
    return None if effort == "high" else effort


def _answered(chat: Chat) -> Chat:
    """The answer goes on with a last message of the assistant's; one that says nothing is none."""
    match chat.messages:
        case [*before, {"role": "assistant", "content": "", **rest}] if not rest:
            return replace(chat, messages=tuple(before))
        case [*_, {"role": "assistant"}]:
            return replace(chat, add_generation_prompt=False, continue_final_message=True)
        case _:
            return chat


# -- messages ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Placed:
    """A block, and where it is in the request."""

    block: AnyBlock
    path: str


@dataclass(frozen=True, slots=True)
class _Turn:
    """What one role says before another does."""

    role: str
    blocks: list[_Placed]


def _messages(given: CountTokensRequest) -> tuple[Json, ...]:
    rendered: list[Json] = []
    names: dict[str, str] = {}
    """Of the tools, by the ids of their uses so far."""
    turns = _turns(given)
    for turn in turns:
        match turn.role:
            case "user":
                rendered.extend(_user(turn.blocks, names))
            case "assistant":
                rendered.append(_assistant(turn.blocks, is_last=turn is turns[-1]))
                uses = (placed.block for placed in turn.blocks if isinstance(placed.block, ToolUseBlock))
                names |= {use.id: use.name for use in uses}
            case _:
                rendered.append({"role": turn.role, "content": _joined(turn.blocks)})
    return tuple(rendered)


def _turns(given: CountTokensRequest) -> list[_Turn]:
    """Neighbours of one role are one, as Anthropic has it; many templates take no others."""
    said = [(message.role, message.content, f"messages[{i}].content") for i, message in enumerate(given.messages)]
    if given.system:
        said.insert(0, ("system", [*_blocks(given.system)], "system"))
    turns: list[_Turn] = []
    for role, content, path in said:
        placed = [_Placed(block, f"{path}[{i}]") for i, block in enumerate(_blocks(content))]
        for each in placed:
            _check_kind(each, role)
        if turns and turns[-1].role == role:
            turns[-1].blocks.extend(placed)
        else:
            turns.append(_Turn(role, placed))
    return turns


def _blocks(content: str | Sequence[AnyBlock]) -> Sequence[AnyBlock]:
    return [TextBlock(text=content)] if isinstance(content, str) else content


def _check_kind(placed: _Placed, role: str) -> None:
    kind = placed.block.__struct_config__.tag
    if kind not in KINDS[role]:
        raise InvalidRequest(f"a message of the role {role} has no {kind} blocks", field=f"{placed.path}.type")


def _user(blocks: Sequence[_Placed], names: Mapping[str, str]) -> Iterator[Json]:
    """A message for each result, and one for each run of texts."""
    texts: list[_Placed] = []
    for placed in blocks:
        if not isinstance(placed.block, ToolResultBlock):
            texts.append(placed)
            continue
        if texts:
            yield {"role": "user", "content": _joined(texts)}
            texts = []
        yield _result(placed.block, placed.path, names)
    if texts or not blocks:
        yield {"role": "user", "content": _joined(texts)}


def _result(block: ToolResultBlock, path: str, names: Mapping[str, str]) -> Json:
    if block.tool_use_id not in names:
        message = f"no tool_use before it has the id {block.tool_use_id[:80]!r}"
        raise InvalidRequest(message, field=f"{path}.tool_use_id")
    content = block.content or ""
    text = content if isinstance(content, str) else BETWEEN_TEXTS.join(part.text for part in content)
    return {
        "role": "tool",
        "content": ERROR + text if block.is_error else text,
        "tool_call_id": block.tool_use_id,
        "name": names[block.tool_use_id],
    }


def _assistant(blocks: Sequence[_Placed], *, is_last: bool) -> Json:
    thoughts = [placed.block.thinking for placed in blocks if isinstance(placed.block, ThinkingBlock)]
    uses = [placed for placed in blocks if isinstance(placed.block, ToolUseBlock)]
    if uses and is_last:
        raise InvalidRequest("the use of a tool is followed by its result", field=uses[-1].path)
    text = _joined(blocks)
    message: dict[str, object] = {"role": "assistant", "content": text or (None if uses else "")}
    if thoughts:
        message |= reasoning_fields("".join(thoughts))
    if uses:
        message["tool_calls"] = [_call(placed.block) for placed in uses if isinstance(placed.block, ToolUseBlock)]
    return message


def _call(block: ToolUseBlock) -> Json:
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.input}}


def _joined(blocks: Sequence[_Placed]) -> str:
    return BETWEEN_TEXTS.join(placed.block.text for placed in blocks if isinstance(placed.block, TextBlock))
