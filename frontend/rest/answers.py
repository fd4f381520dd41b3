"""How the answers to one HTTP request run, in any dialect.

Every choice is generated in a task of its own; when the client hangs up, or one fails, all are closed. What becomes of
their events is the dialect's: an `Answers` collects them for one document or sends them on as they come. The first
`Started` is when a stream may send its headers: whatever is refused before still has its status.

Does not know parameters, or how answers and errors look.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from engine.errors import ContextOverflow, InvalidRequest, TandemError
from frontend.api import Inference
from frontend.events import CallDelta, Delta, Event, Finished, PromptToken, TokenLogprobs
from frontend.request import GenerateRequest
from frontend.rest.errors import rename
from frontend.rest.hangup import run_unless_hung_up
from frontend.rest.middleware import CALLER, REQUEST_ID

DEADLINE = "x-tandem-deadline-ms"
"""Header of who will not wait for longer, as gRPC's deadline is."""

Generate = Callable[[Inference, GenerateRequest], AsyncGenerator[Event, None]]


class Answers(Protocol):
    """All choices of one request on their way to the client."""

    async def take(self, index: int, event: Event) -> None:
        """Take in the next event of choice `index`."""

    async def finish(self, scope: Scope, receive: Receive) -> None:
        """Send what remains once every choice has finished."""


async def answer(
    inference: Inference,
    generations: Sequence[GenerateRequest],
    answers: Answers,
    scope: Scope,
    receive: Receive,
    *,
    names: Mapping[str, str],
    at_once: int | None = None,
    generate: Generate = lambda inference, request: inference.generate(request),
) -> None:
    """Run all of `generations` for whoever asks, or so many `at_once`; an error names its field by `names`, if that has
    it.

    `receive` must have given the whole body. Raises TandemError.
    """

    free = asyncio.Semaphore(at_once or len(generations))

    async def run(index: int, request: GenerateRequest) -> None:
        try:
            async with free, aclosing(generate(inference, request)) as events:
                async for event in events:
                    await answers.take(index, event)
        except TandemError as error:
            rename(error, names)
            raise

    works = [
        run(index, replace(asked_by(scope, request), request_id=_numbered(scope[REQUEST_ID], index)))
        for index, request in enumerate(generations)
    ]
    if await run_unless_hung_up(receive, works):
        await answers.finish(scope, receive)


def asked_by(scope: Scope, request: GenerateRequest) -> GenerateRequest:
    """`request` with who asks, in whose trace, and for how long."""
    headers = Headers(scope=scope)
    trace_headers = {
        name: ",".join(values) for name in ("traceparent", "tracestate") if (values := headers.getlist(name))
    }
    deadline_s = _deadline_s(headers.get(DEADLINE))
    return replace(request, trace_headers=trace_headers, caller=scope[CALLER], deadline_s=deadline_s)


def _deadline_s(given: str | None) -> float | None:
    """Raises InvalidRequest."""
    if given is None:
        return None
    if not (given.isascii() and given.isdecimal() and len(given) <= 9 and int(given)):
        raise InvalidRequest(f"{DEADLINE} is whole milliseconds, from 1 to 999999999", field=DEADLINE)
    return int(given) / 1e3


async def generate_what_fits(
    inference: Inference, request: GenerateRequest, lengths: Sequence[int | None]
) -> AsyncGenerator[Event, None]:
    """As `Inference.generate`, with the first of these max_tokens that the context has room for.

    How long a prompt is shows when it is tokenized. ContextOverflow of `max_tokens` says that there is room, but not
    for so many; that prompt is tokenized again.
    """
    for max_tokens in lengths:
        async with aclosing(inference.generate(replace(request, max_tokens=max_tokens))) as events:
            try:
                first = await anext(events)
            except ContextOverflow as error:
                if error.field == "max_tokens" and max_tokens != lengths[-1]:
                    continue
                raise
            yield first
            async for event in events:
                yield event
            return


def _numbered(request_id: str, index: int) -> str:
    """Of one choice; the first has the id that the response has."""
    return f"{request_id}-{index}" if index else request_id


async def start_stream(
    send: Send, content_type: str, request_id: str, more: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Send the headers of an answer that comes in parts, which nobody on the way shall keep back, and `more`."""
    headers = (
        (b"content-type", content_type.encode()),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
        (b"x-request-id", request_id.encode()),
        *((name.encode(), value.encode()) for name, value in more.items()),
    )
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def send_part(send: Send, body: bytes, *, is_last: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": not is_last})


@dataclass(slots=True)
class Call:
    """One call of a tool as far as it has been generated."""

    id: str
    name: str
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Choice:
    """One choice as far as it has been generated, for answers that are sent whole."""

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    prompt_ids: tuple[int, ...] = ()
    """Where they were asked for."""
    prompt: tuple[PromptToken, ...] = ()
    """How likely its tokens are, where that was asked for."""
    finished: Finished | None = None

    def take(self, delta: Delta) -> None:
        self.texts.append(delta.text)
        self.token_ids.extend(delta.token_ids)
        self.logprobs.extend(delta.logprobs)
        if delta.reasoning:
            self.thoughts.append(delta.reasoning)
        for call in delta.calls:
            self._take_call(call)

    def _take_call(self, call: CallDelta) -> None:
        if call.id is not None:
            self.calls.append(Call(call.id, call.name or ""))
        self.calls[call.index].arguments.append(call.arguments)

    @property
    def final(self) -> Finished:
        assert self.finished is not None, "an answer ended without Finished"
        return self.finished
