"""The first SIGTERM: who is being answered is answered to the end, who comes now is sent away, nothing is left."""

import asyncio
import signal

import grpc
import grpc.aio
import pytest
from openai import APIError

from tests.e2e.clients import (
    DEMO,
    PATIENCE_S,
    Answer,
    endless_request,
    grpc_stub,
    http_client,
    openai_client,
    read_to_end,
    stream_text,
    until,
)
from tests.e2e.server import Tandem, tandem

pytestmark = pytest.mark.slow

LEFT_STATUS = 130
"""Of a server that was told to leave without draining."""
STREAMS = 16
MAX_TOKENS = 600
"""Enough for the answers to outlast the questions that are asked meanwhile."""


async def test_streams_end_and_newcomers_are_refused() -> None:
    with tandem("--drain-timeout", "80") as server:
        processes = server.processes()
        async with asyncio.TaskGroup() as tasks, openai_client(server) as client:
            begun = [asyncio.Event() for _ in range(STREAMS)]
            streams = [
                tasks.create_task(
                    stream_text(client, DEMO, f"Question {i}", max_tokens=MAX_TOKENS, on_text=begun[i].set)
                )
                for i in range(STREAMS)
            ]
            async with asyncio.timeout(PATIENCE_S):
                for event in begun:
                    await event.wait()
            server.process.send_signal(signal.SIGTERM)
            await until_draining(server)
            await refuses_newcomers(server)
            assert not any(stream.done() for stream in streams), "too late to tell"
            answers = await asyncio.gather(*streams)
        assert [(answer.num_tokens, answer.finish) for answer in answers] == [(MAX_TOKENS, "length")] * STREAMS
        await asyncio.to_thread(server.wait_for_its_end, processes)


async def test_streams_that_outlast_the_drain_are_told_so() -> None:
    with tandem("--drain-timeout", "5") as server:
        processes = server.processes()
        async with openai_client(server) as client, grpc_stub(server) as stub:
            begun = asyncio.Event()
            stream = asyncio.create_task(stream_text(client, DEMO, "Question", max_tokens=3500, on_text=begun.set))
            call = stub.Generate(endless_request([5], 3500))
            async with asyncio.timeout(PATIENCE_S):
                await call.read()
                await begun.wait()
                processes["decode-0"].suspend()  # so that no answer ends in time
                server.process.send_signal(signal.SIGTERM)
                with pytest.raises(APIError, match="shutting down") as told:
                    await stream
                with pytest.raises(grpc.aio.AioRpcError, match="shutting down") as ended:
                    await read_to_end(call)
                processes["decode-0"].resume()
        assert told.value.type == "server_error"
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "grpc-status-details-bin" in dict(ended.value.trailing_metadata())
        await asyncio.to_thread(server.wait_for_its_end, processes)


async def until_draining(server: Tandem) -> None:
    async def draining() -> bool:
        return (await http.get("/ready")).status_code == 503

    async with http_client(server) as http:
        await until(draining, "it is still ready")


async def refuses_newcomers(server: Tandem) -> None:
    async with http_client(server) as http:
        body = {"model": DEMO, "prompt": "Hello", "max_tokens": 4}
        for stream in (False, True):
            refusal = await http.post("/v1/completions", json={**body, "stream": stream})
            assert (refusal.status_code, refusal.json()["error"]["type"]) == (503, "server_error")
        assert (await http.get("/health")).status_code == 200
    async with grpc_stub(server) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            async for _ in stub.Generate(endless_request([5], 4)):
                pass
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_second_signal_leaves_at_once() -> None:
    with tandem() as server:
        processes = server.processes()
        async with openai_client(server) as client:
            begun = asyncio.Event()
            stream = asyncio.create_task(stream_text(client, DEMO, "Question", max_tokens=3000, on_text=begun.set))
            await asyncio.wait_for(begun.wait(), PATIENCE_S)
            server.process.send_signal(signal.SIGTERM)
            await until_draining(server)
            server.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(server.wait_for_its_end, processes, LEFT_STATUS)
            (outcome,) = await asyncio.gather(stream, return_exceptions=True)
        assert not isinstance(outcome, Answer), "it had ended before"
