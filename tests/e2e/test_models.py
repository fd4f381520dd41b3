"""Two models behind one `tandem up`: each answers as it does alone, and one stands in while the other has no worker."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest

from protos import generate_pb2 as pb
from tests.e2e.clients import (
    DEMO,
    STORIES,
    chat_request,
    goldens,
    grpc_stub,
    http_client,
    metric,
    model_folder,
    openai_client,
    stream_text,
    until,
    until_idle,
)
from tests.e2e.server import Tandem, tandem

pytestmark = pytest.mark.slow

QUESTION = "What is a KV cache?"
ALIAS = "gpt-4o-mini"


@pytest.fixture(scope="module")
def two() -> Iterator[Tandem]:
    """The stories are the default; the demonstration model stands in for them."""
    models = ("--model", f"{STORIES}={model_folder(STORIES)}", "--model", f"{DEMO}=")
    with tandem(*models, "--fallback", f"{STORIES}={DEMO}", "--model-aliases", f"{DEMO}={ALIAS}") as server:
        yield server


async def test_each_answers_as_it_does_alone(two: Tandem, demo: Tandem) -> None:
    async with openai_client(two) as client, openai_client(demo) as alone:
        for golden in goldens(STORIES):
            answer = await stream_text(client, STORIES, golden.prompt, max_tokens=golden.answer.num_tokens)
            assert answer == golden.answer
        expected = await stream_text(alone, DEMO, QUESTION, max_tokens=40)
        for name in (DEMO, ALIAS):
            assert await stream_text(client, name, QUESTION, max_tokens=40) == expected
        with pytest.raises(openai.NotFoundError) as missing:
            await stream_text(client, "nobody", QUESTION, max_tokens=4)
        assert missing.value.code == "model_not_found"
    async with grpc_stub(two) as ours, grpc_stub(demo) as theirs:
        request = chat_request(QUESTION, 20)
        said = [event.delta.text async for event in theirs.Generate(request)]
        request.model = ALIAS
        assert "".join([event.delta.text async for event in ours.Generate(request)]) == "".join(said)
        assert [model.name for model in (await ours.ListModels(pb.ListModelsRequest())).models] == [
            STORIES,
            DEMO,
            ALIAS,
        ]
    await until_idle(two, num_workers=4)


async def test_one_stands_in_while_the_other_has_no_worker(two: Tandem) -> None:
    async with http_client(two) as http, openai_client(two) as client:
        expected = await client.completions.create(model=DEMO, prompt="Once", max_tokens=8, temperature=0.0)
        with silent(two, "decode-0"):
            await until_ready(http, {STORIES: False, DEMO: True})
            assert (await http.get("/ready")).status_code == 503, "the default has no worker"
            instead = await client.completions.create(model=STORIES, prompt="Once", max_tokens=8, temperature=0.0)
            assert (instead.model, instead.choices[0].text) == (DEMO, expected.choices[0].text)
            with pytest.raises(openai.InternalServerError) as unavailable:
                await client.completions.create(model=STORIES, prompt=[1, 400], max_tokens=4)
            assert unavailable.value.status_code == 503
        await until_ready(http, {STORIES: True, DEMO: True})
        own = await client.completions.create(model=STORIES, prompt="Once", max_tokens=8, temperature=0.0)
        assert own.model == STORIES
        assert own.choices[0].text != expected.choices[0].text
    await until_idle(two, num_workers=4)


@contextmanager
def silent(server: Tandem, worker: str) -> Iterator[None]:
    """It is stopped, and says nothing."""
    process = server.processes()[worker]
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


async def until_ready(http: httpx.AsyncClient, wanted: dict[str, bool]) -> None:
    seen: dict[str, Any] = {}

    async def is_so() -> bool:
        seen.update((await http.get("/debug/status")).json())
        return {model["name"]: model["ready"] for model in seen["served"]} == wanted

    await until(is_so, seen)


async def test_what_was_used_adds_up(two: Tandem) -> None:
    async with http_client(two) as http, openai_client(two) as client:
        before = await used(http)
        usages = {STORIES: [0, 0, 0], DEMO: [0, 0, 0]}
        for name, answers, num_tokens in ((STORIES, STORIES, 7), (DEMO, DEMO, 5), (ALIAS, DEMO, 3)):
            answer = await client.completions.create(model=name, prompt="Once upon a time", max_tokens=num_tokens)
            assert answer.usage is not None
            given = (1, answer.usage.prompt_tokens, answer.usage.completion_tokens)
            usages[answers] = [a + b for a, b in zip(usages[answers], given, strict=True)]

        async def counted() -> bool:
            now = await used(http)
            return {name: [a - b for a, b in zip(now[name], before[name], strict=True)] for name in now} == usages

        await until(counted, usages)
        exposed = (await http.get("/usage/metrics")).text
    now = dict(line.rsplit(" ", 1) for line in exposed.splitlines() if not line.startswith("#"))
    assert float(now[f'tandem_key_requests_total{{key="",model="{DEMO}"}}']) >= 2
    assert await metric(two, "tandem_model_ready", model=DEMO) == [1]


async def used(http: httpx.AsyncClient) -> dict[str, list[int]]:
    """Requests, tokens in and tokens out, by model."""
    found = {STORIES: [0, 0, 0], DEMO: [0, 0, 0]}
    for row in (await http.get("/usage")).json()["used"]:
        found[row["model"]] = [row["requests"], row["prompt_tokens"], row["completion_tokens"]]
    return found
