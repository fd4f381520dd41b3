"""One answer as it grows: tokens in, text deltas out, until a stop, the end of its grammar or the length ends it."""

from collections.abc import Sequence
from dataclasses import replace

from frontend.events import Delta, Finish, Finished, TokenLogprob, TokenLogprobs, Usage
from frontend.job import Job
from frontend.leg_events import Row
from frontend.model import LoadedModel
from frontend.request import GenerateRequest
from frontend.text.answer import AnswerText
from protos import worker_pb2 as pb


class Answer:
    """Fed with the rows of a job's attempts; `finished` is set by the row that ends it."""

    def __init__(
        self, model: LoadedModel, request: GenerateRequest, job: Job, shown: frozenset[str] = frozenset()
    ) -> None:
        """`shown` are special tokens that are part of the text even where those are skipped."""
        self.finished: Finished | None = None
        self._job = job
        self._tokenizer = model.tokenizer
        self._num_tokens = 0
        self._vector = b""
        self._text = AnswerText(
            model.tokenizer,
            context=job.tokens[: job.num_prompt],
            stops=request.stop,
            include_stop=request.include_stop,
            min_tokens=job.params.min_tokens,
            skip_special_tokens=request.skip_special_tokens,
            shown=shown,
        )

    def push(self, rows: Sequence[Row]) -> Delta | None:
        """Take in tokens, in order; those after the one that ends the answer are dropped."""
        first_index = self._num_tokens
        if len(rows) == 1 and not rows[0].finish and rows[0].logprobs is None:  # what almost every step brings
            ids = (rows[0].token,)
            self._num_tokens += 1
            text, stopped = self._text.push(ids)
            if stopped is not None:
                self.finish(Finish.STOP, stopped)
            return Delta(text, ids, first_index)
        return self._push_all(rows, first_index)

    def _push_all(self, rows: Sequence[Row], first_index: int) -> Delta | None:
        text, ids, logprobs = [], [], []
        for row in rows:
            self._num_tokens += 1
            ids.append(row.token)
            self._vector = row.vector or self._vector
            if row.logprobs is not None:
                logprobs.append(self._logprobs(row.token, row.logprobs))
            if row.finish == pb.FINISH_REASON_STOP:  # a stop token ends the answer and is not part of its text
                text.append(self._text.finish())
                self.finish(Finish.STOP, row.token)
                break
            delta = self._text.push((row.token,))
            text.append(delta.text)
            if delta.stopped is not None:
                self.finish(Finish.STOP, delta.stopped)
                break
            if row.finish:  # the length, or the end of its grammar
                text.append(self._text.finish())
                self.finish(Finish.LENGTH if row.finish == pb.FINISH_REASON_LENGTH else Finish.STOP, None)
        return Delta("".join(text), tuple(ids), first_index, tuple(logprobs)) if ids else None

    def finish(self, reason: Finish, matched: str | int | None) -> None:
        """Nothing of the answer is wanted any more."""
        job = self._job
        usage = Usage(job.num_prompt, self._num_tokens, job.cached_tokens)
        timing = replace(job.ledger.timing(), cached_share=job.cached_tokens / job.num_prompt)
        self.finished = Finished(reason, matched, usage, timing, self._vector)

    def _logprobs(self, token: int, logprobs: pb.Logprobs) -> TokenLogprobs:
        top = zip(logprobs.top_ids, logprobs.top, strict=True)
        return TokenLogprobs(
            self._logprob(token, logprobs.chosen), tuple(self._logprob(other, value) for other, value in top)
        )

    def _logprob(self, token: int, value: float) -> TokenLogprob:
        return TokenLogprob(token, value, self._tokenizer.token_bytes(token))


class NoAnswer(Answer):
    """To who wants to hear of the prompt alone: the token that was drawn for that is no part of it."""

    def push(self, rows: Sequence[Row]) -> Delta | None:
        if rows:
            self.finish(Finish.LENGTH, None)
        return None
