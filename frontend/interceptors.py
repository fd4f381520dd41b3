"""What every call passes on its way in: `ErrorInterceptor` first, then `AuthInterceptor`.

Stream handlers write to their context instead of yielding, so that an interceptor costs a call, not a message.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from engine.errors import InvalidRequest, TandemError, Unauthenticated
from frontend.callers import Caller, KeyRing
from frontend.grpc_errors import abort

PUBLIC_SERVICES = ("/grpc.health.v1.", "/grpc.reflection.")

log = logging.getLogger(__name__)

# a handler is of whatever messages its method has; None: the method is unknown
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]"


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # generic in the stubs alone
    """Turns what handlers raise into statuses; what is not a TandemError is ours to read and nobody else's."""

    async def intercept_service(  # type: ignore[override] # the stubs forget that a method may be unknown
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:  # whose handlers say themselves what was wrong
            return handler
        behave: Any = handler.unary_stream if handler.response_streaming else handler.unary_unary
        guarded = _guarded(behave, handler.request_deserializer, handler_call_details.method)
        make = (
            grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
        )
        return make(guarded, response_serializer=handler.response_serializer)


def _guarded(
    behave: Callable[[Any, Context], Awaitable[Any]], parse: Callable[[bytes], Any] | None, method: str
) -> Callable[[bytes, Context], Awaitable[Any]]:
    """`behave`, taking the request as bytes: what cannot be parsed is the caller's fault and is told so."""

    async def guarded(raw: bytes, context: Context) -> Any:
        try:
            return await behave(_parsed(raw, parse), context)
        except TandemError as error:
            await abort(context, error)
        except grpc.aio.AbortError:
            raise
        except Exception:
            log.exception("%s failed", method)
            await abort(context, TandemError("internal error"))

    return guarded


def _parsed(raw: bytes, parse: Callable[[bytes], Any] | None) -> Any:
    try:
        return parse(raw) if parse else raw
    except DecodeError as error:
        raise InvalidRequest("the message cannot be parsed: broken encoding, or a string that is not UTF-8") from error


class AuthInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # generic in the stubs alone
    """Wants `authorization: Bearer KEY`, except from health checks and reflection."""

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys

    async def intercept_service(  # type: ignore[override]
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        if handler_call_details.method.startswith(PUBLIC_SERVICES):
            return await continuation(handler_call_details)
        handler = await continuation(handler_call_details)
        if identify(self._keys, handler_call_details.invocation_metadata) is not None:
            return handler
        if handler is not None and handler.request_streaming:  # who may wait to be heard before he says anything
            return grpc.stream_stream_rpc_method_handler(_refuse_stream)
        return grpc.unary_unary_rpc_method_handler(_refuse)


def identify(keys: KeyRing, metadata: Any) -> Caller | None:
    """Whose key a call carries; None if it carries nobody's."""
    return keys.identify(str(dict(metadata or ()).get("authorization", "")))


def caller_of(keys: KeyRing, metadata: Any) -> Caller:
    """Who makes a call that the interceptor let in. Raises Unauthenticated where the key was taken back since."""
    if (caller := identify(keys, metadata)) is None:
        raise no_key()
    return caller


def no_key() -> Unauthenticated:
    return Unauthenticated("a key is required: authorization: Bearer KEY")


async def _refuse(raw: bytes, context: Context) -> bytes:
    raise no_key()


async def _refuse_stream(requests: object, context: Context) -> None:
    await abort(context, no_key())
