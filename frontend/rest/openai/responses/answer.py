"""How a response is made: whole, or as the events of its stream; and kept, if it is to be. Does not know parameters."""

import logging
import time
from collections.abc import Callable
from typing import Protocol

import msgspec
from msgspec import structs
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.errors import Overloaded, TandemError
from frontend.events import Delta, Event, Finish, Finished, Started
from frontend.rest.answers import send_part, start_stream
from frontend.rest.errors import message_of
from frontend.rest.middleware import SSE
from frontend.rest.openai.limits import limit_headers
from frontend.rest.openai.responses import events as ev
from frontend.rest.openai.responses.answer_types import (
    AnswerReasoning,
    AnswerText,
    IncompleteDetails,
    ResponseDocument,
    ResponseError,
    ResponseUsage,
)
from frontend.rest.openai.responses.open_items import Events, Numbering
from frontend.rest.openai.responses.output import Output
from frontend.rest.openai.responses.parse import ResponseAsk
from frontend.rest.openai.responses.request_types import PlainText, ReasoningConfig, ResponseRequest

log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


class Keep(Protocol):
    """Keeps a response as it is now, if it is to be kept."""

    def __call__(self, document: ResponseDocument, abandon: Callable[[], None] | None = None) -> None: ...


def begun(given: ResponseRequest, started: Started) -> ResponseDocument:
    """The response before anything of it has been made."""
    reasoning = given.reasoning or ReasoningConfig()
    text = AnswerText(format=(given.text.format if given.text is not None else None) or PlainText())
    return ResponseDocument(
        id="resp_" + started.request_id.removeprefix("req-"),
        created_at=int(time.time()),
        status="in_progress",
        background=bool(given.background),
        instructions=given.instructions,
        max_output_tokens=given.max_output_tokens,
        max_tool_calls=given.max_tool_calls,
        metadata=given.metadata or {},
        model=started.model,
        output=[],
        parallel_tool_calls=given.parallel_tool_calls is not False,
        previous_response_id=given.previous_response_id,
        prompt_cache_key=given.prompt_cache_key,
        reasoning=AnswerReasoning(effort=reasoning.effort, summary=reasoning.summary or reasoning.generate_summary),
        safety_identifier=given.safety_identifier,
        store=given.store is not False,
        temperature=given.temperature,
        text=text,
        tool_choice="auto" if given.tool_choice is None else given.tool_choice,
        tools=given.tools or [],
        top_logprobs=given.top_logprobs or 0,
        top_p=given.top_p,
        user=given.user,
    )


def ended(document: ResponseDocument, output: Output, finished: Finished) -> ResponseDocument:
    is_cut = finished.reason is Finish.LENGTH
    return structs.replace(
        document,
        status="incomplete" if is_cut else "completed",
        completed_at=None if is_cut else int(time.time()),
        incomplete_details=IncompleteDetails(reason="max_output_tokens") if is_cut else None,
        output=output.items,
        usage=ResponseUsage.of(finished.usage),
    )


def failed(document: ResponseDocument, output: Output, error: TandemError) -> ResponseDocument:
    """One that was begun, with what there is of it."""
    log.warning("%s failed: %s", document.id, error.message)
    code = "rate_limit_exceeded" if isinstance(error, Overloaded) else "server_error"
    return structs.replace(
        document,
        status="failed",
        error=ResponseError(code=code, message=message_of(error)),
        output=output.items,
    )


class WholeResponse:
    """Collects everything, then answers with one document."""

    def __init__(self, ask: ResponseAsk, keep: Keep, send: Send) -> None:
        self._ask = ask
        self._keep = keep
        self._send = send
        self._output = Output(Numbering())
        self._started: Started | None = None
        self._finished: Finished | None = None

    async def take(self, index: int, event: Event) -> None:
        match event:
            case Delta():
                self._output.take(event)
            case Started():
                self._started = event
            case Finished():
                self._output.finish(event.reason)
                self._finished = event

    async def finish(self, scope: Scope, receive: Receive) -> None:
        assert self._started is not None, "an answer ended without Started"
        assert self._finished is not None, "an answer ended without Finished"
        document = ended(begun(self._ask.given, self._started), self._output, self._finished)
        self._keep(document)
        headers = {"x-request-id": self._started.request_id, **limit_headers(self._started.allowance)}
        await Response(_encode(document), headers=headers, media_type="application/json")(scope, receive, self._send)

    async def fail(self, error: TandemError) -> bool:
        """Whether the client has been told; here whoever reports errors does it."""
        return False


class StreamedResponse:
    """Sends events as there is something to tell."""

    def __init__(self, ask: ResponseAsk, keep: Keep, send: Send) -> None:
        self._ask = ask
        self._keep = keep
        self._send = send
        self._numbering = Numbering()
        self._output = Output(self._numbering)
        self._document: ResponseDocument | None = None

    async def take(self, index: int, event: Event) -> None:
        match event:
            case Delta():
                await self._tell(self._output.take(event))
            case Started():
                self._document = begun(self._ask.given, event)
                await start_stream(self._send, SSE, event.request_id, limit_headers(event.allowance))
                kinds = (ev.ResponseCreated, ev.ResponseInProgress)
                await self._tell([self._numbering.event(kind, response=self._document) for kind in kinds])
            case Finished():
                assert self._document is not None, "an answer began without Started"
                events = self._output.finish(event.reason)
                self._document = ended(self._document, self._output, event)
                kind = ev.ResponseIncomplete if event.reason is Finish.LENGTH else ev.ResponseCompleted
                self._keep(self._document)
                await self._tell([*events, self._numbering.event(kind, response=self._document)])

    async def finish(self, scope: Scope, receive: Receive) -> None:
        await send_part(self._send, b"", is_last=True)

    async def fail(self, error: TandemError) -> bool:
        """Whether the client has been told. Before the first event it can still be told in the status."""
        if self._document is None:
            return False
        events = self._output.fail()
        self._document = failed(self._document, self._output, error)
        self._keep(self._document)
        last = self._numbering.event(ev.ResponseFailed, response=self._document)
        await send_part(self._send, ev.encoded([*events, last]), is_last=True)
        return True

    async def _tell(self, events: Events) -> None:
        if events:
            await send_part(self._send, ev.encoded(events))
