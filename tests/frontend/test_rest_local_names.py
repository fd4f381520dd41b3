"""A server without keys: names of this machine and its own pages are answered, other sites' are not."""

import httpx
import pytest

from frontend.callers import KeyRing
from frontend.rest.app import build_app
from tests.frontend.fake_inference import FakeInference

BODY = {"model": "m", "prompt": "hi"}


def client(inference: FakeInference, *, origins: tuple[str, ...] = (), local_only: bool = True) -> httpx.AsyncClient:
    app = build_app(
        inference,
        keys=KeyRing(),
        max_body_bytes=1 << 20,
        metrics=lambda: b"",
        cors_origins=origins,
        local_only=local_only,
    )
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1:8000", True),
        ("localhost", True),
        ("[::1]:8000", True),
        ("192.168.0.7:8000", True),
        ("frontend:8000", True),
        ("host.docker.internal:8000", True),
        ("a.localhost:8000", True),
        ("evil.example", False),
        ("evil.example:8000", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example.", False),
        ("[::1", False),
        ("page.example", True),  # whose pages may ask
    ],
)
async def test_who_is_meant(host: str, is_local: bool) -> None:
    async with client(FakeInference(), origins=("https://page.example",)) as asking:
        for path in ("/v1/models", "/debug/requests", "/nowhere"):
            response = await asking.get(path, headers={"host": host})
            assert (response.status_code != 403) is is_local
    async with client(FakeInference(), local_only=False) as asking:
        assert (await asking.get("/v1/models", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    ("origin", "may_ask"),
    [
        (None, True),
        ("http://127.0.0.1:8000", True),
        ("http://localhost:3000", True),
        ("https://page.example", True),
        ("chrome-extension://abc", True),
        ("https://other.example", False),
        ("http://203.0.113.7", False),
        ("null", False),
    ],
)
async def test_who_sends(origin: str | None, may_ask: bool) -> None:
    inference = FakeInference()
    headers = {"host": "127.0.0.1:8000", "content-type": "text/plain", **({"origin": origin} if origin else {})}
    async with client(inference, origins=("https://page.example",)) as asking:
        body = {**BODY, "model": inference.names[0]}
        response = await asking.post("/v1/completions", json=body, headers=headers)
        assert response.status_code == (200 if may_ask else 403)
        assert (len(inference.requests) == 1) is may_ask
        assert (await asking.get("/health", headers=headers)).status_code == 200
