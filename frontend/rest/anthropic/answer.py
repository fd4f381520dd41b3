"""How a request for a message is answered, whole or streamed, and one for the number of a prompt's tokens."""

import asyncio
from collections.abc import AsyncGenerator

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from frontend.api import Inference
from frontend.events import Delta, Event, Finish, Finished, Started
from frontend.request import GenerateRequest
from frontend.rest.answers import answer, generate_what_fits, send_part, start_stream
from frontend.rest.anthropic.answer_types import (
    AnthropicMessage,
    MessageDelta,
    MessageEnd,
    MessageTokens,
    MessageUsage,
    StopReason,
    ToolUseContent,
)
from frontend.rest.anthropic.content import WholeContent
from frontend.rest.anthropic.events import Events
from frontend.rest.anthropic.parse import NAMES, parse_count, parse_messages
from frontend.rest.middleware import CALLER, SSE

encode = msgspec.json.Encoder().encode


class MessagesEndpoint:
    """The ASGI app behind POST /v1/messages."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ask = parse_messages(await Request(scope, receive).body())
        kind = StreamedMessage if ask.stream else WholeMessage
        answers = kind(ask.generation, send)
        await answer(self._inference, [ask.generation], answers, scope, receive, names=NAMES, generate=_generate)


def _generate(inference: Inference, request: GenerateRequest) -> AsyncGenerator[Event, None]:
    """Where the context has less room than max_tokens, as much as it has."""
    return generate_what_fits(inference, request, (request.max_tokens, None))


class CountEndpoint:
    """The ASGI app behind POST /v1/messages/count_tokens."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        prompt = parse_count(await Request(scope, receive).body())
        model = self._inference.model(prompt.model, scope[CALLER])
        token_ids = await asyncio.to_thread(self._inference.tokenize, model.name, prompt.chat)
        body = encode(MessageTokens(input_tokens=len(token_ids)))
        await Response(body, media_type="application/json")(scope, receive, send)


class WholeMessage:
    """Collects everything, then answers with one document."""

    def __init__(self, request: GenerateRequest, send: Send) -> None:
        self._request = request
        self._send = send
        self._content = WholeContent()
        self._started: Started | None = None
        self._finished: Finished | None = None

    async def take(self, index: int, event: Event) -> None:
        match event:
            case Delta():
                self._content.take(event)
            case Started():
                self._started = event
            case Finished():
                self._finished = event

    async def finish(self, scope: Scope, receive: Receive) -> None:
        assert self._started is not None, "an answer ended without Started"
        assert self._finished is not None, "an answer ended without Finished"
        content = self._content.finish()
        has_tool_use = any(isinstance(block, ToolUseContent) for block in content)
        end = _end(self._finished, self._request, has_tool_use=has_tool_use)
        message = AnthropicMessage(
            id=_message_id(self._started),
            model=self._started.model,
            content=content,
            stop_reason=end.stop_reason,
            stop_sequence=end.stop_sequence,
            usage=MessageUsage.of(self._finished.usage),
        )
        headers = {"x-request-id": self._started.request_id}
        await Response(encode(message), headers=headers, media_type="application/json")(scope, receive, self._send)


class StreamedMessage:
    """Sends every event as it comes."""

    def __init__(self, request: GenerateRequest, send: Send) -> None:
        self._request = request
        self._send = send
        self._events = Events()
        self._finished: Finished | None = None

    async def take(self, index: int, event: Event) -> None:
        match event:
            case Delta():
                if part := self._events.delta(event):
                    await send_part(self._send, part)
            case Started():
                await start_stream(self._send, SSE, event.request_id)
                await send_part(self._send, self._events.first(_begun(event)))
            case Finished():
                self._finished = event

    async def finish(self, scope: Scope, receive: Receive) -> None:
        assert self._finished is not None, "an answer ended without Finished"
        end = _end(self._finished, self._request, has_tool_use=self._events.has_tool_use)
        last = self._events.last(MessageDelta(delta=end, usage=MessageUsage.of(self._finished.usage)))
        await send_part(self._send, last, is_last=True)


def _begun(started: Started) -> AnthropicMessage:
    usage = MessageUsage(input_tokens=started.prompt_tokens, cache_read_input_tokens=None, output_tokens=0)
    return AnthropicMessage(
        id=_message_id(started), model=started.model, content=[], stop_reason=None, stop_sequence=None, usage=usage
    )


def _message_id(started: Started) -> str:
    return "msg_" + started.request_id.removeprefix("req-")


def _end(finished: Finished, request: GenerateRequest, *, has_tool_use: bool) -> MessageEnd:
    matched = finished.matched if isinstance(finished.matched, str) else None
    reason: StopReason = "end_turn" if matched is None else "stop_sequence"
    if finished.reason is Finish.LENGTH:
        all_asked = request.max_tokens is None or finished.usage.completion_tokens >= request.max_tokens
        reason = "max_tokens" if all_asked else "model_context_window_exceeded"
    elif has_tool_use:
        reason = "tool_use"
    return MessageEnd(stop_reason=reason, stop_sequence=matched if reason == "stop_sequence" else None)
