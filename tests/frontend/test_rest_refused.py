"""Whoever is refused for want of room hears when to come again, his place and the prediction, in every dialect."""

import pytest

from engine.errors import Overloaded
from tests.frontend.fake_inference import FakeInference
from tests.frontend.test_rest_app import rest_client

USER = {"role": "user", "content": "hi"}
CHAT = {"messages": [USER]}
PATHS = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/embeddings": {"input": "hi"},
    "/invocations": CHAT,
    "/v1/messages": {**CHAT, "max_tokens": 5},
    "/api/chat": CHAT,
    "/api/generate": {"prompt": "hi"},
    "/api/embed": {"input": "hi"},
    "/generate": {"inputs": "hi"},
    "/generate_stream": {"inputs": "hi"},
    "/completion": {"prompt": "hi"},
}


@pytest.mark.parametrize("path", PATHS)
async def test_every_dialect_takes_a_deadline(path: str) -> None:
    inference = FakeInference([Overloaded("full", retry_after_s=1)])
    body = {**PATHS[path]} if path.startswith("/generate") else {"model": inference.names[0], **PATHS[path]}
    async with rest_client(inference) as client:
        await client.post(path, json=body, headers={"x-tandem-deadline-ms": "1500"})
        await client.post(path, json=body)
        assert [request.deadline_s for request in inference.requests] == [1.5, None]
        for wrong in ("0", "-1", "1.5", "soon", "1" * 10, ""):
            response = await client.post(path, json=body, headers={"x-tandem-deadline-ms": wrong})
            assert response.status_code in (400, 422), wrong
            assert "x-tandem-deadline-ms is whole milliseconds" in response.text
    assert len(inference.requests) == 2


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
async def test_refusals_say_when_to_come_again(path: str, stream: bool) -> None:
    full = Overloaded("full", retry_after_s=2.2, queue_position=7, predicted_ttft_s=1.2345)
    inference = FakeInference([full])
    body = {"model": inference.names[0], **PATHS[path], **({"stream": True} if stream else {})}
    if path.startswith("/generate"):
        del body["model"]
        body.pop("stream", None)
    if "embed" in path:
        body.pop("stream", None)
    async with rest_client(inference) as client:
        response = await client.post(path, json=body)
    assert response.status_code == 429, response.text
    told = {name: response.headers.get(name) for name in ("retry-after", "retry-after-ms")}
    assert told == {"retry-after": "3", "retry-after-ms": "2200"}
    assert response.headers["x-tandem-queue-position"] == "7"
    assert response.headers["x-tandem-predicted-ttft-ms"] == "1234"
