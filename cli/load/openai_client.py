"""One streamed request to an OpenAI-compatible server, for as little of the client's CPU as can be.

Every request has a connection of its own, made after the request's clock started. While tokens come, each read is
noted with its time, and nothing else is done; `sse.py` makes sense of it when the stream has ended.
"""

import asyncio
import json
import time
from urllib.parse import urlsplit

import msgspec

from cli.load.client import RequestFailed, ServedModel, Tape
from cli.load.config import TargetConfig
from cli.load.measure import Reply
from cli.load.prompts import Job
from cli.load.sse import DONE, parse_response, read_stream
from engine.errors import ConfigError

HEAD_TIMEOUT_S = 10.0
"""Of asking which models there are."""


class _Answer(asyncio.Protocol):
    """Notes what comes until the stream's own end or the connection's."""

    def __init__(self, pieces: list[tuple[float, bytes]]) -> None:
        self._pieces = pieces
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self._pieces.append((time.perf_counter(), data))
        if DONE in data:  # if a read cuts it in two, the server's closing of the connection is the end
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish()

    def _finish(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


class OpenAIClient:
    """A Client of POST /v1/completions or /v1/chat/completions."""

    def __init__(self, target: TargetConfig) -> None:
        parts = urlsplit(target.url)
        try:
            self._port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise ConfigError(f"{target.url}: {error}", field="url") from error
        if not parts.hostname:
            raise ConfigError(f"{target.url} names no host", field="url")
        self._host = parts.hostname
        self._tls = target.trust.for_https(target.url)
        self._address = parts.netloc.rpartition("@")[2]
        self._base = parts.path.rstrip("/").removesuffix("/v1")
        self._target = target
        self._model = target.model

    async def served_model(self) -> ServedModel:
        """What GET /v1/models tells of the model, which is then the one that requests name. Raises ConfigError."""
        pieces: list[tuple[float, bytes]] = []
        try:
            async with asyncio.timeout(HEAD_TIMEOUT_S):
                await self._exchange(self._head("GET", "/v1/models", 0), pieces)
        except (OSError, TimeoutError) as error:
            raise ConfigError(f"no server at {self._target.url}: {error or 'no answer'}", field="url") from error
        response = parse_response(b"".join(piece for _, piece in pieces))
        try:
            models = msgspec.json.decode(response.body, type=_Models).data
        except msgspec.DecodeError as error:
            if self._model:
                return ServedModel(self._model)
            told = f"HTTP {response.status}" if response.status != 200 else str(error)
            message = f"{self._target.url} does not list its models ({told}): give --model"
            raise ConfigError(message, field="--model") from error
        named = [model for model in models if self._model in ("", model.id)]
        if not named:
            have = ", ".join(model.id for model in models) or "none"
            raise ConfigError(f"the server has no model {self._model!r}; it has: {have}", field="--model")
        self._model = named[0].id
        meta = named[0].meta or _Meta()
        return ServedModel(self._model, vocab=named[0].vocab_size or meta.n_vocab, max_context=named[0].max_model_len)

    async def send(self, job: Job, tape: Tape) -> None:
        body = self._body(job)
        path = "/v1/chat/completions" if self._target.endpoint == "chat" else "/v1/completions"
        try:
            await self._exchange(self._head("POST", path, len(body)) + body, tape.pieces)
        except OSError as error:
            raise RequestFailed(f"{type(error).__name__}: {error}") from error

    def read(self, tape: Tape) -> Reply:
        return read_stream(tape.pieces)

    def explain(self, tape: Tape) -> str:
        """The body of an answer that is no stream, for a message."""
        return parse_response(b"".join(piece for _, piece in tape.pieces)).body[:500].decode(errors="replace").strip()

    async def aclose(self) -> None:
        """Nothing is kept open between requests."""

    async def _exchange(self, request: bytes, pieces: list[tuple[float, bytes]]) -> None:
        loop = asyncio.get_running_loop()
        transport, answer = await loop.create_connection(lambda: _Answer(pieces), self._host, self._port, ssl=self._tls)
        try:
            transport.write(request)
            await answer.ended
        finally:
            transport.abort()

    def _head(self, method: str, path: str, size: int) -> bytes:
        key = f"Authorization: Bearer {self._target.api_key}\r\n" if self._target.api_key else ""
        return (
            f"{method} {self._base}{path} HTTP/1.1\r\nHost: {self._address}\r\nConnection: close\r\n{key}"
            f"Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
        ).encode()

    def _body(self, job: Job) -> bytes:
        is_chat = self._target.endpoint == "chat"
        prompt = {"messages": [{"role": "user", "content": job.prompt}]} if is_chat else {"prompt": job.prompt}
        fields = {
            "model": self._model,
            **prompt,
            "max_tokens": job.output_tokens,
            "temperature": self._target.temperature,
            "ignore_eos": self._target.ignore_eos,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._target.extra_body,
        }
        return json.dumps(fields).encode()


class _Meta(msgspec.Struct):
    """llama.cpp's."""

    n_vocab: int | None = None


class _Model(msgspec.Struct):
    id: str
    max_model_len: int | None = None
    vocab_size: int | None = None
    meta: _Meta | None = None


class _Models(msgspec.Struct):
    data: list[_Model]
