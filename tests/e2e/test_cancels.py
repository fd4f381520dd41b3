"""A thousand requests, most of them dropped at some moment or other: nobody holds anything afterwards."""

import asyncio
import random
from collections.abc import Callable, Coroutine

import httpx
import pytest

from protos import generate_pb2 as pb
from protos import generate_pb2_grpc
from tests.e2e.clients import (
    PATIENCE_S,
    STORIES,
    goldens,
    grpc_stub,
    http_client,
    metric,
    model_folder,
    openai_client,
    stream_text,
    until_idle,
)
from tests.e2e.server import Tandem, tandem

pytestmark = pytest.mark.slow

REQUESTS = 1000
AT_ONCE = 48
# Little memory: requests wait, sequences are preempted, cached blocks are evicted. Chunks are small, so that there is
# much to break off.
TIGHT = ("--block-tokens", "8", "--num-blocks", "160", "--max-step-tokens", "32", "--max-sequences", "12")

Request = Callable[[random.Random], Coroutine[None, None, bool]]
"""Asks for something and drops it at some moment; True if the answer was heard to its end."""


@pytest.mark.parametrize("always_remote", ["true", "false"])
async def test_a_thousand_requests_with_random_cancels(always_remote: str) -> None:
    arguments = ("--model", model_folder(STORIES), "--prefill", "2", "--decode", "2", *TIGHT)
    environment = {"TANDEM_ALWAYS_REMOTE": always_remote, "TANDEM_DEBUG_CUSTODY": "true"}
    with tandem(*arguments, environment=environment) as server:
        async with http_client(server, limits=httpx.Limits(max_connections=None)) as http, grpc_stub(server) as stub:
            heard = await storm(random.Random(5), [rest(http), generate(stub)])
        assert 0 < heard < REQUESTS
        await until_idle(server, num_workers=4)
        await still_works(server)
        assert await metric(server, "tandem_requests_in_flight") == [0]
        assert await metric(server, "tandem_queued_requests") == [0]
        assert await metric(server, "tandem_kv_blocks_leaked") == [0]
        assert await metric(server, "tandem_worker_kv_blocks_leaked") == [0] * 4


async def storm(rng: random.Random, kinds: list[Request]) -> int:
    """Make all requests, so many at once; answer how many were heard to their end."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(ask: Request, seed: int) -> bool:
        async with turns:
            return await ask(random.Random(seed))

    return sum(await asyncio.gather(*(one(rng.choice(kinds), rng.randrange(1 << 30)) for _ in range(REQUESTS))))


async def dropped(rng: random.Random, hear: Callable[[int], Coroutine[None, None, bool]]) -> bool:
    """Hear all of it, or up to some event, or up to some moment."""
    match rng.randrange(5):
        case 0:
            return await hear(1 << 30)
        case 1 | 2:
            return await hear(rng.randrange(1, 40))
        case _:
            try:
                async with asyncio.timeout(rng.uniform(0, 0.3)):
                    return await hear(1 << 30)
            except TimeoutError:
                return False


def rest(http: httpx.AsyncClient) -> Request:
    async def ask(rng: random.Random) -> bool:
        stream = rng.random() < 0.8
        body = {**fields(rng), "model": STORIES, "prompt": prompt(rng), "stream": stream, "ignore_eos": True}

        async def hear(num_lines: int) -> bool:
            async with http.stream("POST", "/v1/completions", json=body) as response:
                assert response.status_code == 200, await response.aread()
                async for line in response.aiter_lines():
                    assert '"error"' not in line, line
                    num_lines -= 1
                    if not num_lines:
                        return False
            return True

        return await dropped(rng, hear)

    return ask


def generate(stub: generate_pb2_grpc.InferenceStub) -> Request:
    async def ask(rng: random.Random) -> bool:
        given = fields(rng)
        request = pb.GenerateRequest(
            token_ids=pb.TokenIds(ids=prompt(rng)),
            sampling=pb.Sampling(temperature=given["temperature"]),
            stopping=pb.Stopping(max_tokens=int(given["max_tokens"]), ignore_eos=True),
        )

        async def hear(num_events: int) -> bool:
            call = stub.Generate(request, timeout=PATIENCE_S)
            try:
                async for _ in call:
                    num_events -= 1
                    if not num_events:
                        return False
            finally:
                call.cancel()
            return True

        return await dropped(rng, hear)

    return ask


def fields(rng: random.Random) -> dict[str, float]:
    return {"max_tokens": rng.randrange(1, 120), "temperature": rng.choice([0.0, 0.8])}


def prompt(rng: random.Random) -> list[int]:
    """Often with a beginning that others have too."""
    shared = [1, *range(100, 100 + rng.choice([0, 16, 40]))]
    return shared + [rng.randrange(3, 500) for _ in range(rng.randrange(1, rng.choice([8, 300])))]


async def still_works(server: Tandem) -> None:
    async with openai_client(server) as client:
        for row in goldens(STORIES):
            answer = await stream_text(client, STORIES, row.prompt, max_tokens=row.answer.num_tokens)
            assert answer == row.answer
    await until_idle(server, num_workers=4)
