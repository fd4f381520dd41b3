"""Connections that break on purpose: the answer goes on, without a gap and without a repeat, or is told to be lost."""

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest

from frontend.request import GenerateRequest
from tandem_client import ConnectionLost, pb, text
from tandem_client.channel import method
from tests.cluster import cluster
from tests.frontend.fake_inference import FakeInference, say
from tests.proxy import Proxy
from tests.shared_data import shared_data
from tests.tandem_client.serving import client_of, serving

KINDS = ["blocking", "asyncio"]


def in_two() -> tuple[FakeInference, asyncio.Event]:
    """Comes to the second half of its answer when it is told to."""
    go_on = asyncio.Event()
    first, second, *rest = say("Hel", "lo", "!")
    return FakeInference([first, second, go_on, *rest]), go_on


class Cutting:
    """Cuts the connection after parts of these numbers, and lets the answer go on."""

    def __init__(self, between: Proxy, *numbers: int, go_on: asyncio.Event | None = None) -> None:
        self._between, self._numbers, self._go_on = between, numbers, go_on

    def __call__(self, number: int) -> None:
        if number in self._numbers:
            self._between.cut()
            if self._go_on:
                self._go_on.set()


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_outlives_its_connection(kind: str, tmp_path: Path) -> None:
    inference, go_on = in_two()
    async with serving(inference, tmp_path) as (address, between), client_of(kind, address) as client:
        answer = await client.follow(text("hi"), Cutting(between, 2, go_on=go_on))
    assert (answer.text, bytes(answer.token_ids)) == ("Hello!", b"Hello!")
    assert answer.usage.completion_tokens == 6
    assert (len(inference.requests), between.num_connections) == (1, 2)


@pytest.mark.parametrize("kind", KINDS)
async def test_without_a_grace_it_does_not(kind: str, tmp_path: Path) -> None:
    inference, _ = in_two()
    async with serving(inference, tmp_path) as (address, between), client_of(kind, address) as client:
        with pytest.raises(ConnectionLost) as failure:
            await client.follow(text("hi", resume_grace_s=0), Cutting(between, 2))
        assert failure.value.request_id == "req-1"
        await asyncio.wait_for(inference.idle.wait(), 10)
    assert len(inference.requests) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_what_the_server_has_forgotten_is_lost(kind: str, tmp_path: Path) -> None:
    inference, _ = in_two()
    async with serving(inference, tmp_path) as (address, between), client_of(kind, address) as client:
        forgetting: list[asyncio.Task[None]] = []

        def forget(number: int) -> None:
            if number == 2:
                between.cut()
                forgetting.append(asyncio.create_task(cancel(f"unix:{tmp_path}/server", "req-1")))

        with pytest.raises(ConnectionLost, match="'req-1'") as failure:
            await client.follow(text("hi"), forget)
        assert failure.value.code is grpc.StatusCode.NOT_FOUND
        await asyncio.gather(*forgetting)


async def cancel(address: str, request_id: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        await method(channel, "Cancel")(pb.CancelRequest(request_id=request_id))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_that_does_not_come_back(kind: str, tmp_path: Path) -> None:
    inference, _ = in_two()
    numbers: asyncio.Queue[int] = asyncio.Queue()
    async with client_of(kind, f"unix:{tmp_path}/proxy") as client:
        async with serving(inference, tmp_path):
            reading = asyncio.create_task(client.follow(text("hi", resume_grace_s=0.3), numbers.put_nowait))
            assert [await numbers.get(), await numbers.get()] == [1, 2]
        with pytest.raises(ConnectionLost):
            await asyncio.wait_for(reading, 30)


@pytest.mark.parametrize("kind", KINDS)
async def test_calls_that_are_lost_before_they_began_are_made_again(kind: str, tmp_path: Path) -> None:
    wait = asyncio.Event()
    inference = FakeInference(scripts=[[wait]])
    async with serving(inference, tmp_path) as (address, between), client_of(kind, address) as client:
        asking = asyncio.create_task(client.ask("generate", text("hi")))
        await inference.began.acquire()
        between.cut()
        assert (await asking).text == "Hello!"
    assert len(inference.requests) == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_answers_of_real_workers_have_no_gap_and_no_repeat(kind: str, tmp_path: Path) -> None:
    async with cluster(shared_data("models", "stories260K")) as running:
        asked = {"temperature": 0.0, "max_tokens": 400, "ignore_eos": True}
        wanted = await running.complete(GenerateRequest(prompt="Once upon a time", **asked))
        request = text("Once upon a time", **asked)
        async with serving(running.inference, tmp_path) as (address, between), client_of(kind, address) as client:
            answer = await client.follow(request, Cutting(between, 1, 20, 40))
        assert answer.token_ids == wanted.token_ids
        assert answer.text == wanted.text
        assert answer.usage.completion_tokens == 400
        assert between.num_connections >= 2
