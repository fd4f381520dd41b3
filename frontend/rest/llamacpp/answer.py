"""How one HTTP request of llama.cpp's completions is answered, whole or streamed.

Whole: one document, or a list of them where there are several answers. Streamed: an event for every delta, and one like
the document at the end of every answer; nothing after them. Does not know parameters or errors' shapes.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from frontend.api import Inference
from frontend.events import Delta, Event, Finish, Finished, Started, TokenLogprob, TokenLogprobs
from frontend.request import TokenPrompt
from frontend.rest.answers import answer, generate_what_fits, send_part, start_stream
from frontend.rest.llamacpp.answer_types import (
    LlamaChunk,
    LlamaCompletion,
    LlamaTimings,
    LlamaTokenLogprob,
    LlamaTopLogprob,
    StopType,
)
from frontend.rest.llamacpp.parse import Ask
from frontend.rest.llamacpp.settings import settings_of
from frontend.rest.middleware import SSE

LEAST = -3.4028234663852886e38
"""Stands for minus infinity, which JSON cannot say; so it does in llama.cpp."""

encode = msgspec.json.Encoder().encode


class LlamaEndpoint:
    """The ASGI app behind POST of one endpoint."""

    def __init__(self, inference: Inference, parse: Callable[[bytes, Inference], Awaitable[Ask]]) -> None:
        self._inference = inference
        self._parse = parse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ask = await self._parse(await Request(scope, receive).body(), self._inference)
        kind = StreamedAnswers if ask.given.stream else WholeAnswers
        answers = kind(Documents(self._inference, ask), send)
        await answer(
            self._inference,
            ask.generations,
            answers,
            scope,
            receive,
            names=ask.names,
            generate=lambda inference, request: generate_what_fits(inference, request, (request.max_tokens, None)),
        )


@dataclass(slots=True)
class Generated:
    """One answer as far as it has been generated."""

    started: Started | None = None
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    first_ns: int = 0
    last_ns: int = 0
    finished: Finished | None = None

    def take(self, event: Event) -> None:
        match event:
            case Started():
                self.started = event
            case Delta():
                self.first_ns = self.first_ns or time.monotonic_ns()
                self.texts.append(event.text)
                self.token_ids += event.token_ids
                self.logprobs += event.logprobs
            case Finished():
                self.last_ns = time.monotonic_ns()
                self.finished = event

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def head(self) -> Started:
        assert self.started is not None, "an answer began without Started"
        return self.started

    @property
    def final(self) -> Finished:
        assert self.finished is not None, "an answer ended without Finished"
        return self.finished


class Documents:
    """What is said of the answers to one request."""

    def __init__(self, inference: Inference, ask: Ask) -> None:
        self._inference = inference
        self.ask = ask

    async def whole(self, index: int, generated: Generated) -> object:
        """With the answer itself."""
        document = msgspec.structs.replace(
            await self._last(index, generated),
            content=generated.text,
            tokens=generated.token_ids if self.ask.given.return_tokens else (),
            completion_probabilities=[*map(_probabilities, generated.logprobs)] or msgspec.UNSET,
        )
        return self._chosen(document)

    async def last(self, index: int, generated: Generated) -> object:
        """At the end of a stream that had the answer."""
        return self._chosen(await self._last(index, generated))

    def chunk(self, index: int, generated: Generated, delta: Delta) -> LlamaChunk:
        return LlamaChunk(
            index=index,
            content=delta.text,
            tokens=delta.token_ids,
            tokens_predicted=len(generated.token_ids),
            tokens_evaluated=generated.head.prompt_tokens,
            completion_probabilities=[*map(_probabilities, delta.logprobs)] or msgspec.UNSET,
        )

    async def _last(self, index: int, generated: Generated) -> LlamaCompletion:
        asked, head, final = self.ask.generations[index], generated.head, generated.final
        prompt = asked.prompt
        if isinstance(prompt, TokenPrompt):
            prompt = await asyncio.to_thread(self._inference.detokenize, asked.model, prompt.ids)
        assert isinstance(prompt, str), "no prompt of this dialect is a conversation"
        room = self._inference.model(head.model).max_context - head.prompt_tokens
        return LlamaCompletion(
            index=index,
            content="",
            tokens=(),
            model=head.model,
            tokens_predicted=final.usage.completion_tokens,
            tokens_evaluated=head.prompt_tokens,
            generation_settings=settings_of(self.ask, asked),
            prompt=prompt,
            has_new_line="\n" in generated.text,
            truncated=final.reason is Finish.LENGTH and final.usage.completion_tokens >= room,
            stop_type=_stop_type(final),
            stopping_word=final.matched if isinstance(final.matched, str) else "",
            tokens_cached=final.usage.cached_tokens,
            timings=_timings(generated),
        )

    def _chosen(self, document: LlamaCompletion) -> object:
        paths = self.ask.given.response_fields
        return _at(msgspec.to_builtins(document), paths) if paths else document


class WholeAnswers:
    """Collects everything, then answers at once."""

    def __init__(self, documents: Documents, send: Send) -> None:
        self._documents = documents
        self._send = send
        self._generated = [Generated() for _ in documents.ask.generations]

    async def take(self, index: int, event: Event) -> None:
        self._generated[index].take(event)

    async def finish(self, scope: Scope, receive: Receive) -> None:
        documents = [await self._documents.whole(i, generated) for i, generated in enumerate(self._generated)]
        body = encode(documents[0] if len(documents) == 1 else documents)
        headers = {"x-request-id": self._generated[0].head.request_id}
        await Response(body, headers=headers, media_type="application/json")(scope, receive, self._send)


class StreamedAnswers:
    """Sends every event as it comes, those of several answers interleaved."""

    def __init__(self, documents: Documents, send: Send) -> None:
        self._documents = documents
        self._send = send
        self._sending = asyncio.Lock()
        self._has_begun = False
        self._generated = [Generated() for _ in documents.ask.generations]

    async def take(self, index: int, event: Event) -> None:
        generated = self._generated[index]
        generated.take(event)
        async with self._sending:
            match event:
                case Started() if not self._has_begun:
                    self._has_begun = True
                    await start_stream(self._send, SSE, event.request_id)
                case Delta():
                    await self._send_event(self._documents.chunk(index, generated, event))
                case Finished():
                    await self._send_event(await self._documents.last(index, generated))

    async def finish(self, scope: Scope, receive: Receive) -> None:
        await send_part(self._send, b"", is_last=True)

    async def _send_event(self, event: object) -> None:
        await send_part(self._send, b"data: " + encode(event) + b"\n\n")


def _stop_type(final: Finished) -> StopType:
    if final.reason is Finish.LENGTH:
        return "limit"
    return "word" if isinstance(final.matched, str) else "eos"


def _timings(generated: Generated) -> LlamaTimings:
    usage, timing = generated.final.usage, generated.final.timing
    num_tokens = usage.completion_tokens
    prompt_n = usage.prompt_tokens - usage.cached_tokens
    prompt_ms = timing.ttft_segments.get("prefill_compute", 0.0)
    predicted_ms = (generated.last_ns - generated.first_ns) / 1e6
    return LlamaTimings(
        cache_n=usage.cached_tokens,
        prompt_n=prompt_n,
        prompt_ms=prompt_ms,
        prompt_per_token_ms=_ratio(prompt_ms, prompt_n),
        prompt_per_second=_ratio(prompt_n * 1e3, prompt_ms),
        predicted_n=num_tokens,
        predicted_ms=predicted_ms,
        predicted_per_token_ms=_ratio(predicted_ms, num_tokens),
        predicted_per_second=_ratio(num_tokens * 1e3, predicted_ms),
    )


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _probabilities(entry: TokenLogprobs) -> LlamaTokenLogprob:
    top = [_probability(other) for other in entry.top]
    chosen = _probability(entry.chosen)
    return LlamaTokenLogprob(
        id=chosen.id, token=chosen.token, bytes=chosen.bytes, logprob=chosen.logprob, top_logprobs=top
    )


def _probability(token: TokenLogprob) -> LlamaTopLogprob:
    return LlamaTopLogprob(
        id=token.token_id,
        token=token.token.decode(errors="ignore"),
        bytes=list(token.token),
        logprob=max(token.logprob, LEAST),
    )


def _at(document: object, paths: Sequence[str]) -> Mapping[str, object]:
    """What stands at those of `paths` that lead somewhere."""
    found = {}
    for path in paths:
        value = document
        for name in path.split("/"):
            value = value.get(name, msgspec.UNSET) if isinstance(value, dict) else msgspec.UNSET
        if value is not msgspec.UNSET:
            found[path] = value
    return found
