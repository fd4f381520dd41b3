"""How one HTTP request of TGI's dialect is answered, whole or streamed.

A stream has an event for every token, and says with the last one how the answer ended: nothing comes after it.
Does not know parameters or errors' shapes.
"""

import time
from collections.abc import Callable, Mapping
from urllib.parse import quote

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from frontend.api import Inference
from frontend.events import Delta, Event, Finished, PromptLogprobs, Started, TokenLogprobs
from frontend.rest.answers import Answers, Choice, answer, send_part, start_stream
from frontend.rest.middleware import SSE
from frontend.rest.tgi.answer_types import (
    TgiAnswer,
    TgiDetails,
    TgiEvent,
    TgiEventDetails,
    TgiPrefillToken,
    TgiSequence,
)
from frontend.rest.tgi.parse import NAMES, Ask, Form, parse
from frontend.rest.tgi.tokens import Tokens, finish_reason, prefill_token

encode = msgspec.json.Encoder().encode

VALIDATION = ("admit", "tokenize")
QUEUE = ("route", "grant", "prefill_queue")
"""Segments of the time to the first token."""

SpecialIds = Callable[[str], frozenset[int]]
"""Of a model, by its name."""


class Endpoint:
    """The ASGI app behind POST of one path."""

    def __init__(self, inference: Inference, form: Form) -> None:
        self._inference = inference
        self._form = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ask = parse(await Request(scope, receive).body(), self._form)
        answers: Answers = (
            StreamedAnswer(ask, self._special_ids, send)
            if ask.stream
            else WholeAnswer(ask, self._special_ids, send, in_list=self._form.in_list)
        )
        await answer(self._inference, ask.generations, answers, scope, receive, names=NAMES)

    def _special_ids(self, model: str) -> frozenset[int]:
        return self._inference.vocabulary(model).special_ids


class WholeAnswer:
    """Collects every answer, then sends the one whose tokens are the likeliest on average."""

    def __init__(self, ask: Ask, special_ids: SpecialIds, send: Send, *, in_list: bool) -> None:
        self._ask = ask
        self._special_ids = special_ids
        self._send = send
        self._in_list = in_list
        self._choices = [Choice() for _ in range(ask.best_of)]
        self._started: dict[int, Started] = {}
        self._prefill: list[TgiPrefillToken] = []
        self._arrived_s = time.monotonic()

    async def take(self, index: int, event: Event) -> None:
        match event:
            case Delta():
                self._choices[index].take(event)
            case Started():
                self._started[index] = event
            case PromptLogprobs(tokens):
                self._prefill = [prefill_token(token) for token in tokens]
            case Finished():
                self._choices[index].finished = event

    async def finish(self, scope: Scope, receive: Receive) -> None:
        best, *others = sorted(range(len(self._choices)), key=lambda index: -_mean_logprob(self._choices[index]))
        document = TgiAnswer(
            generated_text=self._text(self._choices[best]),
            details=self._details(best, others) if self._ask.details else UNSET,
        )
        started, finished = self._started[best], self._choices[best].final
        body = encode([document] if self._in_list else document)
        headers = {"x-request-id": started.request_id, **_says(started), **self._headers(finished)}
        await Response(body, headers=headers, media_type="application/json")(scope, receive, self._send)

    def _text(self, choice: Choice) -> str:
        return self._ask.prefix + "".join(choice.texts)

    def _details(self, best: int, others: list[int]) -> TgiDetails:
        told = self._sequence(best)
        return TgiDetails(
            finish_reason=told.finish_reason,
            generated_tokens=told.generated_tokens,
            seed=told.seed,
            prefill=told.prefill,
            tokens=told.tokens,
            top_tokens=told.top_tokens,
            best_of_sequences=[self._sequence(index) for index in sorted(others)] if others else UNSET,
        )

    def _sequence(self, index: int) -> TgiSequence:
        choice, tokens = self._choices[index], Tokens(self._special_ids(self._started[index].model))
        last = len(choice.logprobs) - 1
        has_top = bool(self._ask.generation.logprobs)
        return TgiSequence(
            generated_text=self._text(choice),
            finish_reason=finish_reason(choice.final),
            generated_tokens=choice.final.usage.completion_tokens,
            seed=self._started[index].seed if self._ask.is_sampled else None,
            prefill=self._prefill,
            tokens=[tokens.chosen(entry, is_last=place == last) for place, entry in enumerate(choice.logprobs)],
            top_tokens=[tokens.top(entry) for entry in choice.logprobs] if has_top else UNSET,
        )

    def _headers(self, finished: Finished) -> Mapping[str, str]:
        """Times are milliseconds, but for compute-time's seconds."""
        segments, usage = finished.timing.ttft_segments, finished.usage
        total_ms = (time.monotonic() - self._arrived_s) * 1e3
        validation_ms, queue_ms = (sum(segments.get(name, 0.0) for name in names) for names in (VALIDATION, QUEUE))
        inference_ms = max(total_ms - validation_ms - queue_ms, 0.0)
        return {
            "x-compute-characters": str(len(self._ask.inputs)),
            "x-compute-time": f"{total_ms / 1e3:.6f}",
            "x-total-time": f"{total_ms:.0f}",
            "x-validation-time": f"{validation_ms:.0f}",
            "x-queue-time": f"{queue_ms:.0f}",
            "x-inference-time": f"{inference_ms:.0f}",
            "x-time-per-token": f"{inference_ms / max(usage.completion_tokens, 1):.0f}",
            "x-prompt-tokens": str(usage.prompt_tokens),
            "x-generated-tokens": str(usage.completion_tokens),
        }


def _mean_logprob(choice: Choice) -> float:
    """0 of an answer whose tokens nobody asked for: it is the only one."""
    return sum(entry.chosen.logprob for entry in choice.logprobs) / max(len(choice.logprobs), 1)


class StreamedAnswer:
    """Sends every token as it comes."""

    def __init__(self, ask: Ask, special_ids: SpecialIds, send: Send) -> None:
        self._ask = ask
        self._send = send
        self._special_ids = special_ids
        self._tokens = Tokens(frozenset())
        self._texts = [ask.prefix]
        self._num_tokens = 0
        self._seed: int | None = None
        self._last: TgiEvent | None = None
        """The event of the last token, without how it all ended."""
        self._finished: Finished | None = None

    async def take(self, index: int, event: Event) -> None:
        if isinstance(event, Delta):
            await self._take(event)
        elif isinstance(event, Started):
            self._seed = event.seed if self._ask.is_sampled else None
            self._tokens = Tokens(self._special_ids(event.model))
            await start_stream(self._send, SSE, event.request_id, _says(event))
        elif isinstance(event, Finished):
            self._finished = event

    async def _take(self, delta: Delta) -> None:
        self._texts.append(delta.text)
        ended = len(delta.logprobs) if delta.is_last else None
        events = [self._event(entry, is_last=place == ended) for place, entry in enumerate(delta.logprobs, 1)]
        if delta.is_last:
            self._last = events.pop()
        if events:
            await send_part(self._send, b"".join(map(_part, events)))

    def _event(self, entry: TokenLogprobs, *, is_last: bool) -> TgiEvent:
        self._num_tokens += 1
        token = self._tokens.chosen(entry, is_last=is_last)
        return TgiEvent(index=self._num_tokens, token=token, top_tokens=self._tokens.top_or_unset(entry))

    async def finish(self, scope: Scope, receive: Receive) -> None:
        assert self._finished is not None, "an answer ended without Finished"
        assert self._last is not None, "an answer ended without its last token"
        usage = self._finished.usage
        details = TgiEventDetails(
            finish_reason=finish_reason(self._finished),
            generated_tokens=usage.completion_tokens,
            seed=self._seed,
            input_length=usage.prompt_tokens,
        )
        last = msgspec.structs.replace(
            self._last, generated_text="".join(self._texts), details=details if self._ask.details else None
        )
        await send_part(self._send, _part(last), is_last=True)


def _says(started: Started) -> Mapping[str, str]:
    """Which model answers: nothing of TGI's does."""
    return {"x-tandem-model": quote(started.model, safe="/:@")}


def _part(event: TgiEvent) -> bytes:
    return b"data:" + encode(event) + b"\n\n"
