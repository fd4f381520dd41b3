"""How one HTTP request of OpenAI's dialect is answered, whole or streamed; the same for chat and completions.

Whole: events are collected, and one JSON document is sent. Streamed: each event is a chunk, sent as soon as it is
there.

The role chunk of a choice travels with its first text: clients that time the first chunk time the first token.
What the endpoints spell differently is a `Format`. Does not know parameters or errors' shapes.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.errors import InvalidRequest, Unsupported
from frontend.api import Inference
from frontend.events import Delta, Event, Finished, PromptLogprobs, Started
from frontend.fields import UnsupportedParameter
from frontend.request import TokenPrompt
from frontend.rest.answers import Choice, answer, send_part, start_stream
from frontend.rest.middleware import SSE
from frontend.rest.openai.answer_types import (
    CompletionTokensDetails,
    CompletionUsage,
    PromptTokensDetails,
    RequestTiming,
)
from frontend.rest.openai.chunks import Chunks, encode
from frontend.rest.openai.format import Format, Head
from frontend.rest.openai.limits import limit_headers
from frontend.rest.openai.parse import Ask


class Endpoint:
    """The ASGI app behind POST of one endpoint."""

    def __init__(self, inference: Inference, form: Format, *, lenient: bool) -> None:
        self._inference = inference
        self._form = form
        self._lenient = lenient

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        ask = self._form.parse(await request.body(), lenient=self._lenient)
        with_timing = request.headers.get("x-tandem-timing") == "1"
        form = self._form.of(ask)
        kind = StreamedAnswers if ask.stream else WholeAnswer
        echoes = await asyncio.to_thread(self._echoes, ask) if ask.echo else ()
        answers = kind(form, ask, with_timing=with_timing, send=send, echoes=echoes)
        try:
            await answer(
                self._inference, ask.generations, answers, scope, receive, names=ask.names, generate=form.generate
            )
        except Unsupported as error:
            if error.field != "suffix":
                raise
            raise UnsupportedParameter(error.message, field="suffix") from error

    def _echoes(self, ask: Ask) -> list[str]:
        """Each prompt as text."""
        texts = []
        for request in ask.generations:
            match request.prompt:
                case TokenPrompt(ids):
                    texts.append(self._detokenized(request.model, ids))
                case str(text):
                    texts.append(text)
        return texts

    def _detokenized(self, model: str | None, ids: Sequence[int]) -> str:
        try:
            return self._inference.detokenize(model, ids)
        except InvalidRequest as error:
            error.field = "prompt"
            raise


class WholeAnswer:
    """Collects everything, then answers with one document."""

    def __init__(self, form: Format, ask: Ask, *, with_timing: bool, send: Send, echoes: Sequence[str]) -> None:
        self._form = form
        self._ask = ask
        self._echoes = echoes
        self._with_timing = with_timing
        self._send = send
        self._started: Started | None = None
        self._choices = [Choice() for _ in ask.generations]

    async def take(self, index: int, event: Event) -> None:
        choice = self._choices[index]
        match event:
            case Delta():
                choice.take(event)
            case PromptLogprobs(tokens):
                choice.prompt = tokens
            case Started():
                self._started = self._started or event
                choice.prompt_ids = event.prompt_ids if self._ask.shows_ids else ()
            case Finished():
                choice.finished = event

    async def finish(self, scope: Scope, receive: Receive) -> None:
        assert self._started is not None, "an answer ended without Started"
        head = Head.of(self._started, self._form.id_prefix, self._form.object)
        finals = [choice.final for choice in self._choices]
        for choice, echo in zip(self._choices, self._echoes, strict=False):
            choice.texts.insert(0, echo)
        for index, choice in enumerate(self._choices):  # the first to each prompt was told of it
            choice.prompt = self._choices[index - index % self._ask.num_each].prompt
        given, usage = self._given(), usage_of(finals, self._ask.num_each)
        if given[0].prompt:  # takes long
            document = await asyncio.to_thread(self._form.whole, self._form, head, given, usage)
        else:
            document = self._form.whole(self._form, head, given, usage)
        if self._with_timing:
            document = msgspec.structs.replace(document, timing=RequestTiming.of(finals[0].timing))
        headers = {"x-request-id": self._started.request_id, **limit_headers(self._started.allowance)}
        await Response(encode(document), headers=headers, media_type="application/json")(scope, receive, self._send)

    def _given(self) -> Sequence[Choice]:
        """All choices, or of each prompt's the likeliest."""
        n, num_each = self._ask.n, self._ask.num_each
        if n == num_each:
            return self._choices
        best: list[Choice] = []
        for start in range(0, len(self._choices), num_each):
            best += sorted(self._choices[start : start + num_each], key=likelihood, reverse=True)[:n]
        return best if self._ask.shows_logprobs else [replace(choice, logprobs=[]) for choice in best]


class StreamedAnswers:
    """Sends every event as it comes, those of several choices interleaved."""

    def __init__(self, form: Format, ask: Ask, *, with_timing: bool, send: Send, echoes: Sequence[str]) -> None:
        self._form = form
        self._ask = ask
        self._echoes = echoes
        self._prompt_tokens = self._completion_tokens = 0
        """Of the usage so far."""
        self._with_timing = with_timing
        self._send = send
        self._sending = asyncio.Lock()
        self._chunks: Chunks | None = None
        self._finals: dict[int, Finished] = {}

    async def take(self, index: int, event: Event) -> None:
        async with self._sending:
            if self._chunks is None:
                assert isinstance(event, Started), "an answer began without Started"
                await self._start(event)
            assert self._chunks is not None, "it has started"
            if self._ask.running_usage:
                self._count(index, event)
            if isinstance(event, Delta):
                if event.text or event.logprobs or event.reasoning or event.calls or self._ask.shows_ids:
                    await send_part(self._send, self._chunks.delta(index, event))
            elif isinstance(event, Finished):
                self._finals[index] = event
                await send_part(self._send, self._chunks.closing(index, event))
            elif isinstance(event, PromptLogprobs):
                self._chunks.note_echo(index, event.tokens)
            elif self._ask.shows_ids:
                self._chunks.note_prompt(index, event.prompt_ids)

    async def finish(self, scope: Scope, receive: Receive) -> None:
        assert self._chunks is not None, "an answer ended without Started"
        finals = [self._finals[i] for i in range(len(self._ask.generations))]
        usage = usage_of(finals, self._ask.num_each) if self._ask.include_usage else None
        timing = RequestTiming.of(finals[0].timing) if self._with_timing else None
        body = self._chunks.last(usage, timing) + b"data: [DONE]\n\n"
        await send_part(self._send, body, is_last=True)

    async def _start(self, started: Started) -> None:
        head = Head.of(started, self._form.id_prefix, self._form.chunk_object)
        self._chunks = Chunks(
            self._form,
            head,
            num_choices=len(self._ask.generations),
            with_usage=self._ask.include_usage,
            echoes=self._echoes,
        )
        await start_stream(self._send, SSE, started.request_id, limit_headers(started.allowance))

    def _count(self, index: int, event: Event) -> None:
        assert self._chunks is not None, "nothing is counted before it is started"
        if isinstance(event, Started) and index % self._ask.num_each == 0:
            self._prompt_tokens += event.prompt_tokens
        elif isinstance(event, Delta):
            self._completion_tokens += len(event.token_ids)
        self._chunks.count(self._prompt_tokens, self._completion_tokens)


def likelihood(choice: Choice) -> float:
    """Of its tokens, on average: else the shortest would be the best."""
    return fmean(entry.chosen.logprob for entry in choice.logprobs) if choice.logprobs else -math.inf


def usage_of(finals: Sequence[Finished], n: int) -> CompletionUsage:
    """A prompt counts once, whatever number of answers it gets."""
    prompts = [final.usage for final in finals[::n]]
    prompt_tokens = sum(usage.prompt_tokens for usage in prompts)
    completion_tokens = sum(final.usage.completion_tokens for final in finals)
    thoughts = [final.usage.reasoning_tokens for final in finals if final.usage.reasoning_tokens is not None]
    return CompletionUsage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=sum(usage.cached_tokens for usage in prompts)),
        completion_tokens_details=CompletionTokensDetails(reasoning_tokens=sum(thoughts))
        if thoughts
        else msgspec.UNSET,
    )
