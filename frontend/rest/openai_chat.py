"""POST /v1/chat/completions: its JSON, whole and in chunks."""

from collections.abc import Sequence

from frontend.api import Inference
from frontend.rest.openai_answer import Endpoint
from frontend.rest.openai_format import Choice, Format, Head
from frontend.rest.openai_logprobs import Offsets, chat_logprobs
from frontend.rest.openai_parse import parse_chat
from frontend.rest.openai_responses import AssistantMessage, ChatChoice, ChatCompletion, CompletionUsage


def chat_endpoint(inference: Inference) -> Endpoint:
    return Endpoint(inference, FORMAT)


def _whole(head: Head, choices: Sequence[Choice], usage: CompletionUsage) -> ChatCompletion:
    spelled = [
        ChatChoice(
            index=index,
            message=AssistantMessage(content="".join(choice.texts)),
            logprobs=chat_logprobs(choice.logprobs, Offsets()) if choice.logprobs else None,
            finish_reason=choice.final.reason.value,
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
    )


FORMAT = Format(
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
)
