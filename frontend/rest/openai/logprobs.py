"""Log probabilities of tokens in the two forms that OpenAI's endpoints have for them."""

import codecs
from collections.abc import Sequence

from frontend.events import PromptToken, TokenLogprob, TokenLogprobs
from frontend.rest.openai.answer_types import (
    ChatLogprobs,
    ChatTokenLogprob,
    CompletionLogprobs,
    PromptLogprob,
    PromptLogprobs,
    TopLogprob,
)

LEAST = -9999.0
"""Stands for minus infinity, which JSON cannot say; so does OpenAI."""


class Offsets:
    """Where the tokens of one answer begin in its text, in characters."""

    def __init__(self, start: int = 0) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._num_chars = start

    def next(self, token: bytes) -> int:
        start = self._num_chars
        self._num_chars += len(self._decoder.decode(token))
        return start


def chat_logprobs(logprobs: Sequence[TokenLogprobs], offsets: Offsets) -> ChatLogprobs:
    return ChatLogprobs(
        content=[
            ChatTokenLogprob(
                token=token_text(entry.chosen.token),
                logprob=_finite(entry.chosen),
                bytes=list(entry.chosen.token),
                top_logprobs=[
                    TopLogprob(token=token_text(other.token), logprob=_finite(other), bytes=list(other.token))
                    for other in entry.top
                ],
            )
            for entry in logprobs
        ]
    )


def completion_logprobs(logprobs: Sequence[TokenLogprobs], offsets: Offsets) -> CompletionLogprobs:
    return CompletionLogprobs(
        tokens=[token_text(entry.chosen.token) for entry in logprobs],
        token_logprobs=[_finite(entry.chosen) for entry in logprobs],
        top_logprobs=[_by_text(entry.chosen, entry.top) for entry in logprobs],
        text_offset=[offsets.next(entry.chosen.token) for entry in logprobs],
    )


def echoed_logprobs(prompt: Sequence[PromptToken], top: int, echo: str) -> CompletionLogprobs:
    """Of a prompt, with so many of the likeliest tokens in each place. It ends where `echo`, its text, does: tokens
    that were put before that stand at its beginning."""
    joined = b"".join(token.token for token in prompt).decode("utf-8", "replace")
    offsets = Offsets(len(echo) - len(joined))
    return CompletionLogprobs(
        tokens=[token_text(token.token) for token in prompt],
        token_logprobs=[_least(token.logprob) for token in prompt],
        top_logprobs=[
            None
            if token.logprob is None
            else _by_text(TokenLogprob(token.token_id, token.logprob, token.token), token.top[:top])
            for token in prompt
        ],
        text_offset=[max(offsets.next(token.token), 0) for token in prompt],
    )


def joined_logprobs(first: CompletionLogprobs, then: CompletionLogprobs) -> CompletionLogprobs:
    return CompletionLogprobs(
        tokens=first.tokens + then.tokens,
        token_logprobs=first.token_logprobs + then.token_logprobs,
        top_logprobs=first.top_logprobs + then.top_logprobs,
        text_offset=first.text_offset + then.text_offset,
    )


def prompt_logprobs(prompt: Sequence[PromptToken], top: int) -> PromptLogprobs:
    """As vLLM spells them."""
    return [
        None
        if token.logprob is None
        else {
            str(token.token_id): _ranked(token.logprob, token.rank or 1, token.token),
            **{
                str(other.token_id): _ranked(other.logprob, rank, other.token)
                for rank, other in enumerate(token.top[:top], 1)
                if other.token_id != token.token_id
            },
        }
        for token in prompt
    ]


def _by_text(chosen: TokenLogprob, top: Sequence[TokenLogprob]) -> dict[str, float]:
    """The chosen token is there even when it is not among the most likely ones."""
    return {token_text(other.token): _finite(other) for other in (chosen, *reversed(top))}


def _ranked(logprob: float, rank: int, token: bytes) -> PromptLogprob:
    return PromptLogprob(logprob=max(logprob, LEAST), rank=rank, decoded_token=token.decode("utf-8", "replace"))


def _least(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LEAST)


def token_text(token: bytes) -> str:
    """The token, or its bytes in OpenAI's notation when they are not whole characters."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def _finite(logprob: TokenLogprob) -> float:
    return max(logprob.logprob, LEAST)
