"""Requests for answers, as `tandem.v1` has them, from keywords. Pure.

What is not given is left to the model. Whatever is not here can be set in the message itself.
"""

from collections.abc import Mapping, Sequence
from typing import TypedDict, Unpack

from tandem_client import generate_pb2 as pb

RESUME_GRACE_S = 10.0
"""By default an answer goes on for so long when its connection breaks."""


class Options(TypedDict, total=False):
    """Of an answer. Their meaning and limits are in generate.proto."""

    model: str
    # Sampling
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    seed: int
    # Stopping
    max_tokens: int
    min_tokens: int
    stop: Sequence[str]
    stop_token_ids: Sequence[int]
    include_stop: bool
    ignore_eos: bool
    # Output
    logprobs: int
    skip_special_tokens: bool
    separate_reasoning: bool
    prompt_logprobs: int
    prompt_token_ids: bool
    # Of the prompt
    add_special_tokens: bool
    truncate_prompt_tokens: int
    cache_salt: str
    # What the answer must match
    grammar: pb.Grammar
    resume_grace_s: float
    """0: an answer ends with its connection."""


class ChatOptions(Options, total=False):
    """Of an answer in a conversation, besides."""

    tools: Sequence[pb.Tool]
    tool_choice: pb.ToolChoice
    parallel_tool_calls: bool
    add_generation_prompt: bool
    continue_final_message: bool
    documents: Sequence[str]
    template_kwargs: Mapping[str, str]
    reasoning_effort: str


Messages = str | Sequence[pb.ChatMessage | Mapping[str, str]]
"""What a user says; or a conversation, of messages or of mappings with role and content."""


def text(prompt: str, **options: Unpack[Options]) -> pb.GenerateRequest:
    """Asks how a text goes on."""
    return _with_options(pb.GenerateRequest(text=prompt), options)


def tokens(prompt: Sequence[int], **options: Unpack[Options]) -> pb.GenerateRequest:
    """Asks how tokens go on."""
    return _with_options(pb.GenerateRequest(token_ids=pb.TokenIds(ids=prompt)), options)


def infill(prefix: str, suffix: str, **options: Unpack[Options]) -> pb.GenerateRequest:
    """Asks what stands between two texts, of a model that was made for it."""
    return _with_options(pb.GenerateRequest(infill=pb.Infill(prefix=prefix, suffix=suffix)), options)


def chat(messages: Messages, **options: Unpack[ChatOptions]) -> pb.GenerateRequest:
    """Asks for the answer to a conversation."""
    return _with_options(pb.GenerateRequest(chat=conversation(messages)), options)


def conversation(messages: Messages) -> pb.Chat:
    given = [pb.ChatMessage(role="user", content=messages)] if isinstance(messages, str) else messages
    return pb.Chat(messages=[each if isinstance(each, pb.ChatMessage) else _message(**each) for each in given])


def _message(*, role: str, content: str) -> pb.ChatMessage:
    return pb.ChatMessage(role=role, content=content)


def json_schema(schema: str) -> pb.Grammar:
    """The answer matches it; `schema` is JSON."""
    return pb.Grammar(json_schema=schema)


def embedding(given: str | Sequence[int], model: str, pooling: "pb.Pooling", normalize: bool | None) -> pb.EmbedRequest:
    request = pb.EmbedRequest(model=model, pooling=pooling, normalize=normalize)
    if isinstance(given, str):
        request.text = given
    else:
        request.token_ids.ids.extend(given)
    return request


def tokenizing(given: Messages, model: str, add_special_tokens: bool | None) -> pb.TokenizeRequest:
    """A text is one here, not what a user says."""
    request = pb.TokenizeRequest(model=model, add_special_tokens=add_special_tokens)
    if isinstance(given, str):
        request.text = given
    else:
        request.chat.CopyFrom(conversation(given))
    return request


def _with_options(request: pb.GenerateRequest, options: Mapping[str, object]) -> pb.GenerateRequest:
    """Each option into the part of the message that has a field of its name."""
    is_chat = request.HasField("chat")
    if unknown := options.keys() - (ChatOptions if is_chat else Options).__annotations__.keys():
        raise TypeError(f"no such option: {', '.join(sorted(unknown))}")
    given = {"resume_grace_s": RESUME_GRACE_S, **options}
    request.resume_grace_ms = round(float(str(given.pop("resume_grace_s"))) * 1e3)
    parts = [request, request.sampling, request.stopping, request.output, *([request.chat] if is_chat else [])]
    for name, value in given.items():
        part = next(part for part in parts if name in part.DESCRIPTOR.fields_by_name)
        part.MergeFrom(type(part)(**{name: value}))
    return request
