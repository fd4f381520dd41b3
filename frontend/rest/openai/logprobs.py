"""Log probabilities of tokens in the two forms that OpenAI's endpoints have for them."""

import codecs
from collections.abc import Sequence

from frontend.request import TokenLogprob, TokenLogprobs
from frontend.rest.openai.answer_types import ChatLogprobs, ChatTokenLogprob, CompletionLogprobs, TopLogprob

LEAST = -9999.0
"""Stands for minus infinity, which JSON cannot say; so does OpenAI."""


class Offsets:
    """Where the tokens of one answer begin in its text, in characters."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._num_chars = 0

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
        top_logprobs=[
            # the chosen token is there even when it is not among the most likely ones
            {token_text(other.token): _finite(other) for other in (entry.chosen, *reversed(entry.top))}
            for entry in logprobs
        ],
        text_offset=[offsets.next(entry.chosen.token) for entry in logprobs],
    )


def token_text(token: bytes) -> str:
    """The token, or its bytes in OpenAI's notation when they are not whole characters."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def _finite(logprob: TokenLogprob) -> float:
    return max(logprob.logprob, LEAST)
