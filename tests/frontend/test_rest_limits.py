"""What a caller has left, as OpenAI's clients are told of it."""

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest

from frontend.callers import Allowance, Left, UsedUp
from frontend.events import Event, Started
from frontend.request import GenerateRequest
from frontend.rest.openai.limits import limit_headers
from tests.frontend.fake_inference import MODEL, FakeInference
from tests.frontend.test_rest_app import rest_client


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.0195, "20ms"), (1, "1s"), (1.42, "1.5s"), (59.9, "59.9s"), (60, "1m0s"), (361.2, "6m1s")],
)
def test_durations(seconds: float, text: str) -> None:
    assert limit_headers(Allowance(requests=Left(5, 1.9, seconds))) == {
        "x-ratelimit-limit-requests": "5",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": text,
    }


class Limited(FakeInference):
    """Everybody has the same left."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        async for event in super().generate(request):
            if isinstance(event, Started):
                event = replace(event, allowance=Allowance(Left(10, 9, 6), Left(1000, 750, 15)))
            yield event


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/responses", {"input": "hi"}),
    ],
)
async def test_every_answer_tells(path: str, body: dict[str, Any], stream: bool) -> None:
    expected = {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "6s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "750",
        "x-ratelimit-reset-tokens": "15s",
    }
    asked = {"model": MODEL, "stream": stream, **body}
    async with rest_client(Limited()) as client:
        response = await client.post(path, json=asked)
        assert {name: response.headers[name] for name in expected} == expected
    async with rest_client(FakeInference()) as client:
        response = await client.post(path, json=asked)
        assert not [name for name in response.headers if name.startswith("x-ratelimit")]


async def test_a_refusal_tells_too() -> None:
    used_up = UsedUp("no more", retry_after_s=3, limit="key_requests", allowance=Allowance(Left(10, 0, 6)))
    async with rest_client(FakeInference([used_up])) as client:
        response = await client.post("/v1/completions", json={"model": MODEL, "prompt": "hi"})
    assert (response.status_code, response.headers["retry-after"]) == (429, "3")
    assert response.headers["x-ratelimit-remaining-requests"] == "0"
    assert response.json()["error"]["code"] == "rate_limit_exceeded"
