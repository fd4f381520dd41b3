"""The REST app around its endpoints: pages, key, size of bodies, ids, and the shape of every error."""

import logging
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from prometheus_client import CollectorRegistry

from engine.errors import (
    CODES,
    DeadlineExceeded,
    Overloaded,
    ProtocolError,
    TandemError,
    TransferFailed,
    Unavailable,
    Unsupported,
)
from frontend.api import Readiness
from frontend.callers import KeyRing
from frontend.events import Delta
from frontend.metrics import FrontendMetrics
from frontend.rest.app import build_app
from tests.frontend.fake_inference import MODEL, VOCAB_SIZE, FakeInference, Step, say

CHAT = "/v1/chat/completions"
QUESTION = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


def rest_client(inference: FakeInference, *, api_key: str = "", max_body_bytes: int = 1 << 20) -> httpx.AsyncClient:
    app = build_app(inference, keys=KeyRing(api_key), max_body_bytes=max_body_bytes, metrics=lambda: b"tandem_up 1\n")
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def error_of(response: httpx.Response) -> dict[str, str | None]:
    """The error of a response that must be one in OpenAI's shape."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert response.headers["x-request-id"]
    return dict(body["error"])


@pytest.fixture
def inference() -> FakeInference:
    return FakeInference()


@pytest.fixture
async def client(inference: FakeInference) -> AsyncIterator[httpx.AsyncClient]:
    async with rest_client(inference) as client:
        yield client


# -- pages -------------------------------------------------------------------------------------------------------------


async def test_models_are_listed_and_found_by_names_with_slashes(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()
    model = {
        "id": MODEL,
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "tandem",
        "max_model_len": 4096,
        "vocab_size": VOCAB_SIZE,
    }
    assert listed == {"object": "list", "data": [model]}
    assert (await client.get(f"/v1/models/{MODEL}")).json() == model


@pytest.mark.parametrize("path", ["/v1/models/other", "/v1/models/"])
async def test_other_models_are_not_found(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert response.status_code == 404
    assert error_of(response)["code"] == "model_not_found"


async def test_health_metrics_and_custody(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health")).json() == {"status": "ok"}
    metrics = await client.get("/metrics")
    assert metrics.text == "tandem_up 1\n"
    assert metrics.headers["content-type"].startswith("text/plain")
    assert (await client.get("/debug/custody")).json() == [{"address": "decode-0:50052", "tickets": []}]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (
            "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3",
            "application/openmetrics-text",
        ),
        ("text/plain", "text/plain"),
        ("*/*", "text/plain"),
    ],
)
async def test_who_accepts_openmetrics_gets_it(accept: str, kind: str) -> None:
    metrics = FrontendMetrics(CollectorRegistry())
    app = build_app(
        FakeInference(),
        keys=KeyRing(),
        max_body_bytes=1 << 20,
        metrics=metrics.exposition,
        openmetrics=metrics.openmetrics,
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://tandem") as client:
        answered = await client.get("/metrics", headers={"accept": accept})
    assert answered.headers["content-type"].startswith(kind)
    assert answered.text.endswith("# EOF\n") == (kind != "text/plain")


async def test_ready_says_why_not(client: httpx.AsyncClient, inference: FakeInference) -> None:
    assert (await client.get("/ready")).status_code == 200
    inference.state = Readiness(False, "draining")
    response = await client.get("/ready")
    assert response.status_code == 503
    assert response.json() == {"ready": False, "reason": "draining"}


async def test_pages_ask_for_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    for path in ("/", "/docs"):
        page = await client.get(path, headers={"accept": "text/html,*/*;q=0.8"})
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        assert "http:" not in page.text
        assert "https:" not in page.text
    assert 'href="docs"' in (await client.get("/", headers={"accept": "text/html"})).text


# -- routing -----------------------------------------------------------------------------------------------------------


async def test_unknown_paths_and_methods(client: httpx.AsyncClient) -> None:
    missing = await client.post("/v1/nothing", json={})
    assert missing.status_code == 404
    assert "/v1/nothing" in (error_of(missing)["message"] or "")
    wrong = await client.get(CHAT)
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "POST"
    assert error_of(wrong)["type"] == "invalid_request_error"
    assert (await client.post("/v1/models")).status_code == 405
    assert (await client.get("/health/")).status_code == 404


async def test_every_response_has_its_own_id(client: httpx.AsyncClient) -> None:
    paths = ["/health", "/nothing", "/v1/models", "/health"]
    ids = [(await client.get(path)).headers["x-request-id"] for path in paths]
    assert len(set(ids)) == len(ids)
    answer = await client.post(CHAT, json=QUESTION)
    assert answer.headers["x-request-id"].removeprefix("req-") == answer.json()["id"].removeprefix("chatcmpl-")


# -- the key -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic key", "key", "Bearer keykey", "Bearer kéy"]
)
async def test_without_the_key_only_probes_and_documentation_are_answered(authorization: str | None) -> None:
    inference = FakeInference()
    headers = {} if authorization is None else {b"authorization": authorization.encode()}
    async with rest_client(inference, api_key="key") as client:
        for path in ("/", "/console", "/console/app.js", "/docs", "/openapi.json", "/health", "/ready", "/metrics"):
            assert (await client.get(path, headers=headers)).status_code == 200
        for path in ("/v1/models", "/debug/custody", "/nothing"):
            response = await client.get(path, headers=headers)
            assert response.status_code == 401
            assert error_of(response)["code"] == "invalid_api_key"
            assert error_of(response)["type"] == "authentication_error"
            assert response.headers["www-authenticate"] == "Bearer"
        assert (await client.post(CHAT, json=QUESTION, headers=headers)).status_code == 401
    assert not inference.requests


@pytest.mark.parametrize("key", ["key", "ключ"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_the_key_opens_everything(key: str, scheme: str) -> None:
    async with rest_client(FakeInference(), api_key=key) as client:
        headers = {b"authorization": f"{scheme} {key}".encode()}
        assert (await client.post(CHAT, json=QUESTION, headers=headers)).status_code == 200
        assert (await client.get("/debug/custody", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": "key"}, 200),
        ({"x-api-key": "wrong"}, 401),
        ({"x-api-key": "Bearer key"}, 401),
        ({"x-api-key": ""}, 401),
        ({"authorization": "Bearer key", "x-api-key": "wrong"}, 200),
        ({"authorization": "Bearer wrong", "x-api-key": "key"}, 401),
        ({"authorization": "Basic bmFtZTpwYXNz", "x-api-key": "key"}, 200),
        ({"authorization": "Bearer ", "x-api-key": "key"}, 200),
    ],
)
async def test_the_key_may_be_in_x_api_key_unless_authorization_has_one(headers: dict[str, str], status: int) -> None:
    async with rest_client(FakeInference(), api_key="key") as client:
        for path in ("/v1/models", "/debug/custody"):
            assert (await client.get(path, headers=headers)).status_code == status
        assert (await client.post(CHAT, json=QUESTION, headers=headers)).status_code == status


async def test_a_key_in_x_api_key_may_have_any_characters() -> None:
    async with rest_client(FakeInference(), api_key="ключ") as client:
        assert (await client.get("/v1/models", headers={b"x-api-key": "ключ".encode()})).status_code == 200


# -- bodies that are too large -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("announce", [True, False])
async def test_a_huge_body_is_refused_before_it_is_read(announce: bool) -> None:
    num_read = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal num_read
        for _ in range(100):
            num_read += 1
            yield bytes(1 << 20)

    inference = FakeInference()
    async with rest_client(inference, max_body_bytes=1 << 21) as client:
        headers = {"content-length": str(100 << 20)} if announce else {}
        response = await client.post(CHAT, content=pieces(), headers=headers)
        assert response.status_code == 413
        assert str(1 << 21) in (error_of(response)["message"] or "")
        assert num_read == (0 if announce else 3)
        assert not inference.requests
        assert (await client.post(CHAT, json=QUESTION)).status_code == 200


async def test_a_body_of_just_the_limit_is_taken() -> None:
    body = b'{"model":"org/demo","messages":[{"role":"user","content":"hi"}]}'
    async with rest_client(FakeInference(), max_body_bytes=len(body)) as client:
        assert (await client.post(CHAT, content=body)).status_code == 200
        assert (await client.post(CHAT, content=body + b" ")).status_code == 413


# -- errors ------------------------------------------------------------------------------------------------------------

ERRORS: list[tuple[TandemError, str, str | None]] = [
    (Overloaded("full", retry_after_s=2.2), "rate_limit_error", "rate_limit_exceeded"),
    (Unavailable("draining"), "server_error", None),
    (Unsupported("no chat template"), "server_error", None),
    (DeadlineExceeded("late"), "server_error", None),
    (TransferFailed("lost"), "server_error", None),
    (ProtocolError("fence"), "server_error", None),
]


@pytest.mark.parametrize(("error", "kind", "code"), ERRORS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("stream", [True, False])
async def test_what_is_refused_has_its_status(error: TandemError, kind: str, code: str | None, stream: bool) -> None:
    inference = FakeInference(scripts=[[error]])
    async with rest_client(inference) as client:
        response = await client.post(CHAT, json={**QUESTION, "stream": stream})
        assert response.status_code == CODES[type(error)].http
        assert error_of(response) == {"message": error.message, "type": kind, "param": None, "code": code}
        assert response.headers.get("retry-after") == ("3" if isinstance(error, Overloaded) else None)
        assert inference.idle.is_set()
        assert (await client.post(CHAT, json=QUESTION)).status_code == 200


async def test_a_failure_after_the_headers_is_an_event_of_the_stream() -> None:
    script: list[Step] = [Delta("par", (1,), 0), Unavailable("the worker is gone")]
    async with rest_client(FakeInference(script)) as client:
        response = await client.post(CHAT, json={**QUESTION, "stream": True})
        assert response.status_code == 200
        *_, error, done, end = response.text.split("\n\n")
        assert error == (
            'data: {"error":{"message":"the worker is gone","type":"server_error","param":null,"code":null}}'
        )
        assert (done, end) == ("data: [DONE]", "")
        assert (await client.post(CHAT, json=QUESTION)).status_code == 503


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("begun", [True, False])
async def test_bugs_are_logged_and_not_shown(stream: bool, begun: bool, caplog: pytest.LogCaptureFixture) -> None:
    bug = ZeroDivisionError("secret")
    inference = FakeInference(scripts=[[Delta("a", (1,), 0), bug] if begun else [bug]])
    async with rest_client(inference) as client:
        with caplog.at_level(logging.ERROR):
            response = await client.post(CHAT, json={**QUESTION, "stream": stream})
        assert response.status_code == (200 if stream and begun else 500)
        assert "internal error" in response.text
        assert "secret" not in response.text
        assert "secret" in caplog.text
        assert inference.idle.is_set()
        assert (await client.post(CHAT, json=QUESTION)).status_code == 200


async def test_a_bug_elsewhere_is_a_500(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: FakeInference, caller: object) -> list[object]:
        raise KeyError("secret")

    monkeypatch.setattr(FakeInference, "models", broken)
    response = await client.get("/v1/models")
    assert response.status_code == 500
    assert error_of(response)["message"] == "internal error"


@pytest.mark.parametrize("make", [lambda: say("x" * 10_000), lambda: say("")], ids=["long", "empty"])
async def test_answers_of_any_length(make: Callable[[], list[Step]]) -> None:
    async with rest_client(FakeInference(make())) as client:
        answer = (await client.post(CHAT, json={**QUESTION, "max_tokens": 20})).json()
        assert answer["choices"][0]["finish_reason"] == "stop"
