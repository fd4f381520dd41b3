"""From the prompt as a client gave it to the tokens that are computed. Does not know workers."""

import asyncio

from engine.errors import InvalidRequest
from frontend.model import LoadedModel
from frontend.request import Chat, TokenPrompt, check_token_ids

OFF_LOOP_CHARS = 8_192
"""Longer prompts are tokenized on a thread, so that they do not hold up everybody's tokens."""


async def encode(model: LoadedModel, prompt: str | TokenPrompt | Chat) -> list[int]:
    """Raises InvalidRequest for what is no prompt of this model's."""
    match prompt:
        case TokenPrompt(ids):
            check_token_ids(ids, model.limits.vocab_size, "prompt")
            tokens = list(ids)
        case str() | Chat() as text if _num_chars(text) > OFF_LOOP_CHARS:
            tokens = await asyncio.to_thread(tokens_of, model, text, add_special_tokens=True)
        case str() | Chat() as text:
            tokens = tokens_of(model, text, add_special_tokens=True)
    if not tokens:
        raise InvalidRequest("the prompt is empty", field="prompt")
    return tokens


def tokens_of(model: LoadedModel, text: str | Chat, *, add_special_tokens: bool) -> list[int]:
    """Of a text, or of a conversation as the model's template renders it. Raises InvalidRequest."""
    if isinstance(text, str):
        return model.tokenizer.encode(text, add_special_tokens=add_special_tokens)
    if model.template is None:
        raise InvalidRequest(f"{model.name} has no chat template; give one or use completions", field="messages")
    if not text.messages:
        raise InvalidRequest("the conversation has no messages", field="messages")
    rendered = model.template.render(text.messages, add_generation_prompt=text.add_generation_prompt)
    return model.tokenizer.encode(rendered, add_special_tokens=False)


def _num_chars(prompt: str | Chat) -> int:
    """About how much there is to tokenize."""
    return len(prompt) if isinstance(prompt, str) else sum(len(str(m.get("content"))) for m in prompt.messages)
