"""Whether the masks of a grammar let a text through, token by token, as a sampler would meet them; and texts that
they let through, drawn at random."""

import random
from collections.abc import Mapping
from functools import cache

from llguidance import LLMatcher, LLTokenizer

from engine.errors import InvalidRequest
from engine.grammar import LIMITS, Grammars, GrammarState
from frontend.tags import split

NO_SPECIAL: Mapping[str, int] = {}


class Speller:
    """Spells answers with one model's tokens: at each step with the longest that the mask allows and the text has."""

    def __init__(self, grammars: Grammars) -> None:
        self._grammars = grammars
        tokenizer = grammars.tokenizer
        tokens = [token for token in range(tokenizer.vocab_size) if not tokenizer.is_special_token(token)]
        self._tokens: dict[bytes, list[int]] = {}
        for token in tokens:
            if data := tokenizer.decode_bytes([token]):
                self._tokens.setdefault(data, []).append(token)
        self._longest = max(map(len, self._tokens))

    def accepts(self, grammar: str, answer: str, special_tokens: Mapping[str, int] = NO_SPECIAL) -> bool:
        """Special tokens that are spelled out in `answer` are themselves."""
        state = self._grammars.start(grammar)
        for index, part in split(answer, special_tokens):
            if index % 2:
                token = special_tokens[part]
                if not state.matcher.compute_logit_bias()[token]:
                    return False
                state.take(token)
            elif not self._spell(state, part.encode()):
                return False
        return state.matcher.is_accepting() and not state.error

    def _spell(self, state: GrammarState, text: bytes) -> bool:
        begin = 0
        while begin < len(text):
            allowed = state.matcher.compute_logit_bias()
            lengths = range(min(self._longest, len(text) - begin), 0, -1)
            spelt = (token for n in lengths for token in self._tokens.get(text[begin : begin + n], ()))
            token = next((token for token in spelt if allowed[token]), None)
            if token is None or state.error:
                return False
            state.take(token)
            begin += len(self._grammars.tokenizer.decode_bytes([token]))
        return True


class Bytes:
    """A grammar whose tokens are bytes."""

    def __init__(self, grammar: str) -> None:
        """Raises InvalidRequest for what is no grammar."""
        self._matcher = LLMatcher(_bytes(), grammar, log_level=0, limits=LIMITS)
        if self._matcher.is_error():
            raise InvalidRequest(self._matcher.get_error())

    def accepts(self, answer: str) -> bool:
        matcher, tokens = self._matcher.deep_copy(), list(answer.encode())
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()

    def draw(self, rng: random.Random, long: int = 60) -> str | None:
        """An answer; None if it is not complete within some steps. From `long` bytes on it is brought to an end."""
        matcher, made = self._matcher.deep_copy(), bytearray()
        eos = _bytes().eos_token
        while len(made) < 40 * long:
            allowed = [token for token, weight in enumerate(matcher.compute_logit_bias()) if weight]
            assert not matcher.is_error(), f"{made.decode(errors='replace')} is a dead end: {matcher.get_error()}"
            ends = eos in allowed
            tokens = [token for token in allowed if token < 256]
            if ends and (not tokens or len(made) >= long or rng.random() < 0.3):
                return made.decode()
            structure = [token for token in tokens if token in b'"{[}],:' and rng.random() < 0.5]
            token = rng.choice((len(made) >= long and _closing(tokens)) or structure or tokens)
            matcher.consume_token(token)
            made.append(token)
        return None


def _closing(tokens: list[int]) -> list[int]:
    """Of what may come, what leads to an end soonest; a digit may come for ever."""
    return next((found for few in (b'"]}', b",:", b"0") if (found := [token for token in tokens if token in few])), [])


@cache
def _bytes() -> LLTokenizer:
    return LLTokenizer("byte")
