"""What workers say of a prompt's tokens, put together as it comes chunk by chunk, and told as clients hear it.

A worker that begins anew says all of it again: what is known of a place is what was said last. Columns are kept as they
come; an object for each token is made once, when all is there.
"""

import asyncio
import sys
from array import array
from collections.abc import Sequence
from typing import TypeVar

from engine.errors import ProtocolError
from frontend.events import PromptLogprobs, PromptToken, TokenLogprob
from frontend.text.tokenizer import Tokenizer
from protos import worker_pb2 as pb

Number = TypeVar("Number", int, float)
OFF_LOOP_ENTRIES = 2_048
"""More of them are made on a thread, so that they do not hold up everybody's tokens."""


class PromptScores:
    """Of one prompt."""

    def __init__(self, num_prompt: int, num_top: int) -> None:
        self._num_top = num_top
        self._end = 1
        """Tokens that something is known of, from the second on; nothing can be of the first."""
        self._num_prompt = num_prompt
        count = num_prompt - 1
        self._logprobs, self._ranks = array("f", bytes(4 * count)), array("I", bytes(4 * count))
        self._top = array("f", bytes(4 * count * num_top))
        self._top_ids = array("i", bytes(4 * count * num_top))

    def take(self, said: pb.PromptScores) -> None:
        """Raises ProtocolError for what is not about this prompt."""
        count, num_top, begin = len(said.logprobs) // 4, self._num_top, said.first - 1
        lengths = (len(said.logprobs), len(said.ranks), len(said.top_ids), len(said.top))
        if lengths != (4 * count, 4 * count, 4 * count * num_top, 4 * count * num_top):
            raise ProtocolError("the columns of a prompt's log-probabilities differ in length")
        if not (1 <= said.first <= self._end and said.first + count <= self._num_prompt):
            raise ProtocolError(f"log-probabilities of {count} tokens from number {said.first} on follow nothing")
        _put(self._logprobs, begin, said.logprobs)
        _put(self._ranks, begin, said.ranks)
        _put(self._top, begin * num_top, said.top)
        _put(self._top_ids, begin * num_top, said.top_ids)
        self._end = said.first + count

    async def told(self, ids: Sequence[int], tokenizer: Tokenizer) -> PromptLogprobs:
        """All of it, of the prompt's `ids`. Raises ProtocolError if something was not said."""
        if self._end < self._num_prompt:
            raise ProtocolError("a first token came before all that there is to be said of its prompt")
        if len(ids) * (self._num_top + 1) > OFF_LOOP_ENTRIES:
            return await asyncio.to_thread(self._told, ids, tokenizer)
        return self._told(ids, tokenizer)

    def _told(self, ids: Sequence[int], tokenizer: Tokenizer) -> PromptLogprobs:
        token_bytes, width = tokenizer.token_bytes, self._num_top
        tokens = [PromptToken(ids[0], token_bytes(ids[0]))]
        for place, token in enumerate(ids[1:]):
            span = slice(place * width, (place + 1) * width)
            top = zip(self._top_ids[span], self._top[span], strict=True)
            likeliest = tuple(TokenLogprob(other, value, token_bytes(other)) for other, value in top)
            said = self._logprobs[place], self._ranks[place], likeliest
            tokens.append(PromptToken(token, token_bytes(token), *said))
        return PromptLogprobs(tuple(tokens))


def _put(column: "array[Number]", begin: int, values: bytes) -> None:
    """Write the numbers of little-endian bytes."""
    numbers: array[Number] = array(column.typecode, values)
    if sys.byteorder == "big":
        numbers.byteswap()
    column[begin : begin + len(numbers)] = numbers
