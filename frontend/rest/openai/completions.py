"""POST /v1/completions: its JSON, whole and in chunks, and the length that it has by default."""

from collections.abc import AsyncGenerator, Sequence

from msgspec import UNSET

from frontend.api import Inference
from frontend.events import Event, Finish
from frontend.request import GenerateRequest
from frontend.rest.answers import Choice, generate_what_fits
from frontend.rest.openai.answer_types import Completion, CompletionChoice, CompletionLogprobs, CompletionUsage
from frontend.rest.openai.format import Format, Head
from frontend.rest.openai.logprobs import (
    Offsets,
    completion_logprobs,
    echoed_logprobs,
    joined_logprobs,
    prompt_logprobs,
)
from frontend.rest.openai.parse import parse_completion

DEFAULT_MAX_TOKENS = 16


def _generate(inference: Inference, request: GenerateRequest) -> AsyncGenerator[Event, None]:
    """Without max_tokens, 16 tokens or the fewer that the context still has room for."""
    lengths = (DEFAULT_MAX_TOKENS, None) if request.max_tokens is None else (request.max_tokens,)
    return generate_what_fits(inference, request, lengths)


def _whole(form: Format, head: Head, choices: Sequence[Choice], usage: CompletionUsage) -> Completion:
    spelled = [
        CompletionChoice(
            index=index,
            text="".join(choice.texts),
            logprobs=_logprobs(form, choice),
            finish_reason="length" if choice.final.reason is Finish.LENGTH else "stop",
            token_ids=choice.token_ids if choice.prompt_ids else UNSET,
            prompt_token_ids=list(choice.prompt_ids) or UNSET,
            prompt_logprobs=UNSET
            if form.prompt_logprobs is None
            else prompt_logprobs(choice.prompt, form.prompt_logprobs),
        )
        for index, choice in enumerate(choices)
    ]
    return Completion(
        id=head.id,
        created=head.created,
        model=head.model,
        choices=spelled,
        usage=usage,
        system_fingerprint=head.system_fingerprint,
    )


def _logprobs(form: Format, choice: Choice) -> CompletionLogprobs | None:
    """With echo, those of the prompt come first; the choice's first text is its own."""
    if form.echo_logprobs is None:
        return completion_logprobs(choice.logprobs, Offsets()) if choice.logprobs else None
    echo = choice.texts[0]
    echoed = echoed_logprobs(choice.prompt, form.echo_logprobs, echo)
    return joined_logprobs(echoed, completion_logprobs(choice.logprobs, Offsets(len(echo))))


FORMAT = Format(
    parse=parse_completion,
    generate=_generate,
    id_prefix="cmpl-",
    object="text_completion",
    whole=_whole,
    logprobs=completion_logprobs,
    chunk_object="text_completion",
    opening=None,
    before_text=b'"text":',
    after_text=b"",
    closing=b'"text":""',
    prompts_differ=True,
)
