"""How one HTTP request of OpenAI's dialect is answered, whole or streamed; the same for chat and completions.

 1. The body is read and parsed; what is wrong with it is raised before any work begins.
 2. Every choice is generated in a task of its own; when the client hangs up, or one fails, all are closed.
 3. Whole: events are collected, and one JSON document is sent. Streamed: the first `Started` sends the headers, so
    whatever is refused still has its status; then each event is a chunk, sent as soon as it is there.

The role chunk of a choice travels with its first text: clients that time the first chunk time the first token.
What the endpoints spell differently is a `Format`. Does not know parameters or errors' shapes.
"""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.errors import TandemError
from frontend.api import Inference
from frontend.request import Delta, Event, Finished, GenerateRequest, Started
from frontend.rest.hangup import run_unless_hung_up
from frontend.rest.middleware import CALLER
from frontend.rest.openai_chunks import Chunks, encode
from frontend.rest.openai_format import Choice, Format, Head
from frontend.rest.openai_parse import Ask
from frontend.rest.openai_responses import (
    CompletionTokensDetails,
    CompletionUsage,
    PromptTokensDetails,
    RequestTiming,
)

SSE_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


class Endpoint:
    """The ASGI app behind POST of one endpoint."""

    def __init__(self, inference: Inference, form: Format) -> None:
        self._inference = inference
        self._form = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        ask = self._form.parse(await request.body())
        with_timing = request.headers.get("x-tandem-timing") == "1"
        trace_headers = {
            name: ",".join(values)
            for name in ("traceparent", "tracestate")
            if (values := request.headers.getlist(name))
        }
        form = self._form.functions or self._form if ask.functions else self._form
        kind = StreamedAnswers if ask.stream else WholeAnswer
        answers = kind(form, ask, with_timing=with_timing, send=send)
        works = [
            self._generate(i, replace(generation, trace_headers=trace_headers, caller=scope[CALLER]), ask, answers)
            for i, generation in enumerate(ask.generations)
        ]
        if await run_unless_hung_up(receive, works):
            await answers.finish(scope, receive)

    async def _generate(self, index: int, request: GenerateRequest, ask: Ask, answers: "Answers") -> None:
        try:
            async with aclosing(self._form.generate(self._inference, request)) as events:
                async for event in events:
                    await answers.take(index, event)
        except TandemError as error:
            error.field = ask.names.get(error.field or "", error.field)
            raise


class Answers(Protocol):
    """All choices of one request on their way to the client."""

    async def take(self, index: int, event: Event) -> None:
        """Take in the next event of choice `index`."""

    async def finish(self, scope: Scope, receive: Receive) -> None:
        """Send what remains once every choice has finished."""


class WholeAnswer:
    """Collects everything, then answers with one document."""

    def __init__(self, form: Format, ask: Ask, *, with_timing: bool, send: Send) -> None:
        self._form = form
        self._n = ask.n
        self._with_timing = with_timing
        self._send = send
        self._started: Started | None = None
        self._choices = [Choice() for _ in ask.generations]

    async def take(self, index: int, event: Event) -> None:
        choice = self._choices[index]
        match event:
            case Delta():
                choice.take(event)
            case Started():
                self._started = self._started or event
            case Finished():
                choice.finished = event

    async def finish(self, scope: Scope, receive: Receive) -> None:
        assert self._started is not None, "an answer ended without Started"
        head = Head.of(self._started, self._form.id_prefix, self._form.object)
        finals = [choice.final for choice in self._choices]
        document = self._form.whole(head, self._choices, usage_of(finals, self._n))
        if self._with_timing:
            document = msgspec.structs.replace(document, timing=RequestTiming.of(finals[0].timing))
        headers = {"x-request-id": self._started.request_id}
        await Response(encode(document), headers=headers, media_type="application/json")(scope, receive, self._send)


class StreamedAnswers:
    """Sends every event as it comes, those of several choices interleaved."""

    def __init__(self, form: Format, ask: Ask, *, with_timing: bool, send: Send) -> None:
        self._form = form
        self._ask = ask
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
            elif isinstance(event, Delta):
                if event.text or event.logprobs or event.reasoning or event.calls:
                    await self._write(self._chunks.delta(index, event))
            elif isinstance(event, Finished):
                self._finals[index] = event
                await self._write(self._chunks.closing(index, event))

    async def finish(self, scope: Scope, receive: Receive) -> None:
        assert self._chunks is not None, "an answer ended without Started"
        finals = [self._finals[i] for i in range(len(self._ask.generations))]
        usage = usage_of(finals, self._ask.n) if self._ask.include_usage else None
        timing = RequestTiming.of(finals[0].timing) if self._with_timing else None
        body = self._chunks.last(usage, timing) + b"data: [DONE]\n\n"
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _start(self, started: Started) -> None:
        head = Head.of(started, self._form.id_prefix, self._form.chunk_object)
        self._chunks = Chunks(
            self._form, head, num_choices=len(self._ask.generations), with_usage=self._ask.include_usage
        )
        headers = [*SSE_HEADERS, (b"x-request-id", started.request_id.encode())]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _write(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})


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
