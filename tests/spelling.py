"""Whether the masks of a grammar let a text through, token by token, as a sampler would meet them."""

from collections.abc import Mapping

from engine.grammar import Grammars, GrammarState
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
