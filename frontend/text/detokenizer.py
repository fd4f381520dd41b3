"""The text of an answer as its tokens arrive. Knows pieces and UTF-8; does not know stop strings.

No text is decoded twice: a token's bytes are looked up, and only those of an unfinished character wait for the next.
"""

from codecs import utf_8_decode
from collections.abc import Sequence

from frontend.text.tokenizer import Tokenizer

MAX_CHARACTER_BYTES = 4


class Detokenizer:
    """Turns tokens into text that never changes again and never ends within a character.

    With the prompt's ids as `context`, everything that `push` and `flush` return, joined, is what
    `decode([*context, *answer])` has beyond the finished characters of `decode(context)`. So a space at the start of
    an answer is kept, unless the prompt has no text: then it starts the text, and SentencePiece drops it.
    Without `context` some text is taken to come before: a leading space is always kept.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        context: Sequence[int] | None = None,
        skip_special_tokens: bool = True,
        shown: frozenset[str] = frozenset(),
    ) -> None:
        """`shown` are special tokens that are not skipped."""
        self._pieces = tokenizer.pieces(skip_special_tokens=skip_special_tokens, shown=shown)
        self._partial = b""
        self._max_lead_spaces = 0
        if context is not None and not any(self._pieces[token_id] for token_id in context):
            self._max_lead_spaces = tokenizer.max_lead_spaces
        elif context:
            self.push(context[-MAX_CHARACTER_BYTES:])  # may end within a character

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that is certain now and was not before."""
        pieces = self._pieces
        if len(token_ids) == 1:  # most often
            data = self._partial + pieces[token_ids[0]]
        else:
            data = self._partial + b"".join([pieces[token_id] for token_id in token_ids])
        if self._max_lead_spaces and data:
            data = self._drop_lead(data)
        text, num_read = utf_8_decode(data, "replace", False)
        self._partial = data[num_read:]
        return text

    def flush(self) -> str:
        """The rest: U+FFFD for a character that stays unfinished."""
        partial, self._partial = self._partial, b""
        return partial.decode("utf-8", "replace")

    def _drop_lead(self, data: bytes) -> bytes:
        lead = min(len(data) - len(data.lstrip(b" ")), self._max_lead_spaces)
        self._max_lead_spaces = self._max_lead_spaces - lead if lead == len(data) else 0
        return data[lead:]
