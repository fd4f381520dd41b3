"""Server-sent events of one stream, as bytes. This is the cost of REST per token, so nothing is encoded twice."""

from collections.abc import Sequence

import msgspec

from frontend.events import Delta, Finished, PromptToken
from frontend.rest.openai.answer_types import CompletionUsage, RequestTiming
from frontend.rest.openai.format import Format, Head
from frontend.rest.openai.logprobs import Offsets, echoed_logprobs

encode = msgspec.json.Encoder().encode

_NO_LOGPROBS = b',"logprobs":null'
_GOES_ON = b',"finish_reason":null'


class Chunks:
    """Encodes the events of every choice; what does not change from chunk to chunk is encoded once."""

    def __init__(self, form: Format, head: Head, *, num_choices: int, with_usage: bool, echoes: Sequence[str]) -> None:
        """`echoes` are what choices begin with, where there is such a thing."""
        self._form = form
        self._head = b"data: " + encode(head)[:-1] + b',"choices":['
        self._end_with(b',"usage":null' if with_usage else b"")
        choices = [self._head + b'{"index":%d,' % i for i in range(num_choices)]
        self._choices = choices
        self._text_starts = [choice + form.before_text for choice in choices]
        self._echoes = echoes
        self._offsets = [Offsets(len(echo)) for echo in echoes] or [Offsets() for _ in choices]
        self._openings = [form.before_text + encode(echo) + form.after_text for echo in echoes] or [
            form.opening or b"" for _ in choices
        ]
        self._opened = [not opening for opening in self._openings]
        self._of_prompts: dict[int, bytes] = {}
        """Log-probabilities that choices open with, as JSON."""
        self._prompts: dict[int, bytes] = {}
        """Tokens that choices have still to tell, as JSON."""
        self._with_ids = False

    def note_prompt(self, index: int, ids: Sequence[int]) -> None:
        """What the prompt of a choice is. Chunks that follow tell their tokens, and the first one these, too."""
        self._prompts[index] = b',"prompt_token_ids":' + encode(ids)
        self._with_ids = True

    def note_echo(self, index: int, prompt: Sequence[PromptToken]) -> None:
        """How likely the prompt is that a choice begins with: its first chunk says so."""
        assert self._form.echo_logprobs is not None, "nobody asked"
        told = echoed_logprobs(prompt, self._form.echo_logprobs, self._echoes[index])
        self._of_prompts[index] = b',"logprobs":' + encode(told)

    def count(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Chunks that follow say that so much has been used."""
        usage = CompletionUsage(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
        )
        self._end_with(b',"usage":' + encode(usage))

    def _end_with(self, usage: bytes) -> None:
        self._end = b"}]" + usage + b"}\n\n"
        self._going_on = _NO_LOGPROBS + _GOES_ON + self._end
        self._text_end = self._form.after_text + self._going_on

    def delta(self, index: int, delta: Delta) -> bytes:
        """One chunk, or several: reasoning, text and each part of a call come in chunks of their own."""
        if delta.reasoning or delta.calls or self._with_ids:
            return self._parts(index, delta)
        chunk = self._text_starts[index] + encode(delta.text)
        if delta.logprobs:
            chunk += self._form.after_text + self._logprobs(index, delta) + _GOES_ON + self._end
        else:
            chunk += self._text_end
        return chunk if self._opened[index] else self._opening(index) + chunk

    def closing(self, index: int, finished: Finished) -> bytes:
        reason = _NO_LOGPROBS + b',"finish_reason":' + encode(self._form.reason(finished.reason)) + self._end
        chunk = self._choices[index] + self._form.closing + reason
        return chunk if self._opened[index] else self._opening(index) + chunk

    def last(self, usage: CompletionUsage | None, timing: RequestTiming | None) -> bytes:
        """A chunk without choices, with what was asked for; nothing when nothing was."""
        if usage is None and timing is None:
            return b""
        usage_field = b"" if usage is None else b',"usage":' + encode(usage)
        timing_field = b"" if timing is None else b',"timing":' + encode(timing)
        return self._head + b"]" + usage_field + timing_field + b"}\n\n"

    def _parts(self, index: int, delta: Delta) -> bytes:
        chunks = [] if self._opened[index] else [self._opening(index)]
        logprobs = self._logprobs(index, delta) if delta.logprobs else _NO_LOGPROBS
        more = b',"token_ids":' + encode(delta.token_ids) if self._with_ids else b""
        parts = [] if self._form.parts is None else self._form.parts(delta)
        for part in parts or [self._form.before_text + encode(delta.text) + self._form.after_text]:
            chunks.append(self._with_prompt(index, self._choices[index] + part + logprobs + _GOES_ON + more))
            logprobs, more = _NO_LOGPROBS, b""  # once
        return b"".join(chunks)

    def _with_prompt(self, index: int, chunk: bytes) -> bytes:
        """The chunk of a choice with its end, and with the tokens of its prompt if it has not told them."""
        prompt = self._prompts.pop(index, b"")
        if self._form.prompts_differ:
            return chunk + prompt + self._end
        return chunk + self._end[:-3] + prompt + self._end[-3:]

    def _logprobs(self, index: int, delta: Delta) -> bytes:
        return b',"logprobs":' + encode(self._form.logprobs(delta.logprobs, self._offsets[index]))

    def _opening(self, index: int) -> bytes:
        self._opened[index] = True
        chunk = self._choices[index] + self._openings[index] + self._of_prompts.pop(index, _NO_LOGPROBS) + _GOES_ON
        return self._with_prompt(index, chunk)
