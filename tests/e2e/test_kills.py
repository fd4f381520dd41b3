"""A worker that is killed: every stream goes on as if nothing had happened, and the worker comes back."""

import asyncio
import random
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import openai
import psutil
import pytest

from tests.e2e.clients import (
    PATIENCE_S,
    STORIES,
    Answer,
    goldens,
    http_client,
    metric,
    model_folder,
    openai_client,
    stream_text,
    until,
    until_idle,
)
from tests.e2e.conftest import StartTandem
from tests.e2e.server import ROOT, Tandem, tandem

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[Tandem]:
    """Two of each, and every prompt is computed on a prefill worker, in many steps."""
    arguments = ("--model", model_folder(STORIES), "--prefill", "2", "--decode", "2", "--max-step-tokens", "16")
    arguments = (*arguments, "--debug-custody")
    with tandem(*arguments, environment={"TANDEM_ALWAYS_REMOTE": "true"}) as running:
        yield running


Ask = tuple[str | list[int], dict[str, object]]
"""A prompt and how it is sampled."""


async def answers(server: Tandem, asks: list[Ask], progress: asyncio.Queue[int] | None = None) -> list[Answer]:
    """Stream them all at once; `progress` hears whose text has grown."""
    async with openai_client(server) as client:
        return await asyncio.gather(
            *(
                stream_text(
                    client,
                    STORIES,
                    prompt,
                    **{"max_tokens": 400, **options},  # type: ignore[arg-type]
                    on_text=(lambda i=i: progress.put_nowait(i)) if progress else lambda: None,  # type: ignore[misc]
                )
                for i, (prompt, options) in enumerate(asks)
            )
        )


async def killed_and_back(server: Tandem, name: str) -> None:
    """Kill the worker of this name, and wait until its process is started again."""
    old = server.processes()[name]
    old.kill()

    async def back() -> bool:
        new = server.processes().get(name)
        return new is not None and new.pid != old.pid

    await until(back, f"{name} was not started again")


def greedy_and_seeded() -> list[Ask]:
    prompts = [golden.prompt for golden in goldens(STORIES)]
    greedy: list[Ask] = [(prompt, {}) for prompt in prompts]
    seeded: list[Ask] = [
        (prompt, {"temperature": 0.9, "top_p": 0.95, "seed": 7 * i}) for i, prompt in enumerate(prompts)
    ]
    return greedy + seeded


async def test_a_decode_worker_mid_stream(server: Tandem) -> None:
    asks = greedy_and_seeded()
    undisturbed = await answers(server, asks)
    for name in ("decode-0", "decode-1"):
        progress: asyncio.Queue[int] = asyncio.Queue()
        retries = sum(await metric(server, "tandem_retries_total"))
        streams = asyncio.create_task(answers(server, asks, progress))
        await until_all_are_at(progress, len(asks), 20)
        await killed_and_back(server, name)
        assert await streams == undisturbed
        assert sum(await metric(server, "tandem_retries_total")) > retries, "nobody was on the worker that was killed"
        await until_idle(server, num_workers=4)


async def test_a_worker_that_falls_silent_and_goes_on_much_later(server: Tandem) -> None:
    """No connection breaks, nothing ends: silence is all that tells.

    Its streams go elsewhere, and so does who comes while it is stopped, long before gRPC's own minute is over; then it
    serves again.
    """
    asks = greedy_and_seeded()
    undisturbed = await answers(server, asks)
    progress: asyncio.Queue[int] = asyncio.Queue()
    retries = sum(await metric(server, "tandem_retries_total"))
    streams = asyncio.create_task(answers(server, asks, progress))
    await until_all_are_at(progress, len(asks), 20)
    silent = server.processes()["decode-0"]
    silent.suspend()
    try:
        late = asyncio.create_task(answers(server, asks))
        async with asyncio.timeout(PATIENCE_S / 2):
            assert await asyncio.gather(streams, late) == [undisturbed] * 2
        assert sum(await metric(server, "tandem_retries_total")) > retries, "nobody was on the worker that was stopped"
    finally:
        silent.resume()
    await until_idle(server, num_workers=4)
    assert await answers(server, asks) == undisturbed


async def test_a_prefill_worker_at_work(server: Tandem) -> None:
    rng = random.Random(0)
    # Each prompt is a new one, so that no prefix cache spares the work.
    asks: list[Ask] = [([1, *(rng.randrange(3, 500) for _ in range(400))], {"max_tokens": 60}) for _ in range(40)]
    retries = sum(await metric(server, "tandem_retries_total"))
    stopped = [server.processes()[name] for name in ("prefill-0", "prefill-1")]
    for process in stopped:  # so that both are certain to have prompts when one of them dies
        process.suspend()
    streams = asyncio.create_task(answers(server, asks))
    await asyncio.sleep(1)
    stopped[1].resume()
    await killed_and_back(server, "prefill-0")
    disturbed = await streams
    assert sum(await metric(server, "tandem_retries_total")) > retries, "nobody was on the worker that was killed"
    await until_idle(server, num_workers=4)
    assert disturbed == await answers(server, asks)


@pytest.mark.parametrize("name", ["decode-0", "prefill-0"])
async def test_the_only_one_of_its_role(tandem_up: StartTandem, name: str) -> None:
    alone = tandem_up("--model", model_folder(STORIES))
    asks = greedy_and_seeded()
    undisturbed = await answers(alone, asks)
    progress: asyncio.Queue[int] = asyncio.Queue()
    streams = asyncio.create_task(answers(alone, asks, progress))
    await until_all_are_at(progress, len(asks), 20)
    await killed_and_back(alone, name)
    assert await streams == undisturbed
    await until_idle(alone, num_workers=2)
    assert await answers(alone, asks) == undisturbed


async def test_nothing_is_left_of_the_killed(server: Tandem) -> None:
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert len(children) == len(server.processes()) == 5


async def until_all_are_at(progress: asyncio.Queue[int], num_streams: int, count: int) -> None:
    """Wait until each stream has sent `count` pieces of text."""
    pieces = [0] * num_streams
    async with asyncio.timeout(PATIENCE_S):
        while min(pieces) < count:
            pieces[await progress.get()] += 1


async def test_a_frontend_that_is_killed_leaves_nothing_and_the_other_goes_on(server: Tandem) -> None:
    """Two frontends share the workers; what one of them owned is freed when it is gone."""
    asks = greedy_and_seeded()
    undisturbed = await answers(server, asks)
    async with another_frontend(server) as other:
        progress: asyncio.Queue[int] = asyncio.Queue()
        theirs = asyncio.create_task(answers(other, asks, progress))
        await until_all_are_at(progress, len(asks), 5)
        ours = asyncio.create_task(answers(server, asks))
        other.process.kill()
        with pytest.raises(openai.APIError):
            await theirs
        assert await ours == undisturbed
    await until_idle(server, num_workers=4)


@asynccontextmanager
async def another_frontend(server: Tandem) -> AsyncIterator[Tandem]:
    async with http_client(server) as client:
        workers = {each["worker_id"]: each["address"] for each in (await client.get("/debug/custody")).json()}
    roles = {
        role: ",".join(a for name, a in workers.items() if name.startswith(role)) for role in ("prefill", "decode")
    }
    http, grpc = free_port(), free_port()
    options = {"model": model_folder(STORIES), **roles, "http-port": http, "grpc-port": grpc, "log-level": "warning"}
    command = [sys.executable, "-m", "frontend", *(f"--{name}={value}" for name, value in options.items())]
    process = subprocess.Popen(command, cwd=ROOT)  # noqa: ASYNC220 - returns at once
    try:
        other = Tandem(process, server.log, f"http://127.0.0.1:{http}", f"127.0.0.1:{grpc}")

        async def ready() -> bool:
            async with http_client(other) as client:
                try:
                    return (await client.get("/ready")).status_code == 200
                except httpx.TransportError:
                    return False

        await until(ready, "the other frontend was not ready")
        yield other
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])
