"""Clients that do not get on, over real sockets: requests that never come to an end, and answers that nobody reads."""

import asyncio
import json
import socket

import pytest

from frontend.rest import http
from tests.frontend.test_rest_head import is_alive, say, served, serving

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "REQUEST_S", 0.2)


@pytest.mark.parametrize(
    "data",
    [b"P", b"POST / HTTP/1.1\r\nHost: te", HEAD, HEAD + b"{"],
    ids=["a letter", "half a head", "no body", "a body's first byte"],
)
async def test_a_request_that_does_not_come_to_its_end_is_told_so(data: bytes) -> None:
    async with served() as port:
        status, body = await say(port, data)
        assert status == 408
        assert json.loads(body)["error"]["message"] == "the request did not come to its end in time"
        assert await is_alive(port)


async def test_trickling_helps_nobody() -> None:
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD)

        async def trickle() -> None:
            while True:
                writer.write(b" ")
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        async with asyncio.timeout(20):
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 408 ")
        trickling.cancel()
        writer.transport.abort()


async def test_a_connection_on_which_nothing_is_asked_is_closed() -> None:
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.transport.abort()


async def test_a_body_that_keeps_coming_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MIN_BYTES_PER_S", 1)
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD)
        for _ in range(20):
            writer.write(b"x" * 50)
            await asyncio.sleep(0.02)
        async with asyncio.timeout(20):
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 400 "), "it came whole, and is no JSON"
        writer.transport.abort()


async def test_between_requests_and_while_one_is_answered_nobody_is_hurried() -> None:
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n")
            async with asyncio.timeout(20):
                assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
            await asyncio.sleep(0.5)
        writer.transport.abort()


async def test_who_was_answered_before_he_said_all_is_not_answered_twice() -> None:
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD.replace(b"/v1/completions", b"/nowhere"))
        async with asyncio.timeout(20):
            assert (await reader.read()).count(b"HTTP/1.1 ") == 1
        writer.transport.abort()


@pytest.mark.parametrize("reads", [False, True])
async def test_an_answer_that_nobody_reads_is_given_up(monkeypatch: pytest.MonkeyPatch, reads: bool) -> None:
    monkeypatch.setattr(http, "READ_S", 0.3)
    left = asyncio.Event()

    async def flood(scope: object, receive: object, send) -> None:  # type: ignore[no-untyped-def]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(200):
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
            if (await peek(receive)) == "http.disconnect":
                left.set()
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        assert reads

    async with serving(flood) as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            if reads:
                client.setblocking(False)
                loop, num_bytes = asyncio.get_running_loop(), 0
                async with asyncio.timeout(60):
                    while data := await loop.sock_recv(client, 1 << 20):
                        num_bytes += len(data)
                        await asyncio.sleep(0.02)
                assert num_bytes > 20_000_000
                assert not left.is_set()
            else:
                await asyncio.wait_for(left.wait(), 20)


async def peek(receive) -> str:  # type: ignore[no-untyped-def]
    """What there is to receive now, without waiting."""
    asked = asyncio.ensure_future(receive())
    await asyncio.sleep(0)
    if not asked.done():
        asked.cancel()
        return ""
    return str(asked.result()["type"])
