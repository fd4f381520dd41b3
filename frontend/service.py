"""tandem.v1.Inference: the public gRPC service over `frontend.api.Inference`.

A Generate call in steps:

 1. The interceptors check the key, parse the message and stand ready to turn whatever is raised into a status.
 2. The call's deadline and trace context go into the request; the generator of events starts.
 3. The first event carries the request's id: it leaves in the initial metadata before anything else does.
 4. Each event is one message, written as it comes. A client that is slow to read is waited for, for a while.
 5. The ledger leaves in the trailing metadata; of a call that fails, the request's id does.
 6. A client that goes away, and a deadline that passes, cancel the handler: the generator is closed, at once; unless
    the request asked for a grace, in which the answer is kept (`frontend.resumption`).

Knows messages and calls. Does not know workers, tokenizers or ports.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeAlias

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from engine.errors import InvalidRequest, TandemError, Unavailable
from frontend import grpc_convert as convert
from frontend import open_inference
from frontend.api import Inference
from frontend.callers import Caller, KeyRing
from frontend.checks import MAX_PROMPT_IDS, check_count, check_token_ids
from frontend.events import Delta, Event, Finished, PromptLogprobs, Started
from frontend.grpc_errors import abort
from frontend.interceptors import AuthInterceptor, ErrorInterceptor, caller_of
from frontend.open_inference import OpenInferenceServicer
from frontend.request import new_request_id
from frontend.resumption import Resumption
from protos import generate_pb2 as pb
from protos import generate_pb2_grpc
from protos.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server as add_open_inference

SERVICE: str = pb.DESCRIPTOR.services_by_name["Inference"].full_name

SERVICES = ("", SERVICE, open_inference.SERVICE)
"""Whose health is told; the first is the server as a whole."""

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

log = logging.getLogger(__name__)

READ_S = 300.0
"""A client that takes no message for so long is gone, though its connection may be there."""
_MOST_PENDING = 1_000_000
_LONGEST_PENDING_S = 24 * 3600


class InferenceServicer(generate_pb2_grpc.InferenceServicer):
    """Answers the calls of tandem.v1.Inference."""

    def __init__(self, inference: Inference, keys: KeyRing, version: str, max_resume_grace_s: float) -> None:
        self._inference = inference
        self._resumption = Resumption(inference, max_resume_grace_s)
        self._keys = keys
        self._version = version

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:
        metadata = dict(context.invocation_metadata() or ())
        caller = caller_of(self._keys, metadata)
        request_id = new_request_id()
        wanted = convert.generate_request(request, metadata, context.time_remaining())
        wanted = replace(wanted, caller=caller, request_id=request_id)
        try:
            if request.resume_grace_ms:
                await _write(self._resumption.generate(wanted, request.resume_grace_ms / 1e3), context)
            else:
                await _write(self._inference.generate(wanted), context)
        except TandemError as error:
            if isinstance(error, InvalidRequest):
                error.field = error.field and convert.field_path(error.field)
            await abort(context, error, request_id=request_id)

    async def Resume(self, request: pb.ResumeRequest, context: Context) -> None:
        caller = self._caller(context)
        await _write(self._resumption.resume(caller, request.request_id, request.next_index), context)

    async def Cancel(self, request: pb.CancelRequest, context: Context) -> pb.CancelResponse:
        caller = self._caller(context)
        self._resumption.cancel(caller, request.request_id)
        return pb.CancelResponse()

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        given = convert.tokenize_input(request)
        is_said = isinstance(given, str) and request.HasField("add_special_tokens")
        special = request.add_special_tokens if is_said else None
        model = self._inference.model(request.model or None, self._caller(context)).name
        token_ids = await asyncio.to_thread(self._inference.tokenize, model, given, add_special_tokens=special)
        return pb.TokenizeResponse(token_ids=token_ids)

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Context) -> pb.DetokenizeResponse:
        model = self._inference.model(request.model or None, self._caller(context))
        check_count(request.token_ids, MAX_PROMPT_IDS, "token_ids")
        token_ids = tuple(request.token_ids)
        check_token_ids(token_ids, model.vocab_size, "token_ids")
        text = await asyncio.to_thread(
            self._inference.detokenize, model.name, token_ids, skip_special_tokens=request.skip_special_tokens
        )
        return pb.DetokenizeResponse(text=text)

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        metadata = dict(context.invocation_metadata() or ())
        caller = caller_of(self._keys, metadata)
        model = self._inference.model(request.model or None, caller)
        wanted = convert.embedding_request(request, model, metadata, context.time_remaining())
        async with aclosing(self._inference.generate(replace(wanted, caller=caller))) as events:
            async for event in events:
                if isinstance(event, Finished):
                    context.set_trailing_metadata(convert.timing_trailers(event.timing))
                    return convert.embedded(request, model, event)
        raise AssertionError("an answer ended without Finished")

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=map(convert.model, self._inference.models(self._caller(context))))

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Context) -> pb.GetServerInfoResponse:
        return pb.GetServerInfoResponse(
            version=self._version,
            workers=map(convert.worker, self._inference.workers()),
            queued_requests=self._inference.queued_requests,
            max_queued_requests=self._inference.max_queued_requests,
        )

    def _caller(self, context: Context) -> Caller:
        return caller_of(self._keys, context.invocation_metadata())


async def _write(events: AsyncGenerator[Event, None], context: Context) -> None:
    """Each event as a message. Raises Unavailable when they were not read in time, to who reads after all."""
    response = pb.GenerateResponse()  # one for the whole stream; writing serializes it at once
    writer = _Writer(events, context)
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Delta):
                pass  # most events are
            elif isinstance(event, Started):
                await context.send_initial_metadata((("x-request-id", event.request_id),))
            elif isinstance(event, Finished):
                context.set_trailing_metadata(convert.timing_trailers(event.timing))
            for part in convert.split(event) if isinstance(event, PromptLogprobs) else (event,):
                convert.fill(response, part)
                await writer.write(response)
                response.Clear()


class _Writer:
    """Waits for a client to take each message; when that takes too long, ends the work at `events`. The message stays:
    gRPC can neither take it back nor end the call before it."""

    def __init__(self, events: AsyncGenerator[Event, None], context: Context) -> None:
        self._events = events
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._closing: asyncio.Task[None] | None = None

    async def write(self, response: pb.GenerateResponse) -> None:
        timer = self._loop.call_later(READ_S, self._give_up)
        try:
            await self._context.write(response)
        finally:
            timer.cancel()
        if self._closing is not None:
            await self._closing
            raise Unavailable(f"the answer was given up: nobody read it for {READ_S:g} s")

    def _give_up(self) -> None:
        log.warning("an answer is given up that nobody has read for %g s", READ_S)
        self._closing = self._loop.create_task(self._events.aclose())


class Health:
    """What grpc.health.v1 says of the server as a whole (""), of its services and of its models: not serving, until
    told."""

    def __init__(self) -> None:
        self._servicer = health.aio.HealthServicer()  # type: ignore[attr-defined] # unknown to the stubs
        # `set` is a coroutine, and somebody may ask before anybody could await it
        self._servicer._server_status.update(dict.fromkeys(SERVICES, health_pb2.HealthCheckResponse.NOT_SERVING))

    def add_to(self, server: grpc.aio.Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def set_serving(self, serving: bool, models: Mapping[str, bool] = MappingProxyType({})) -> None:
        """`models` are told each under its name."""
        states = health_pb2.HealthCheckResponse
        for service, serves in {**models, **dict.fromkeys(SERVICES, serving)}.items():
            await self._servicer.set(service, states.SERVING if serves else states.NOT_SERVING)

    async def drain(self) -> None:
        """Not serving, for good. Comes before `server.stop`."""
        await self._servicer.enter_graceful_shutdown()


def build_server(
    inference: Inference, *, keys: KeyRing, max_message_bytes: int, version: str, max_resume_grace_s: float = 30.0
) -> tuple[grpc.aio.Server, Health]:
    """A server with Inference, health and reflection; the caller binds ports, starts it and tells its health."""
    interceptors = [ErrorInterceptor(), AuthInterceptor(keys)]
    server = grpc.aio.server(interceptors=interceptors, options=_options(max_message_bytes))
    add: Callable[[InferenceServicer, grpc.aio.Server], None] = generate_pb2_grpc.add_InferenceServicer_to_server
    add(InferenceServicer(inference, keys, version, max_resume_grace_s), server)
    add_open: Callable[[OpenInferenceServicer, grpc.aio.Server], None] = add_open_inference
    add_open(OpenInferenceServicer(inference, keys, version), server)
    server_health = Health()
    server_health.add_to(server)
    names = SERVICE, open_inference.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME
    reflection.enable_server_reflection(names, server)
    return server, server_health


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", -1),  # an answer is as long as the request allows
        ("grpc.so_reuseport", 0),  # else two servers share a port and nobody is told
        ("grpc.keepalive_time_ms", 60_000),  # finds clients that vanished, and keeps middleboxes from forgetting us
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.ping_timeout_ms", 20_000),  # a keepalive is a ping, whose own limit is a minute
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 0),  # a client that pings while it waits for a long answer means well
        # Calls that wait to be taken in: from a thousand on gRPC would cancel some without a word. We refuse with one.
        ("grpc.server.max_pending_requests", _MOST_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", _MOST_PENDING),
        ("grpc.server_max_unrequested_time_in_server", _LONGEST_PENDING_S),  # after 30 s, too
    ]
