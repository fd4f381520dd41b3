"""What else `tandem up` promises: a key that is asked for, and clients that do not hold up one another."""

import asyncio
import json
import socket

import grpc
import grpc.aio
import openai
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.e2e.clients import (
    DEMO,
    GRPC_OPTIONS,
    PATIENCE_S,
    chat_request,
    grpc_stub,
    http_client,
    metric,
    openai_client,
    stream_text,
    until_idle,
)
from tests.e2e.server import Tandem, tandem

pytestmark = pytest.mark.slow

KEY = "sesame-3f9c"


async def test_a_key_is_asked_for() -> None:
    with tandem("--api-key", KEY) as server:
        await check_rest_wants_a_key(server)
        await check_grpc_wants_a_key(server)
        for name, process in server.processes().items():
            assert not any(KEY in argument for argument in process.cmdline()), f"{name} shows the key to everybody"
        await until_idle(server, num_workers=2, api_key=KEY)


async def check_rest_wants_a_key(server: Tandem) -> None:
    for wrong in ("none", KEY + "x"):
        async with openai_client(server, wrong) as client:
            with pytest.raises(openai.AuthenticationError):
                await stream_text(client, DEMO, "Hello", max_tokens=4)
    async with openai_client(server, KEY) as client:
        assert (await stream_text(client, DEMO, "Hello", max_tokens=4)).num_tokens == 4
    async with http_client(server) as http:
        statuses = {path: (await http.get(path)).status_code for path in ("/health", "/ready", "/metrics")}
        assert set(statuses.values()) == {200}
        assert (await http.get("/debug/custody")).status_code == 401
        assert (await http.get("/v1/models")).status_code == 401


async def check_grpc_wants_a_key(server: Tandem) -> None:
    async with grpc_stub(server) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            async for _ in stub.Generate(chat_request("Hello", 4)):
                pass
        assert failure.value.code() is grpc.StatusCode.UNAUTHENTICATED
        call = stub.Generate(chat_request("Hello", 4), metadata=(("authorization", f"Bearer {KEY}"),))
        assert [event async for event in call][-1].finished.usage.completion_tokens > 0
    async with grpc.aio.insecure_channel(server.grpc, options=GRPC_OPTIONS) as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.SERVING


CHOICES, CHOICE_TOKENS = 16, 800
"""Some 20 MB with their log-probabilities: far more than the buffers of two sockets hold."""


async def test_who_reads_slowly_does_not_stall_others(demo: Tandem) -> None:
    with asks_for_much(demo) as slow:
        async with asyncio.timeout(PATIENCE_S), openai_client(demo) as client:
            others = (stream_text(client, DEMO, f"Question {i}", max_tokens=64) for i in range(8))
            answers = await asyncio.gather(*others)
        assert [answer.num_tokens for answer in answers] == [64] * 8
        await until_idle(demo, num_workers=2)  # workers do not wait for the reader either
        assert sum(await metric(demo, "tandem_requests_in_flight")) > 0, "nobody had to wait for the reader"
        received = await asyncio.to_thread(read_to_end, slow)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.count(b'"finish_reason":"length"') == CHOICES
    assert received.count(b"data: [DONE]") == 1


def asks_for_much(server: Tandem) -> socket.socket:
    """A connection on which megabytes of answer are asked for, and whose reader has not begun to read."""
    host, _, port = server.http.removeprefix("http://").rpartition(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(PATIENCE_S)
    connection.connect((host, int(port)))
    body = json.dumps(
        {
            "model": DEMO,
            "messages": [{"role": "user", "content": "Go on."}],
            "n": CHOICES,
            "max_tokens": CHOICE_TOKENS,
            "logprobs": True,
            "top_logprobs": 20,
            "ignore_eos": True,
            "stream": True,
        }
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    return connection


def read_to_end(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)
