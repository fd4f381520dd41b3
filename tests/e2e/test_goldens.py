"""Through real processes, greedy answers are those of the reference, whatever the roles and the transport."""

import asyncio
from itertools import cycle, islice

import pytest

from tests.e2e.clients import (
    BABYLLAMA,
    STORIES,
    Golden,
    goldens,
    metric,
    model_folder,
    openai_client,
    stream_text,
    until_idle,
)
from tests.e2e.server import Tandem, tandem

STREAMS = 64


async def check(server: Tandem, model: str, rows: list[Golden]) -> None:
    async with openai_client(server) as client:
        streams = (stream_text(client, model, row.prompt, max_tokens=row.answer.num_tokens) for row in rows)
        answers = await asyncio.gather(*streams)
    assert answers == [row.answer for row in rows]


async def test_64_concurrent_streams_over_two_of_each(two_of_each: Tandem) -> None:
    answered = sum(await metric(two_of_each, "tandem_requests_total", outcome="ok"))
    await check(two_of_each, STORIES, list(islice(cycle(goldens(STORIES)), STREAMS)))
    await until_idle(two_of_each, num_workers=4)
    assert await metric(two_of_each, "tandem_requests_total", outcome="ok") == [answered + STREAMS]
    assert sum(await metric(two_of_each, "tandem_router_decisions_total", choice="remote")) > 0, "nobody moved KV"


async def test_long_answers_out_of_the_prefix_caches(two_of_each: Tandem) -> None:
    rows = goldens(STORIES, "golden_long.json")
    for _ in range(2):
        await check(two_of_each, STORIES, rows * 2)


@pytest.mark.slow
async def test_a_unified_server_answers_the_same() -> None:
    with tandem("--model", model_folder(STORIES), "--prefill", "0") as server:
        await check(server, STORIES, goldens(STORIES) * 4 + goldens(STORIES, "golden_long.json"))
        await until_idle(server, num_workers=1)


@pytest.mark.slow
async def test_through_groups_of_torch_distributed() -> None:
    arguments = ("--model", model_folder(BABYLLAMA), "--transport", "gloo", "--prefill", "2", "--log-level", "info")
    with tandem(*arguments, environment={"TANDEM_ALWAYS_REMOTE": "true"}) as server:
        rows = goldens(BABYLLAMA) * 4
        await check(server, BABYLLAMA, rows)
        await until_idle(server, num_workers=3)
        assert await metric(server, "tandem_router_decisions_total", choice="remote") == [len(rows)]
        assert "another way" not in server.log.read_text()


@pytest.mark.slow
async def test_over_tcp_with_every_prompt_moved() -> None:
    arguments = ("--model", model_folder(BABYLLAMA), "--transport", "tcp", "--prefill", "2", "--max-step-tokens", "16")
    with tandem(*arguments, environment={"TANDEM_ALWAYS_REMOTE": "true"}) as server:
        rows = goldens(BABYLLAMA) * 4
        await check(server, BABYLLAMA, rows)
        await until_idle(server, num_workers=3)
        assert await metric(server, "tandem_router_decisions_total", choice="remote") == [len(rows)]
