"""The text of one answer: tokens in, text out, cut at the first stop string.

Logprobs are reported by token, with the token's own bytes (`Tokenizer.token_bytes`), whether or not its text is held.
"""

from collections.abc import Sequence

from frontend.text.detokenizer import Detokenizer
from frontend.text.stops import StopStrings, TextDelta
from frontend.text.tokenizer import Tokenizer


class AnswerText:
    """Detokenizes one answer and watches for its stop strings.

    Stop strings are looked for in the text of token number `min_tokens` and later ones; what earlier tokens say passes
    unread. `context` is the prompt's ids, `shown` are special tokens that are not skipped: see `Detokenizer`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        context: Sequence[int] | None = None,
        stops: tuple[str, ...] = (),
        include_stop: bool = False,
        min_tokens: int = 0,
        skip_special_tokens: bool = True,
        shown: frozenset[str] = frozenset(),
    ) -> None:
        self._detokenizer = Detokenizer(
            tokenizer, context=context, skip_special_tokens=skip_special_tokens, shown=shown
        )
        self._stops = StopStrings(stops, include_stop=include_stop)
        self._num_unread = max(0, min_tokens - 1)
        """Tokens still to come whose text is not searched."""

    def push(self, token_ids: Sequence[int]) -> TextDelta:
        """Add the answer's next tokens; those after a stop string are dropped."""
        if not self._num_unread:
            return self._stops.push(self._detokenizer.push(token_ids))
        unread, read = token_ids[: self._num_unread], token_ids[self._num_unread :]
        self._num_unread -= len(unread)
        text = self._detokenizer.push(unread)
        delta = self.push(read) if read else TextDelta("")
        return TextDelta(text + delta.text, delta.stopped)

    def finish(self) -> str:
        """The text still held back, when the answer ends for another reason than a stop string."""
        rest = self._detokenizer.flush()
        return rest if self._num_unread else self._stops.push(rest).text + self._stops.flush()
