"""The app behind a real server and socket: tokens arrive as they are made, and hanging up stops the work."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import httpx
import pytest
import uvicorn

from frontend.callers import KeyRing
from frontend.events import Event
from frontend.request import GenerateRequest
from frontend.rest.app import build_app
from tests.frontend.fake_inference import MODEL, FakeInference, say
from tests.frontend.test_rest_app import error_of

CHAT = "/v1/chat/completions"
QUESTION = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


@asynccontextmanager
async def served(inference: FakeInference) -> AsyncIterator[httpx.AsyncClient]:
    app = build_app(inference, keys=KeyRing(), max_body_bytes=1 << 20, metrics=lambda: b"")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        host, port = listening.getsockname()
        try:
            async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=20) as client:
                yield client
        finally:
            server.should_exit = True
            await serving


async def test_tokens_arrive_as_they_are_made() -> None:
    more = asyncio.Event()
    inference = FakeInference([*say("a")[:1], more, *say("b")])
    async with served(inference) as client, client.stream("POST", CHAT, json={**QUESTION, "stream": True}) as response:
        lines = response.aiter_lines()
        role, blank, text, _ = [await anext(lines) for _ in range(4)]
        assert json.loads(role.removeprefix("data: "))["choices"][0]["delta"]["role"] == "assistant"
        assert json.loads(text.removeprefix("data: "))["choices"][0]["delta"] == {"content": "a"}
        assert blank == ""
        assert not more.is_set()
        more.set()
        assert [line async for line in lines][-2:] == ["data: [DONE]", ""]
    assert inference.idle.is_set()


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("stream", [True, False])
async def test_hanging_up_stops_the_work(stream: bool, begun: bool, n: int) -> None:
    never = asyncio.Event()
    inference = FakeInference([*say("a")[:1], never] if begun else [never])
    async with served(inference) as client:
        asking = asyncio.create_task(client.post(CHAT, json={**QUESTION, "stream": stream, "n": n}))
        async with asyncio.timeout(20):
            for _ in range(n):
                await inference.began.acquire()
            asking.cancel()
            await inference.idle.wait()
        assert len(inference.requests) == n
        inference.script = say("b")
        assert (await client.post(CHAT, json=QUESTION)).json()["choices"][0]["message"]["content"] == "b"


class Flood(FakeInference):
    """Never waits for anything but the client's socket, and never ends."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        async with aclosing(super().generate(request)) as events:
            started, delta = [await anext(events) for _ in range(2)]
            yield started
            while True:
                yield delta
                await asyncio.sleep(0)


async def test_hanging_up_on_a_flood_stops_it() -> None:
    inference = Flood(say("x" * 1000))
    async with served(inference) as client:
        async with client.stream("POST", CHAT, json={**QUESTION, "stream": True}) as response:
            await anext(response.aiter_bytes())
            assert inference.running == 1
        async with asyncio.timeout(20):
            await inference.idle.wait()


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_huge_body_is_refused_while_it_is_sent(chunked: bool) -> None:
    async with served(FakeInference()) as client:
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        size = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {100 << 20}"
        writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: test\r\n{size}\r\n\r\n".encode())
        if chunked:
            writer.write(b"%x\r\n" % ((1 << 20) + 1) + bytes((1 << 20) + 1) + b"\r\n")
        async with asyncio.timeout(20):
            assert await reader.readline() == b"HTTP/1.1 413 Request Entity Too Large\r\n"
        writer.close()
        await writer.wait_closed()
        assert (await client.post(CHAT, json=QUESTION)).status_code == 200


async def test_who_sends_a_huge_body_to_its_end_hears_why_it_was_refused() -> None:
    async with served(FakeInference()) as client:
        response = await client.post(CHAT, content=bytes(32 << 20))
        assert response.status_code == 413
        assert error_of(response)["type"] == "invalid_request_error"
        assert (await client.post(CHAT, json=QUESTION)).status_code == 200


async def test_a_connection_is_used_again_after_an_error() -> None:
    async with served(FakeInference()) as client:
        for _ in range(3):
            assert (await client.post(CHAT, content=b"{")).status_code == 400
            assert (await client.post(CHAT, json={**QUESTION, "stream": True})).text.endswith("data: [DONE]\n\n")
            assert (await client.get("/nothing")).status_code == 404
