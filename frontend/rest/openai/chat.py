"""POST /v1/chat/completions: its JSON, whole and in chunks."""

from collections.abc import Sequence
from dataclasses import replace

import msgspec
from msgspec import UNSET

from frontend.events import CallDelta, Delta
from frontend.rest.answers import Choice
from frontend.rest.openai import answer_types as responses
from frontend.rest.openai.answer_types import (
    AssistantMessage,
    ChatChoice,
    ChatCompletion,
    CompletionUsage,
    FunctionDelta,
    MessageToolCall,
    ToolCallDelta,
)
from frontend.rest.openai.format import Format, Head
from frontend.rest.openai.logprobs import Offsets, chat_logprobs, prompt_logprobs
from frontend.rest.openai.parse import parse_chat
from frontend.rest.openai.tool_types import FunctionCall

encode = msgspec.json.Encoder().encode


def _whole(form: Format, head: Head, choices: Sequence[Choice], usage: CompletionUsage) -> ChatCompletion:
    spelled = [
        ChatChoice(
            index=index,
            message=_message(choice, as_function=form.as_function),
            logprobs=chat_logprobs(choice.logprobs, Offsets()) if choice.logprobs else None,
            finish_reason=form.reason(choice.final.reason),
            token_ids=choice.token_ids if choice.prompt_ids else UNSET,
        )
        for index, choice in enumerate(choices)
    ]
    return ChatCompletion(
        id=head.id,
        created=head.created,
        model=head.model,
        choices=spelled,
        usage=usage,
        system_fingerprint=head.system_fingerprint,
        prompt_token_ids=list(choices[0].prompt_ids) or UNSET,
        prompt_logprobs=UNSET
        if form.prompt_logprobs is None
        else prompt_logprobs(choices[0].prompt, form.prompt_logprobs),
    )


def _message(choice: Choice, *, as_function: bool) -> AssistantMessage:
    text, thought = "".join(choice.texts), "".join(choice.thoughts)
    calls = [
        MessageToolCall(id=call.id, function=FunctionCall(name=call.name, arguments="".join(call.arguments)))
        for call in choice.calls
    ]
    return AssistantMessage(
        content=text or (None if calls else ""),
        tool_calls=calls if calls and not as_function else UNSET,
        function_call=calls[0].function if calls and as_function else UNSET,
        reasoning_content=thought or UNSET,
        reasoning=thought or UNSET,
    )


def _parts(delta: Delta) -> list[bytes]:
    return _thought_and_text(delta) + [_fields(responses.Delta(tool_calls=[_call(call)])) for call in _split(delta)]


def _parts_with_function(delta: Delta) -> list[bytes]:
    calls = [_fields(responses.Delta(function_call=_function(call))) for call in _split(delta)]
    return _thought_and_text(delta) + calls


def _thought_and_text(delta: Delta) -> list[bytes]:
    parts = []
    if delta.reasoning:
        parts.append(_fields(responses.Delta(reasoning_content=delta.reasoning, reasoning=delta.reasoning)))
    if delta.text:
        parts.append(_fields(responses.Delta(content=delta.text)))
    return parts


def _split(delta: Delta) -> list[CallDelta]:
    """As OpenAI does: the first part of a call has no arguments yet."""
    split = []
    for call in delta.calls:
        if call.id is not None:
            split.append(replace(call, arguments=""))
        if call.id is None or call.arguments:
            split.append(CallDelta(call.index, call.arguments))
    return split


def _call(call: CallDelta) -> ToolCallDelta:
    if call.id is None:
        return ToolCallDelta(index=call.index, function=_function(call))
    return ToolCallDelta(index=call.index, id=call.id, type="function", function=_function(call))


def _function(call: CallDelta) -> FunctionDelta:
    return FunctionDelta(name=UNSET if call.name is None else call.name, arguments=call.arguments)


def _fields(delta: responses.Delta) -> bytes:
    return b'"delta":' + encode(delta)


_TOOLS_FORMAT = Format(
    parse=parse_chat,
    generate=lambda inference, request: inference.generate(request),
    id_prefix="chatcmpl-",
    object="chat.completion",
    whole=_whole,
    logprobs=chat_logprobs,
    chunk_object="chat.completion.chunk",
    opening=b'"delta":{"role":"assistant","content":"","refusal":null}',
    before_text=b'"delta":{"content":',
    after_text=b"}",
    closing=b'"delta":{}',
    parts=_parts,
)
_FUNCTIONS_FORMAT = replace(_TOOLS_FORMAT, parts=_parts_with_function, calls_reason="function_call", as_function=True)
FORMAT = replace(_TOOLS_FORMAT, functions=_FUNCTIONS_FORMAT)
