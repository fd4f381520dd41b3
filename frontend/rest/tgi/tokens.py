"""How the tokens of an answer are told: their ids, texts and probabilities."""

import codecs
from collections.abc import Container

from msgspec import UNSET, UnsetType

from frontend.events import Finish, Finished, PromptToken, TokenLogprob, TokenLogprobs
from frontend.rest.tgi.answer_types import FinishReason, TgiPrefillToken, TgiToken


class Tokens:
    """Of one answer, in their order. Joined, their texts are the answer's, with the special tokens in it."""

    def __init__(self, special_ids: Container[int]) -> None:
        self._special_ids = special_ids
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def chosen(self, entry: TokenLogprobs, *, is_last: bool) -> TgiToken:
        """The next token."""
        return self._token(entry.chosen, self._decoder.decode(entry.chosen.token, is_last))

    def top(self, entry: TokenLogprobs) -> list[TgiToken]:
        """The likeliest ones in its place, each by itself."""
        return [self._token(other, other.token.decode("utf-8", "replace")) for other in entry.top]

    def top_or_unset(self, entry: TokenLogprobs) -> list[TgiToken] | UnsetType:
        return self.top(entry) if entry.top else UNSET

    def _token(self, given: TokenLogprob, text: str) -> TgiToken:
        special = given.token_id in self._special_ids
        return TgiToken(id=given.token_id, text=text, logprob=given.logprob, special=special)


def prefill_token(given: PromptToken) -> TgiPrefillToken:
    """By itself."""
    return TgiPrefillToken(id=given.token_id, text=given.token.decode("utf-8", "replace"), logprob=given.logprob)


def finish_reason(finished: Finished) -> FinishReason:
    if finished.reason is Finish.LENGTH:
        return "length"
    return "stop_sequence" if isinstance(finished.matched, str) else "eos_token"
