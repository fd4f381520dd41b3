"""What stands before a body, over real sockets: too much of it, and what is not HTTP at all."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import ASGIApp

from frontend.__main__ import rest_config
from frontend.callers import KeyRing
from frontend.rest.app import build_app
from frontend.rest.http import MAX_HEAD_BYTES
from tests.frontend.fake_inference import FakeInference


@asynccontextmanager
async def served() -> AsyncIterator[int]:
    app = build_app(FakeInference(), keys=KeyRing(), max_body_bytes=1 << 20, metrics=lambda: b"")
    async with serving(app) as port:
        yield port


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[int]:
    """The port of the app as the frontend serves it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(rest_config(app, None))
        running = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            await running


async def say(port: int, *parts: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to what is sent, until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            return int(head.split(b" ")[1]), await reader.readexactly(size)
    finally:
        writer.transport.abort()


async def is_alive(port: int) -> bool:
    return await say(port, b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n") == (200, b'{"status":"ok"}')


HUGE = b"x" * MAX_HEAD_BYTES
HEADS = {
    "one header": [b"GET / HTTP/1.1\r\nHost: test\r\nx: " + HUGE + b"\r\n\r\n"],
    "many headers": [b"GET / HTTP/1.1\r\nHost: test\r\n", b"a: b\r\n" * MAX_HEAD_BYTES],
    "a path": [b"GET /" + HUGE + b" HTTP/1.1\r\nHost: test\r\n\r\n"],
    "a header that does not end": [b"GET / HTTP/1.1\r\nHost: test\r\nx: ", *[b"x" * 10_000] * 60],
    "a path that does not end": [b"GET /", *[b"x" * 10_000] * 60],
    "the second request": [b"GET /health HTTP/1.1\r\nHost: test\r\nConnection: close\r\nx: " + HUGE + b"\r\n\r\n"],
}


@pytest.mark.parametrize("parts", HEADS.values(), ids=HEADS.keys())
async def test_a_head_that_is_too_large_is_refused_in_openais_words(parts: list[bytes]) -> None:
    async with served() as port:
        status, body = await say(port, *parts)
        assert status == 431
        assert json.loads(body)["error"]["type"] == "invalid_request_error"
        assert await is_alive(port)


NOT_HTTP = {
    "garbage": b"\x00\xff\xfe garbage\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a path that is not ascii": b"GET /\xff\xfe HTTP/1.1\r\nHost: test\r\n\r\n",
    "no path": b"OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n",
    "a header that is none": b"GET / HTTP/1.1\r\n: x\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "a length and chunks": b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a negative length": b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    "a chunk of no size": b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
}


@pytest.mark.parametrize("data", NOT_HTTP.values(), ids=NOT_HTTP.keys())
async def test_what_is_not_http_is_told_so(data: bytes) -> None:
    async with served() as port:
        status, body = await say(port, data)
        assert 400 <= status < 500
        assert json.loads(body)["error"]["type"] == "invalid_request_error"
        assert await is_alive(port)


async def test_requests_on_one_connection_are_counted_one_by_one() -> None:
    async with served() as port:
        request = b"GET /health HTTP/1.1\r\nHost: test\r\nx: " + HUGE[1000:] + b"\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            for i in range(0, len(request), 10_000):
                writer.write(request[i : i + 10_000])
                await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            await reader.readexactly(len(b'{"status":"ok"}'))
        writer.close()
        await writer.wait_closed()
