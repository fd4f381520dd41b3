"""The JSON of tools, of who chooses them, and of their calls, as OpenAI's clients send it."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

FunctionName = Annotated[str, Meta(description="Letters, digits and _ . : / -", max_length=128)]
Id = Annotated[str, Meta(max_length=256)]


class FunctionSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: FunctionName
    description: str | None = None
    parameters: Annotated[dict[str, Any], Meta(description="JSON schema of the arguments.")] | None = None
    strict: (
        Annotated[
            bool,
            Meta(
                description="Where the model need not call, arguments are held to the schema if this is true and its "
                "family marks calls; where it must, they always are."
            ),
        ]
        | None
    ) = None


class ToolSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Literal["function"]
    function: FunctionSpec


class FunctionRef(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: FunctionName


class NamedTool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="function"):
    function: FunctionRef


class AllowedTools(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model is told of these only."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Meta(extra_json_schema={"maxItems": 256})]


class AllowedChoice(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="allowed_tools"
):
    allowed_tools: AllowedTools


class FunctionCall(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call in a message; in answers, too."""

    name: FunctionName
    arguments: Annotated[str, Meta(description="A JSON object, as text.")]


class ToolCall(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: Id
    type: Literal["function"] = "function"
    function: FunctionCall
    index: Annotated[int, Meta(description="Accepted; calls are taken in their order.")] | None = None
