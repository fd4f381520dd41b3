"""A worker that dies while a prompt is computed, as the client of a real server is told of it."""

import asyncio
import json

import pytest

from tests.e2e.clients import DEMO, http_client, until
from tests.e2e.server import tandem

pytestmark = pytest.mark.slow

PROMPT = [10 + i * 7 % 1900 for i in range(3500)]
BODY = {"model": DEMO, "prompt": PROMPT, "max_tokens": 8, "ignore_eos": True, "stream": True}


async def test_a_decode_worker_that_is_killed_and_comes_back() -> None:
    """The only one there is: the request waits for its next start."""
    arguments = ("--max-step-tokens", "16", "--max-context", "4000")
    with tandem(*arguments, environment={"TANDEM_ALWAYS_REMOTE": "true"}) as server:
        async with http_client(server, headers={"x-tandem-timing": "1"}) as http:

            async def placed() -> bool:
                status = (await http.get("/debug/status")).json()
                return bool(status["decisions"])

            async def ask() -> dict[str, object]:
                async with http.stream("POST", "/v1/completions", json=BODY) as response:
                    assert response.status_code == 200
                    lines = [line async for line in response.aiter_lines() if line.startswith("data: {")]
                timing: dict[str, object] = json.loads(lines[-1].removeprefix("data: "))["timing"]
                return timing

            answer = asyncio.create_task(ask())
            await until(placed, "no worker has taken it")
            server.processes()["decode-0"].kill()
            timing = await answer
            metrics = (await http.get("/metrics")).text
    segments = timing["segments"]
    assert isinstance(segments, dict)
    assert sum(segments.values()) == pytest.approx(timing["ttft_ms"], abs=1.0)
    assert max(segments, key=lambda name: float(segments[name])) == "retry", segments
    assert "tandem_retries_total 0.0" not in metrics
