"""How one request of Ollama's dialect is answered: with one document, or with lines, each as soon as it is there.

What generate and chat spell differently is a `Form`. Durations are of this process's clock, but for that of the
prompt's evaluation, which a worker has measured. Does not know parameters.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.errors import Unavailable
from frontend.api import Inference
from frontend.events import Delta, Event, Finish, Finished, Started
from frontend.request import GenerateRequest, Infill, TokenPrompt
from frontend.rest.answers import Choice, answer, generate_what_fits, send_part, start_stream
from frontend.rest.middleware import CALLER, NDJSON
from frontend.rest.ollama.answer_types import OllamaAnswer
from frontend.rest.ollama.lines import Calls, Part, chat_line, generate_line
from frontend.rest.ollama.models import served
from frontend.rest.ollama.parse import Ask, Find, parse_chat, parse_generate

encode = msgspec.json.Encoder().encode

Line = Callable[[str, Part], OllamaAnswer]
"""What is said of a part of the answer by the model of this name."""


@dataclass(frozen=True, slots=True)
class Form:
    """What generate and chat spell differently."""

    parse: Callable[[bytes, Find], Ask]
    line: Line


GENERATE = Form(parse_generate, generate_line)
CHAT = Form(parse_chat, chat_line)


class Endpoint:
    """The ASGI app behind POST of one endpoint."""

    def __init__(self, inference: Inference, form: Form) -> None:
        self._inference = inference
        self._form = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun_ns = time.monotonic_ns()
        ask = self._form.parse(await Request(scope, receive).body(), partial(served, self._inference, scope[CALLER]))
        if ask.generation is None:
            await self._loaded(ask)(scope, receive, send)
            return
        generation = await self._after_context(ask, ask.generation)
        ending = Ending(begun_ns, ask, partial(self._context, generation))
        kind = StreamedAnswer if ask.stream else WholeAnswer
        answers = kind(self._form.line, ending, send)
        await answer(self._inference, [generation], answers, scope, receive, names=ask.names, generate=_generate)

    def _loaded(self, ask: Ask) -> Response:
        readiness = self._inference.readiness(ask.served.name)
        if not readiness.ready:
            raise Unavailable(readiness.reason)
        return _json(self._form.line(ask.model, Part(end={"done": True, "done_reason": "load"})))

    async def _after_context(self, ask: Ask, generation: GenerateRequest) -> GenerateRequest:
        if not ask.context:
            return generation
        ids = await self._prompt_ids(generation, begins=False)
        return replace(generation, prompt=TokenPrompt((*ask.context, *ids)))

    async def _context(self, generation: GenerateRequest, answer_ids: list[int]) -> list[int]:
        return [*await self._prompt_ids(generation), *answer_ids]

    async def _prompt_ids(self, generation: GenerateRequest, *, begins: bool = True) -> list[int]:
        """Tokenized by itself: an answer does not tell what its prompt was made into."""
        if isinstance(generation.prompt, TokenPrompt):
            return list(generation.prompt.ids)
        assert not isinstance(generation.prompt, Infill), "no context is told of what stands between two texts"
        special = None if begins else False  # None: what a prompt of this kind has
        return await asyncio.to_thread(
            self._inference.tokenize, generation.model, generation.prompt, add_special_tokens=special
        )


def _generate(inference: Inference, request: GenerateRequest) -> AsyncGenerator[Event, None]:
    """Of num_predict tokens, or the fewer that the context still has room for."""
    lengths = (None,) if request.max_tokens is None else (request.max_tokens, None)
    return generate_what_fits(inference, request, lengths)


class Ending:
    """What the end of an answer says of all of it."""

    def __init__(self, begun_ns: int, ask: Ask, context: Callable[[list[int]], Awaitable[list[int]]]) -> None:
        self.model = ask.model
        """As the client calls it, unless another one answers."""
        self._begun_ns = begun_ns
        self._served = ask.served.name
        self._context = context if ask.tells_context else None
        self._first_token_ns = 0
        self._ended_ns = 0
        self._token_ids: list[int] = []
        self._final: Finished | None = None

    def note(self, event: Event) -> None:
        now = time.monotonic_ns()
        if isinstance(event, Started):
            if event.model != self._served:
                self.model, self._context = event.model, None  # a context is tokens of the model that was asked
        elif isinstance(event, Delta):
            self._first_token_ns = self._first_token_ns or now
            self._token_ids += event.token_ids
        elif isinstance(event, Finished):
            self._ended_ns, self._final = now, event

    async def fields(self) -> dict[str, Any]:
        final = self._final
        assert final is not None, "an answer ended without Finished"
        context = {} if self._context is None else {"context": await self._context(self._token_ids)}
        return {
            "done": True,
            "done_reason": "length" if final.reason is Finish.LENGTH else "stop",
            "total_duration": self._ended_ns - self._begun_ns,
            "load_duration": 0,
            "prompt_eval_count": final.usage.prompt_tokens,
            "prompt_eval_duration": round(final.timing.ttft_segments.get("prefill_compute", 0.0) * 1e6),
            "eval_count": final.usage.completion_tokens,
            "eval_duration": self._ended_ns - (self._first_token_ns or self._ended_ns),
            **context,
        }


class WholeAnswer:
    """Collects everything, then answers with one document."""

    def __init__(self, line: Line, ending: Ending, send: Send) -> None:
        self._line = line
        self._ending = ending
        self._send = send
        self._request_id = ""
        self._choice = Choice()

    async def take(self, index: int, event: Event) -> None:
        self._ending.note(event)
        match event:
            case Started():
                self._request_id = event.request_id
            case Delta():
                self._choice.take(event)

    async def finish(self, scope: Scope, receive: Receive) -> None:
        choice = self._choice
        part = Part(
            text="".join(choice.texts),
            thinking="".join(choice.thoughts),
            calls=choice.calls,
            logprobs=choice.logprobs,
            end=await self._ending.fields(),
        )
        await _json(self._line(self._ending.model, part), self._request_id)(scope, receive, self._send)


class StreamedAnswer:
    """Sends every event as it comes."""

    def __init__(self, line: Line, ending: Ending, send: Send) -> None:
        self._line = line
        self._ending = ending
        self._send = send
        self._calls = Calls()

    async def take(self, index: int, event: Event) -> None:
        self._ending.note(event)
        match event:
            case Started():
                await start_stream(self._send, NDJSON, event.request_id)
            case Delta():
                part = Part(
                    text=event.text,
                    thinking=event.reasoning,
                    num_calls_before=self._calls.num_complete,
                    calls=self._calls.take(event.calls),
                    logprobs=event.logprobs,
                )
                if part.text or part.thinking or part.calls or part.logprobs:
                    await self._say(part)
            case Finished():
                part = Part(num_calls_before=self._calls.num_complete, calls=self._calls.end())
                if part.calls:
                    await self._say(part)

    async def finish(self, scope: Scope, receive: Receive) -> None:
        await self._say(Part(end=await self._ending.fields()), is_last=True)

    async def _say(self, part: Part, *, is_last: bool = False) -> None:
        await send_part(self._send, encode(self._line(self._ending.model, part)) + b"\n", is_last=is_last)


def _json(document: OllamaAnswer, request_id: str = "") -> Response:
    headers = {"x-request-id": request_id} if request_id else {}
    return Response(encode(document), headers=headers, media_type="application/json; charset=utf-8")
