"""The items that responses are made of, as clients send them and as they read them.

Each Struct is parser, answer and schema in one. Ids and states may be missing of what a client sends, and are there in
what is answered. Does not know conversations or HTTP.
"""

from types import MappingProxyType
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from frontend.fields import Off
from frontend.rest.openai.answer_types import ChatTokenLogprob
from frontend.rest.openai.tool_types import FunctionName, Id

State = Literal["in_progress", "completed", "incomplete"]


class InputText(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="input_text"):
    text: str


class OutputText(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="output_text"):
    text: str
    annotations: list[Any] = []
    """There are none in our answers; those of others' mean nothing here."""
    logprobs: list[ChatTokenLogprob] = []


class SummaryText(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="summary_text"):
    text: str


class ReasoningText(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="reasoning_text"
):
    text: str


class ResponseMessage(Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """`type` may be missing."""

    id: Id | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputText | OutputText]
    status: State | None = None


class ResponseFunctionCall(Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call"):
    id: Id | None = None
    call_id: Id
    name: FunctionName
    arguments: Annotated[str, Meta(description="A JSON object, as text.")]
    status: State | None = None


class ResponseFunctionCallOutput(Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call_output"):
    id: Id | None = None
    call_id: Id
    output: str | list[InputText]
    status: State | None = None


class ResponseReasoning(Struct, frozen=True, kw_only=True, tag_field="type", tag="reasoning"):
    """What the model thought is `content`, in full; there is no summary of it."""

    id: Id | None = None
    summary: list[SummaryText]
    content: list[ReasoningText] | None = None
    encrypted_content: None = None
    status: State | None = None


class ItemReference(Struct, frozen=True, kw_only=True, tag_field="type", tag="item_reference"):
    """An item of a response that is kept. `type` may be missing."""

    id: Id


Item = ResponseMessage | ResponseFunctionCall | ResponseFunctionCallOutput | ResponseReasoning
OutputItem = ResponseMessage | ResponseFunctionCall | ResponseReasoning
InputItem = Item | ItemReference

KINDS: MappingProxyType[str, type[Struct]] = MappingProxyType(
    {
        "message": ResponseMessage,
        "function_call": ResponseFunctionCall,
        "function_call_output": ResponseFunctionCallOutput,
        "reasoning": ResponseReasoning,
        "item_reference": ItemReference,
    }
)
ITEM_OFF: Off = MappingProxyType(
    {
        "async": (False,),
        "async_": (False,),
        "caller": (),
        "created_by": (),
        "name": (),
        "namespace": (),
        "phase": ("final_answer",),
    }
)
"""Of which `name` is the name of a function whose output it is; the call that it answers has it, too."""
OTHER_PARTS = frozenset({"input_image", "input_file", "input_audio", "refusal", "text", "image_url"})
