"""What stands between clients and every dialect: pages from elsewhere, compressed answers, ids that requests bring."""

import gzip
import json
import re

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from engine.errors import Overloaded, Unsupported
from frontend.callers import KeyRing
from frontend.rest.app import build_app
from frontend.rest.compression import MIN_BYTES, OFF_LOOP_BYTES, Compression, takes_gzip
from tests.frontend.fake_inference import MODEL, FakeInference, say
from tests.frontend.test_rest_app import rest_client

CHAT = "/v1/chat/completions"
QUESTION = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
PAGE = "https://page.example:8443"
PREFLIGHT = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization, content-type, x-custom",
}


def open_to(*origins: str, inference: FakeInference | None = None, api_key: str = "") -> httpx.AsyncClient:
    app = build_app(
        inference or FakeInference(),
        keys=KeyRing(api_key),
        max_body_bytes=1 << 20,
        metrics=lambda: b"",
        cors_origins=origins,
    )
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


# -- pages from elsewhere ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origins", [(PAGE,), ("https://other.example", PAGE), ("*",)])
async def test_a_page_may_ask_beforehand_without_a_key(origins: tuple[str, ...]) -> None:
    async with open_to(*origins, api_key="key") as client:
        asked = await client.options(CHAT, headers=PREFLIGHT)
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] in (PAGE, "*")
        assert "POST" in asked.headers["access-control-allow-methods"]
        allowed = asked.headers["access-control-allow-headers"].lower()
        assert all(name in allowed for name in ("authorization", "content-type", "x-custom"))
        assert "access-control-allow-credentials" not in asked.headers


async def test_pages_read_answers_and_errors() -> None:
    inference = FakeInference(
        scripts=[say("a"), say("b"), [Overloaded("full", retry_after_s=1)], [ZeroDivisionError()]]
    )
    async with open_to(PAGE, inference=inference) as client:
        for stream, status in ((False, 200), (True, 200), (False, 429), (False, 500)):
            response = await client.post(CHAT, json={**QUESTION, "stream": stream}, headers={"origin": PAGE})
            assert response.status_code == status
            assert response.headers["access-control-allow-origin"] == PAGE
            exposed = response.headers["access-control-expose-headers"].lower()
            assert "x-request-id" in exposed
            assert "retry-after" in exposed
            assert "origin" in response.headers["vary"].lower()


async def test_other_pages_may_not() -> None:
    for origins, page in (((), PAGE), ((PAGE,), "https://page.example"), ((PAGE,), "null")):
        async with open_to(*origins) as client:
            asked = await client.options(CHAT, headers={**PREFLIGHT, "origin": page})
            assert asked.status_code in (400, 405)
            assert "access-control-allow-origin" not in asked.headers
            response = await client.post(CHAT, json=QUESTION, headers={"origin": page})
            assert "access-control-allow-origin" not in response.headers


# -- compression -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [MIN_BYTES, 2 * OFF_LOOP_BYTES])
async def test_whole_answers_are_compressed_for_who_takes_it(size: int) -> None:
    async with rest_client(FakeInference(say("x" * size))) as client:
        body = {**QUESTION, "n": 1}
        plain = await client.post(CHAT, json=body, headers={"accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers
        packed = await client.post(CHAT, json=body, headers={"accept-encoding": "deflate, gzip;q=0.5"})
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.headers["vary"] == "Accept-Encoding"
        assert int(packed.headers["content-length"]) < size
        assert packed.json()["choices"] == plain.json()["choices"]


async def test_small_answers_are_not_compressed() -> None:
    async with rest_client(FakeInference()) as client:
        response = await client.post(CHAT, json=QUESTION, headers={"accept-encoding": "gzip"})
        assert "content-encoding" not in response.headers
        assert response.json()["choices"]


async def test_streams_pass_as_they_are() -> None:
    async with rest_client(FakeInference(say(*["x" * 200] * 20))) as client:
        body = {**QUESTION, "stream": True}
        response = await client.post(CHAT, json=body, headers={"accept-encoding": "gzip"})
        assert response.status_code == 200
        assert "content-encoding" not in response.headers
        assert response.text.count("x" * 200) == 20


async def passed_on(*messages: Message, accept: bytes = b"gzip") -> list[list[Message]]:
    """What has been sent on after each of the app's messages."""
    sent: list[Message] = []
    after: list[list[Message]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
            after.append(list(sent))

    async def receive() -> Message:
        raise NotImplementedError

    async def send(message: Message) -> None:
        sent.append(message)

    await Compression(app)({"type": "http", "headers": [(b"accept-encoding", accept)]}, receive, send)
    return after


def start(content_type: bytes, *more: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": 200, "headers": [(b"content-type", content_type), *more]}


def body(content: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more}


@pytest.mark.parametrize("content_type", [b"text/event-stream; charset=utf-8", b"application/x-ndjson"])
async def test_headers_of_a_stream_are_not_held_back(content_type: bytes) -> None:
    messages = [start(content_type), body(b"x" * 9999, more=True), body(b"", more=False)]
    assert await passed_on(*messages) == [messages[:1], messages[:2], messages]


async def test_what_comes_in_parts_is_left_alone_whatever_it_is() -> None:
    messages = [start(b"text/plain"), body(b"x" * 9999, more=True), body(b"y" * 9999, more=False)]
    assert await passed_on(*messages) == [[], messages[:2], messages]


async def test_what_is_encoded_already_is_not_encoded_again() -> None:
    messages = [start(b"text/plain", (b"content-encoding", b"br")), body(b"x" * 9999, more=False)]
    assert (await passed_on(*messages))[-1] == messages


async def test_what_is_sent_is_gzip() -> None:
    content = json.dumps(list(range(2000))).encode()
    *_, (head, packed) = await passed_on(start(b"application/json"), body(content, more=False))
    assert gzip.decompress(packed["body"]) == content
    assert (b"content-length", str(len(packed["body"])).encode()) in head["headers"]


@pytest.mark.parametrize(
    ("header", "takes"),
    [
        ("", False),
        ("identity", False),
        ("gzip", True),
        ("GZIP", True),
        ("br, gzip", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000, br", False),
        ("gzip;q=0.001", True),
        ("*", True),
        ("xgzip", False),
        ("gzip;q=1.2.3", False),
        ("gzip;q=nonsense", False),
    ],
)
def test_who_takes_gzip(header: str, takes: bool) -> None:
    assert takes_gzip(header) is takes


# -- ids ---------------------------------------------------------------------------------------------------------------


async def test_a_request_keeps_the_id_that_it_came_with() -> None:
    async with rest_client(FakeInference()) as client:
        headers = {"x-request-id": "trace/1:a.b_c-d=+@"}
        answer = await client.post(CHAT, json=QUESTION, headers=headers)
        assert answer.headers["x-request-id"] == headers["x-request-id"]
        own = answer.headers["x-tandem-request-id"]
        assert own.removeprefix("req-") == answer.json()["id"].removeprefix("chatcmpl-")
        for path in ("/health", "/nothing"):
            response = await client.get(path, headers=headers)
            assert response.headers["x-request-id"] == headers["x-request-id"]
            assert response.headers["x-tandem-request-id"].startswith("req-")


@pytest.mark.parametrize("name", ["", "a b", "a\tb", "é", "x" * 129, "a,b", '"'])
async def test_what_is_no_id_is_not_taken(name: str) -> None:
    async with rest_client(FakeInference()) as client:
        response = await client.get("/health", headers={b"x-request-id": name.encode()})
        assert response.headers["x-request-id"].startswith("req-")


async def test_the_log_calls_a_request_by_both_ids(caplog: pytest.LogCaptureFixture) -> None:
    async with rest_client(FakeInference([ZeroDivisionError()])) as client:
        await client.post(CHAT, json=QUESTION, headers={"x-request-id": "mine-7"})
    assert re.search(r"req-[0-9a-f]+ \(mine-7\) of", caplog.text)


async def test_what_this_server_does_not_do_is_no_failure_of_its(caplog: pytest.LogCaptureFixture) -> None:
    async with rest_client(FakeInference([Unsupported("not here")])) as client:
        assert (await client.post(CHAT, json=QUESTION)).status_code == 501
    assert not caplog.records
