"""From the prompt as a client gave it to the tokens that are computed. Does not know workers.

What is too long whatever the tokenizer makes of it is refused before it is tokenized. Of a conversation only what the
template has made of it counts: templates may leave out what they like, so rendering goes on until it is too long.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from functools import partial

from engine.errors import ContextOverflow, InvalidRequest
from frontend.checks import check_token_ids
from frontend.infill import infill_tokens
from frontend.model import LoadedModel
from frontend.request import Chat, Infill, Prompt, TokenPrompt
from frontend.text.parsers.families import reasoning_family, takes_tools

OFF_LOOP_CHARS = 8_192
"""Longer prompts are tokenized on a thread, so that they do not hold up everybody's tokens."""


async def encode(
    model: LoadedModel,
    prompt: Prompt,
    max_context: int,
    *,
    add_special_tokens: bool | None = None,
    truncate: int | None = None,
) -> list[int]:
    """Raises InvalidRequest for what is no prompt of this model's, ContextOverflow for text that is certain to have too
    many tokens; whether there is room for these is still to be checked. A text that is to be truncated may have any
    number."""
    match prompt:
        case TokenPrompt(ids):
            check_token_ids(ids, model.limits.vocab_size, "prompt")
            tokens = list(ids)
        case str() | Chat() as text:
            most = max_context if truncate is None else None
            encoding = partial(tokens_of, model, text, add_special_tokens=add_special_tokens, max_context=most)
            tokens = await asyncio.to_thread(encoding) if _takes_long(text) else encoding()
        case Infill():
            if truncate is not None:  # it would lose the token that it begins with
                raise InvalidRequest("a prompt with a suffix cannot be truncated", field="truncate_prompt")
            tokens = await asyncio.to_thread(_infill, model, prompt, max_context, add_special_tokens is not False)
    if not tokens:
        raise InvalidRequest("the prompt is empty", field="prompt")
    return tokens if truncate is None else tokens[-truncate:]


def _infill(model: LoadedModel, given: Infill, max_context: int, add_special_tokens: bool) -> list[int]:
    if isinstance(given.prefix, TokenPrompt):
        check_token_ids(given.prefix.ids, model.limits.vocab_size, "prompt")
    tokenize = partial(tokens_of, model, max_context=max_context)
    return infill_tokens(given, tokenize, add_special_tokens=add_special_tokens)


def tokens_of(
    model: LoadedModel, text: str | Chat, *, add_special_tokens: bool | None = None, max_context: int | None = None
) -> list[int]:
    """Of a text, or of a conversation as the model's template renders it. Raises InvalidRequest, and ContextOverflow
    for what is certain to leave no room for an answer in `max_context`.

    Unless it is said otherwise, special tokens are added to a text, and not to a conversation.
    """
    max_chars = None if max_context is None else model.tokenizer.most_chars(max_context - 1)
    if isinstance(text, str):
        _check_length(text, max_chars, max_context)
        return model.tokenizer.encode(text, add_special_tokens=add_special_tokens is not False)
    prompt = rendered(model, text, max_chars)
    _check_length(prompt, max_chars, max_context)
    return model.tokenizer.encode(prompt, add_special_tokens=bool(add_special_tokens))


def rendered(model: LoadedModel, chat: Chat, max_chars: int | None = None) -> str:
    """What the model's template makes of a conversation; of more than `max_chars`, the beginning. Raises
    InvalidRequest."""
    template = model.template
    if template is None:
        raise InvalidRequest(f"{model.name} has no chat template; give one or use completions", field="messages")
    if not chat.messages:
        raise InvalidRequest("the conversation has no messages", field="messages")
    if chat.offered and not takes_tools(template.source):
        raise InvalidRequest("the model's chat template does not know tools", field="tools")
    messages = chat.messages
    if template.wants_text_arguments:
        try:
            messages = tuple(map(_with_text_arguments, messages))
        except RecursionError:
            raise InvalidRequest("the arguments of a call are nested too deeply", field="messages") from None
    return template.render(
        messages,
        tools=chat.offered or None,
        documents=chat.documents or None,
        add_generation_prompt=chat.add_generation_prompt,
        continue_final=chat.continue_final_message,
        max_chars=max_chars,
        variables={**_effort(chat.reasoning_effort, template.source), **chat.template_kwargs},
    )


def _effort(effort: str | None, source: str) -> Mapping[str, object]:
    """What tells a template how much its model is to reason. Raises InvalidRequest where nothing does."""
    if effort is not None and re.search(r"\breasoning_effort\b", source):
        return {"reasoning_effort": effort}
    if effort == "none" and re.search(r"\benable_thinking\b", source):
        return {"enable_thinking": False}
    if effort in (None, "medium") or (effort == "none" and reasoning_family(source) is None):
        return {}
    message = f"this model cannot be told to reason with the effort {effort}: its chat template does not know how"
    raise InvalidRequest(message, field="reasoning_effort")


def _with_text_arguments(message: Mapping[str, object]) -> Mapping[str, object]:
    """As templates want it that put the arguments of calls into the prompt as they are."""
    match message:
        case {"tool_calls": [*calls]}:
            return {**message, "tool_calls": list(map(_with_text, calls))}
        case _:
            return message


def _with_text(call: object) -> object:
    match call:
        case {"function": {"arguments": dict(arguments), **function}, **rest}:
            return {**rest, "function": {**function, "arguments": json.dumps(arguments, ensure_ascii=False)}}
        case _:
            return call


def _check_length(text: str, max_chars: int | None, max_context: int | None) -> None:
    if max_chars is not None and len(text) > max_chars:
        raise ContextOverflow(
            f"the prompt has more than {max_chars} characters, too many tokens whatever they are; the model's context "
            f"is {max_context}",
            field="prompt",
            max_context=max_context,
        )


def _takes_long(prompt: str | Chat) -> bool:
    """In a message roles, names and ids are text as its content is. Whatever is not text may be of any size."""
    if isinstance(prompt, str):
        return len(prompt) > OFF_LOOP_CHARS
    values = [value for message in prompt.messages for value in message.values() if value is not None]
    if prompt.offered or prompt.documents or not all(isinstance(value, str) for value in values):
        return True
    return sum(len(value) for value in values if isinstance(value, str)) > OFF_LOOP_CHARS
