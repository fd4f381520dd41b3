"""One request over the OpenAI REST API or over gRPC, heard as far as its client wants to listen.

Every REST request has a connection of its own: hanging up is closing it.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import grpc
import grpc.aio

from cli.chaos.answers import Heard
from cli.chaos.asks import PATIENT, Ask, Behavior, Dialect, Served
from cli.chaos.hear import Reply, read_grpc, read_rest, request_of
from cli.load.sse import parse_response
from engine.errors import ConfigError
from protos import generate_pb2 as pb
from protos.generate_pb2_grpc import InferenceStub

PATIENCE_S = 120.0
"""An answer that has not ended by then hangs."""
BUSY = (429, 503)
REFUSALS = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)

OnPiece = Callable[[int], None]
"""Hears how many pieces of the answer have come."""


class Failed(Exception):
    """The server, or the way to it, ended a request that its client still wanted."""

    def __init__(self, why: str, heard: Heard, *, is_refusal: bool = False) -> None:
        super().__init__(why)
        self.heard = heard
        self.is_refusal = is_refusal
        """Nothing was begun, and asking again is right."""


class PastDeadline(Exception):
    """The server says that the deadline passed."""

    def __init__(self, heard: Heard) -> None:
        super().__init__("deadline")
        self.heard = heard


@dataclass(frozen=True, slots=True)
class Places:
    """Where a server is reached, and with which key."""

    url: str
    grpc_address: str
    api_key: str | None = None


class Talk:
    """A client of one server. Use within one event loop."""

    def __init__(self, places: Places) -> None:
        self._places = places
        parts = urlsplit(places.url)
        self._host, self._port, self._netloc = parts.hostname or "", parts.port or 80, parts.netloc
        options = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1)]
        self._channel = grpc.aio.insecure_channel(places.grpc_address, options=options)
        self._stub = InferenceStub(self._channel)
        self._metadata = (("authorization", f"Bearer {places.api_key}"),) if places.api_key else ()
        self.model = ""

    async def aclose(self) -> None:
        await self._channel.close(None)

    async def served(self) -> Served:
        """The model that is asked from now on. Raises ConfigError."""
        try:
            reply = await self._stub.ListModels(pb.ListModelsRequest(), timeout=10.0, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            told = f"{error.code().name}: {error.details()}"
            raise ConfigError(f"no list of models from {self._places.grpc_address}: {told}", field="--url") from error
        model = reply.models[0]
        self.model = model.name
        return Served(model.name, model.max_context, model.vocab_size, model.has_chat_template)

    async def ready_workers(self) -> frozenset[str]:
        """Names of the workers that the frontend could use now."""
        reply = await self._stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=10.0, metadata=self._metadata)
        return frozenset(worker.worker_id for worker in reply.workers if worker.ready)

    async def get(self, path: str) -> object:
        """The JSON of a page. Raises OSError."""
        heard = _Wire()
        async with asyncio.timeout(20.0):
            await self._exchange("GET", path, b"", heard, lambda _: True)
        return json.loads(parse_response(bytes(heard.data)).body)

    async def ask(self, ask: Ask, behavior: Behavior = PATIENT, on_piece: OnPiece = lambda _: None) -> Heard:
        """What was heard until the answer's end, or until the client hung up. Raises Failed, PastDeadline."""
        talk = self._ask_grpc if ask.dialect is Dialect.GRPC else self._ask_rest
        return await talk(ask, behavior, on_piece)

    # -- REST --------------------------------------------------------------------------------------------------------

    async def _ask_rest(self, ask: Ask, behavior: Behavior, on_piece: OnPiece) -> Heard:
        wire = _Wire()

        def goes_on(num_pieces: int) -> bool:
            on_piece(num_pieces)
            return behavior.max_pieces is None or num_pieces < behavior.max_pieces

        path = "/v1/chat/completions" if ask.dialect is Dialect.CHAT else "/v1/completions"
        try:
            async with asyncio.timeout(behavior.hang_up_s if behavior.hang_up_s is not None else PATIENCE_S):
                is_whole = await self._exchange("POST", path, json.dumps(self._body(ask)).encode(), wire, goes_on)
        except TimeoutError:
            is_whole = False
            if behavior.hang_up_s is None:
                raise Failed(f"no end within {PATIENCE_S:g} s", wire.read(ask).heard) from None
        except OSError as error:
            raise Failed(f"{type(error).__name__}: {error}", wire.read(ask).heard) from error
        reply = wire.read(ask)
        if reply.error is not None:
            raise Failed(reply.error, reply.heard, is_refusal=reply.status in BUSY)
        if is_whole and not reply.is_whole:
            raise Failed("the connection ended before the answer did", reply.heard)
        return reply.heard

    async def _exchange(
        self, method: str, path: str, body: bytes, wire: "_Wire", goes_on: Callable[[int], bool]
    ) -> bool:
        """Fill `wire` until the server closes the connection, True, or `goes_on` says no, False."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(self._head(method, path, len(body)) + body)
            while data := await reader.read(1 << 16):
                wire.add(data)
                if wire.num_pieces and not goes_on(wire.num_pieces):
                    return False
            return True
        finally:
            writer.transport.abort()

    def _head(self, method: str, path: str, size: int) -> bytes:
        key = f"Authorization: Bearer {self._places.api_key}\r\n" if self._places.api_key else ""
        return (
            f"{method} {path} HTTP/1.1\r\nHost: {self._netloc}\r\nConnection: close\r\n{key}"
            f"Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
        ).encode()

    def _body(self, ask: Ask) -> dict[str, object]:
        fields = dict(ask.fields)
        if ask.dialect is Dialect.CHAT:
            fields["messages"] = [{"role": "user", "content": ask.prompt}]
            if "logprobs" in fields:
                fields |= {"logprobs": True, "top_logprobs": fields["logprobs"]}
        else:
            fields["prompt"] = ask.prompt if isinstance(ask.prompt, str) else list(ask.prompt)
        stream = {"stream": True, "stream_options": {"include_usage": True}} if ask.stream else {}
        return {"model": self.model, **fields, **stream}

    # -- gRPC --------------------------------------------------------------------------------------------------------

    async def _ask_grpc(self, ask: Ask, behavior: Behavior, on_piece: OnPiece) -> Heard:
        messages: list[pb.GenerateResponse] = []
        call = self._stub.Generate(
            request_of(ask, self.model), timeout=behavior.deadline_s or PATIENCE_S, metadata=self._metadata
        )
        try:
            async with asyncio.timeout(behavior.hang_up_s):
                async for message in call:
                    messages.append(message)
                    on_piece(len(messages) - 1)  # the first one only says that the request was taken
                    if behavior.max_pieces is not None and len(messages) > behavior.max_pieces:
                        break
        except TimeoutError:
            pass  # the client's own
        except grpc.aio.AioRpcError as error:
            heard = read_grpc(messages)
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and behavior.deadline_s is not None:
                raise PastDeadline(heard) from error
            is_refusal = not messages and error.code() in REFUSALS
            raise Failed(f"{error.code().name}: {error.details()}", heard, is_refusal=is_refusal) from error
        finally:
            call.cancel()
        heard = read_grpc(messages)
        if heard.finish is None and behavior.max_pieces is None and behavior.hang_up_s is None:
            raise Failed("the call ended before the answer did", heard)
        return heard


@dataclass(slots=True)
class _Wire:
    """What has come over one connection."""

    data: bytearray = field(default_factory=bytearray)
    num_pieces: int = 0
    """Events, as far as can be told without parsing."""

    def add(self, some: bytes) -> None:
        self.data += some
        self.num_pieces += some.count(b"data: ")

    def read(self, ask: Ask) -> Reply:
        return read_rest(bytes(self.data), stream=ask.stream)
