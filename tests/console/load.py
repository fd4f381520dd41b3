"""Requests of several kinds, so that a console has something to show: short and long, failed, many at once."""

import asyncio
import secrets
import time
from typing import Any

import httpx

QUESTIONS = ("What is a KV cache?", "Why are prefill and decode separate?", "What is a ticket?", "What is a block?")


async def load(url: str, key: str = "", *, seconds: float, at_once: int = 6, max_tokens: int = 48) -> None:
    """Streams side by side for so long, each in a trace of its own; every few one is refused."""
    deadline = time.monotonic() + seconds
    headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def ask(client: httpx.AsyncClient, lane: int) -> None:
        number = lane
        while time.monotonic() < deadline:
            number += at_once
            question = f"{number} {QUESTIONS[number % len(QUESTIONS)]} " * (1 + 9 * (number % 4))
            await complete(client, question, max_tokens=max_tokens)
            if lane == 0 and number // at_once % 8 == 1:
                await complete(client, question, max_tokens=1_000_000)

    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120, trust_env=False) as client:
        await asyncio.gather(*(ask(client, lane) for lane in range(at_once)))


async def complete(client: httpx.AsyncClient, question: str, **parameters: object) -> None:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": question}], "ignore_eos": True, **parameters}
    headers = {"traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"}
    answered = await client.post("/v1/chat/completions", json={"model": "tandem-demo", **body}, headers=headers)
    assert answered.status_code in (200, 400), answered.text
