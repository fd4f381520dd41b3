"""Every route of our OpenAPI document with requests beside its schemas, and sockets that carry what is hardly HTTP."""

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from engine.hub import DEMO_MODEL
from frontend.callers import KeyRing
from frontend.rest.app import build_app, dialects_of
from frontend.rest.openapi import openapi_document
from tests.frontend.fake_inference import MODEL, FakeInference
from tests.frontend.test_rest_app import rest_client
from tests.frontend.test_rest_head import say, served
from tests.fuzz.budget import fuzz
from tests.fuzz.strategies import beside, mutated, seldom
from tests.fuzz.workers import Workers

DOCUMENT: Any = openapi_document(dialects_of(FakeInference()))
SCHEMAS = DOCUMENT["components"]["schemas"]
OPERATIONS = [(path, verb, operation) for path, verbs in DOCUMENT["paths"].items() for verb, operation in verbs.items()]
POSTS = [operation for operation in OPERATIONS if operation[1] == "post"]

odd_headers = st.dictionaries(
    st.sampled_from(
        [
            "authorization",
            "x-api-key",
            "content-type",
            "accept",
            "traceparent",
            "tracestate",
            "x-tandem-timing",
            "anthropic-version",
            "host",
        ]
    ),
    st.binary(max_size=40).map(lambda value: re.sub(rb"[\x00-\x08\x0a-\x1f\x7f]", b"", value).strip())
    | st.sampled_from([b"1", b"text/plain", b"Bearer x", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"]),
    max_size=3,
)


@st.composite
def requests(draw: DrawFn, model: str = MODEL) -> httpx.Request:
    path, verb, operation = draw(st.sampled_from(POSTS) | st.sampled_from(POSTS) | st.sampled_from(OPERATIONS))
    name = draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.just(model))
    path = path.replace("{id}", quote(name, safe=draw(st.sampled_from(["", "/"]))))
    if draw(seldom):
        verb = draw(st.sampled_from(["get", "post", "put", "delete", "options", "head", "patch"]))
    content = b""
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        fields = draw(beside(schema, SCHEMAS))
        if isinstance(fields, dict) and not draw(seldom):
            fields["model"] = model
        if isinstance(fields, dict) and _knows_max_tokens(schema) and not draw(seldom):
            fields.pop("max_completion_tokens", None)
            fields["max_tokens"] = draw(st.integers(1, 3))  # of real answers there is time for short ones only
        content = draw(mutated(st.just(json.dumps(fields).encode()), max_edits=4 if draw(seldom) else 0))
    headers = draw(odd_headers)
    return httpx.Request(verb.upper(), f"http://test{path}", headers=list(headers.items()), content=content)


def _knows_max_tokens(schema: Any) -> bool:
    return "max_tokens" in SCHEMAS[schema["$ref"].rpartition("/")[2]]["properties"]


def test_no_request_is_a_servers_fault() -> None:
    inference = FakeInference()
    with asyncio.Runner() as runner:
        client = rest_client(inference)

        async def ask(request: httpx.Request) -> None:
            response = await client.send(request)
            assert response.status_code < 500, response.text
            if response.status_code >= 400 and request.method != "HEAD":
                assert response.json()["error"]["message"]
            assert inference.running == 0
            inference.requests.clear()

        fuzz("REST", requests(), lambda request: runner.run(ask(request)), quick=150)
        runner.run(client.aclose())


@pytest.mark.slow
def test_no_request_breaks_real_workers() -> None:
    workers = Workers()

    async def ask(request: httpx.Request) -> None:
        running = await workers.running()
        app = build_app(running.inference, keys=KeyRing(), max_body_bytes=1 << 20, metrics=lambda: b"")
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            response = await client.send(request)
            assert response.status_code < 500, response.text
            assert b"server_error" not in response.content, response.text
        ended = [name for name, task in running.tasks.items() if task.done()]
        assert not ended

    with asyncio.Runner() as runner:
        try:
            fuzz("REST with workers", requests(DEMO_MODEL.name), lambda request: runner.run(ask(request)), quick=60)
        finally:
            runner.run(workers.stop())


@contextmanager
def a_server(runner: asyncio.Runner) -> Iterator[int]:
    server = served()
    port = runner.run(server.__aenter__())
    try:
        yield port
    finally:
        runner.run(server.__aexit__(None, None, None))


BODY = json.dumps({"model": MODEL, "prompt": "hi", "stream": True}).encode()
HEADERS = b"Host: test\r\nContent-Type: application/json\r\n"
plain = st.sampled_from(
    [
        b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n",
        b"GET /v1/models/a%2fb HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (HEADERS, len(BODY), BODY),
        b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
        b"POST /v1/completions HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n{}",
    ]
)


def test_no_bytes_on_a_socket_are_a_servers_fault() -> None:
    async def send(port: int, data: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for i in range(0, len(data), 500):
                writer.write(data[i : i + 500])
                await asyncio.sleep(0)
            writer.write_eof()
            async with asyncio.timeout(20):
                answers = await reader.read()
        except OSError:  # the server has closed the connection already, and what it said may be lost
            answers = b""
        finally:
            writer.transport.abort()
        statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", answers)]
        assert all(status < 500 for status in statuses), answers
        assert (await say(port, b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n"))[0] == 200

    several = st.lists(mutated(plain), min_size=1, max_size=3).map(b"".join)
    with asyncio.Runner() as runner, a_server(runner) as port:
        fuzz("HTTP", several, lambda data: runner.run(send(port, data)), quick=50)
