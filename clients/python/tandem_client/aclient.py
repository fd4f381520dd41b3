"""The client for asyncio. One is for a whole program, in one event loop."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from tandem_client import generate_pb2 as pb
from tandem_client.answer import Answer, Course, called, ended_early
from tandem_client.channel import ChannelOptions, Metadata, Tls, authorization, credentials, method, options
from tandem_client.errors import TandemError, cancelled, from_rpc
from tandem_client.requests import Messages, embedding, tokenizing
from tandem_client.tries import RETRIES, Retries, Tries

CANCEL_TIMEOUT_S = 2.0


class AsyncClient:
    """A connection to a server, HOST:PORT. An async context manager.

    `timeout_s` is for each call that has none of its own. Errors are those of `tandem_client.errors`.
    """

    def __init__(
        self,
        address: str,
        *,
        api_key: str | None = None,
        tls: Tls | None = None,
        timeout_s: float | None = None,
        retries: Retries = RETRIES,
        channel_options: ChannelOptions = (),
    ) -> None:
        wanted = options(channel_options)
        self._channel = (
            grpc.aio.secure_channel(address, credentials(tls), wanted)
            if tls
            else grpc.aio.insecure_channel(address, wanted)
        )
        self._metadata = authorization(api_key)
        self._timeout_s = timeout_s
        self._retries = retries

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._channel.close(None)

    def stream(self, request: pb.GenerateRequest, *, timeout_s: float | None = None) -> "AsyncStream":
        """An answer in parts, as they come."""
        return AsyncStream(self._channel, self._metadata, Course(request, self._tries(timeout_s)))

    async def generate(self, request: pb.GenerateRequest, *, timeout_s: float | None = None) -> Answer:
        """A whole answer."""
        async with self.stream(request, timeout_s=timeout_s) as stream:
            return await stream.answer()

    async def embed(
        self,
        given: str | Sequence[int],
        *,
        model: str = "",
        pooling: "pb.Pooling" = pb.POOLING_UNSPECIFIED,
        normalize: bool | None = None,
        timeout_s: float | None = None,
    ) -> pb.EmbedResponse:
        """A text, or tokens, as a vector."""
        answer: pb.EmbedResponse = await self._ask("Embed", embedding(given, model, pooling, normalize), timeout_s)
        return answer

    async def tokenize(
        self,
        given: Messages,
        *,
        model: str = "",
        add_special_tokens: bool | None = None,
        timeout_s: float | None = None,
    ) -> list[int]:
        """The tokens that a text is to the model; or a conversation, as `chat` would send it."""
        request = tokenizing(given, model, add_special_tokens)
        answer: pb.TokenizeResponse = await self._ask("Tokenize", request, timeout_s)
        return list(answer.token_ids)

    async def detokenize(
        self,
        token_ids: Sequence[int],
        *,
        model: str = "",
        skip_special_tokens: bool = False,
        timeout_s: float | None = None,
    ) -> str:
        request = pb.DetokenizeRequest(model=model, token_ids=token_ids, skip_special_tokens=skip_special_tokens)
        answer: pb.DetokenizeResponse = await self._ask("Detokenize", request, timeout_s)
        return answer.text

    async def models(self, *, timeout_s: float | None = None) -> list[pb.Model]:
        """Those that requests can name."""
        answer: pb.ListModelsResponse = await self._ask("ListModels", pb.ListModelsRequest(), timeout_s)
        return list(answer.models)

    async def server_info(self, *, timeout_s: float | None = None) -> pb.GetServerInfoResponse:
        answer: pb.GetServerInfoResponse = await self._ask("GetServerInfo", pb.GetServerInfoRequest(), timeout_s)
        return answer

    def _tries(self, timeout_s: float | None) -> Tries:
        return Tries(self._retries, self._timeout_s if timeout_s is None else timeout_s)

    async def _ask(self, name: str, message: Message, timeout_s: float | None) -> Any:
        """One message for one. To ask twice changes nothing."""
        call, tries = method(self._channel, name), self._tries(timeout_s)
        while True:
            try:
                return await call(message, timeout=tries.left_s, metadata=self._metadata)
            except grpc.RpcError as error:
                wait_s = tries.wait_to_repeat(from_rpc(error))
            await asyncio.sleep(wait_s)


class AsyncStream:
    """The parts of one answer: iterate over it, within `async with`, which ends the answer wherever it is left.

    One task reads; any other may `cancel`.
    """

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata, course: Course) -> None:
        self._channel = channel
        self._metadata = metadata
        self._course = course
        self._call: Any = None
        self._cancelled = asyncio.Event()
        self._deltas = self._read()

    async def __aenter__(self) -> "AsyncStream":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cancel()

    def __aiter__(self) -> AsyncIterator[pb.Delta]:
        return self._deltas

    @property
    def so_far(self) -> Answer:
        """What has been read of it."""
        return self._course.answer

    async def answer(self) -> Answer:
        """Read what is left, and tell all of it."""
        async for _ in self._deltas:
            pass
        return self._course.answer

    async def cancel(self) -> None:
        """End the answer, here and on the server, if it has not ended; who reads it hears `Cancelled`."""
        if self._cancelled.is_set():
            return
        self._cancelled.set()
        if self._call is not None:
            self._call.cancel()
        if self._course.is_left_behind:
            request = pb.CancelRequest(request_id=self._course.request_id)
            with suppress(grpc.RpcError):  # its grace will end it
                await method(self._channel, "Cancel")(request, timeout=CANCEL_TIMEOUT_S, metadata=self._metadata)

    async def _read(self) -> AsyncIterator[pb.Delta]:
        course = self._course
        while True:
            problem: TandemError = ended_early()
            try:
                async for response in self._open():
                    if (delta := course.take(response)) is not None:
                        yield delta
            except grpc.RpcError as error:
                problem = from_rpc(error)
            except asyncio.CancelledError:
                if (reader := asyncio.current_task()) is not None and reader.cancelling():
                    raise
                # else it is the call that was cancelled, here or on its way
            if course.is_over:
                return
            if not self._cancelled.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._cancelled.wait(), course.wait_s(problem))
            if self._cancelled.is_set():
                raise cancelled(course.request_id)

    def _open(self) -> AsyncIterator[pb.GenerateResponse]:
        message = self._course.next_message()
        call = method(self._channel, called(message))
        self._call = call(message, timeout=self._course.tries.left_s, metadata=self._metadata)
        if self._cancelled.is_set():  # before there was a call to cancel
            self._call.cancel()
        opened: AsyncIterator[pb.GenerateResponse] = self._call
        return opened
