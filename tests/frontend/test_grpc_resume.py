"""Resuming over gRPC: a client that lost its call has the whole answer, once; nothing is kept longer than asked."""

import asyncio
from collections.abc import AsyncGenerator

import grpc
import grpc.aio
import pytest

from engine.errors import Unavailable
from frontend.api import Inference
from frontend.callers import ANYBODY, Caller
from frontend.events import Delta, Event
from frontend.request import GenerateRequest
from frontend.resumption import Resumption
from protos import generate_pb2 as pb
from tests.frontend.test_grpc_service import FINISHED, STARTED, FakeInference, Served, served


class Slow(FakeInference):
    """Comes to the second half of its answer when it is told to."""

    def __init__(self) -> None:
        super().__init__([STARTED, Delta("Hel", (1,), 0), Delta("lo", (2, 3), 1)])
        self.go_on = asyncio.Event()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        async for event in super().generate(request):
            yield event
        self.closed.clear()
        try:
            await self.go_on.wait()
            yield Delta("!", (4,), 3)
            yield FINISHED
        finally:
            self.closed.set()


def asked(grace_ms: int = 30_000) -> pb.GenerateRequest:
    return pb.GenerateRequest(text="hi", resume_grace_ms=grace_ms)


async def lost_after(server: Served, num_messages: int, request: pb.GenerateRequest) -> list[pb.GenerateResponse]:
    """Read so many messages, then lose the call."""
    call = server.stub.Generate(request)
    read = [await call.read() for _ in range(num_messages)]
    call.cancel()
    return read


async def resumed(server: Served, next_index: int, request_id: str = "req-1") -> list[pb.GenerateResponse]:
    return [r async for r in server.stub.Resume(pb.ResumeRequest(request_id=request_id, next_index=next_index))]


def texts(responses: list[pb.GenerateResponse]) -> list[str]:
    return [response.delta.text for response in responses if response.HasField("delta")]


@pytest.mark.parametrize(("num_messages", "next_index", "missing"), [(1, 0, 3), (2, 1, 2), (3, 3, 1)])
async def test_a_call_that_was_lost_goes_on_without_a_gap_or_a_repeat(
    num_messages: int, next_index: int, missing: int
) -> None:
    inference = Slow()
    async with served(inference) as server:
        read = await lost_after(server, num_messages, asked())
        rest = asyncio.create_task(resumed(server, next_index))
        await asyncio.sleep(0.05)
        assert not inference.closed.is_set(), "it is made on"
        inference.go_on.set()
        rest_read = await asyncio.wait_for(rest, 10)
        assert len(texts(rest_read)) == missing
        assert "".join(texts([*read, *rest_read])) == "Hello!"
        assert rest_read[-1].finished.usage.completion_tokens == 2
        assert texts(await resumed(server, 3)) == ["!"], "the end itself may have been lost"


async def test_the_answer_grows_while_nobody_reads() -> None:
    inference = Slow()
    async with served(inference) as server:
        await lost_after(server, 1, asked())
        inference.go_on.set()
        await asyncio.wait_for(inference.closed.wait(), 10)
        assert texts(await resumed(server, 0)) == ["Hel", "lo", "!"]


async def test_after_the_grace_it_is_aborted_and_forgotten() -> None:
    inference = Slow()
    async with served(inference) as server:
        await lost_after(server, 3, asked(grace_ms=50))
        await asyncio.wait_for(inference.closed.wait(), 10)
        await refused(server, grpc.StatusCode.NOT_FOUND)


async def test_who_resumes_in_time_stops_the_clock() -> None:
    inference = Slow()
    async with served(inference) as server:
        await lost_after(server, 3, asked(grace_ms=300))
        rest = asyncio.create_task(resumed(server, 3))
        await asyncio.sleep(0.6)
        assert not inference.closed.is_set()
        inference.go_on.set()
        assert texts(await asyncio.wait_for(rest, 10)) == ["!"]


async def test_without_a_grace_a_lost_call_is_the_end() -> None:
    inference = Slow()
    async with served(inference) as server:
        await lost_after(server, 3, pb.GenerateRequest(text="hi"))
        await asyncio.wait_for(inference.closed.wait(), 10)
        await refused(server, grpc.StatusCode.NOT_FOUND)


async def cancel(server: Served, request_id: str = "req-1") -> None:
    await server.stub.Cancel(pb.CancelRequest(request_id=request_id))


async def test_who_asked_may_end_it_before_its_grace_is_over() -> None:
    inference = Slow()
    async with served(inference) as server:
        await lost_after(server, 3, asked())
        await cancel(server)
        await asyncio.wait_for(inference.closed.wait(), 10)
        await refused(server, grpc.StatusCode.NOT_FOUND)
        with pytest.raises(grpc.aio.AioRpcError, match="no answer of 'req-1' is kept here"):
            await cancel(server)


async def test_who_reads_what_is_cancelled_hears_of_it() -> None:
    async with served(Slow()) as server:
        call = server.stub.Generate(asked())
        for _ in range(3):
            await call.read()
        await cancel(server)
        with pytest.raises(grpc.aio.AioRpcError, match="'req-1' was cancelled") as failure:
            await call.read()
        assert failure.value.code() is grpc.StatusCode.NOT_FOUND


async def test_what_had_not_started_ends_with_its_call() -> None:
    class Waiting(FakeInference):
        asked = asyncio.Event()

        async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
            self.asked.set()
            async for event in super().generate(request):
                yield event

    inference = Waiting([None])
    async with served(inference) as server:
        call = server.stub.Generate(asked())
        await inference.asked.wait()
        call.cancel()
        await asyncio.wait_for(inference.closed.wait(), 10)


async def refused(server: Served, code: grpc.StatusCode, next_index: int = 0, request_id: str = "req-1") -> str:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await resumed(server, next_index, request_id)
    assert failure.value.code() is code
    return str(failure.value.details())


@pytest.mark.parametrize("next_index", [2, 4, -1, 100])
async def test_a_token_at_which_no_delta_begins_is_refused(next_index: int) -> None:
    async with served(Slow()) as server:
        await lost_after(server, 3, asked())
        assert "next_index" in await refused(server, grpc.StatusCode.INVALID_ARGUMENT, next_index)


async def test_what_never_was_is_not_found() -> None:
    async with served(Slow()) as server:
        await refused(server, grpc.StatusCode.NOT_FOUND, request_id="req-2")


async def test_a_longer_grace_than_there_is_is_refused_by_name() -> None:
    async with served(FakeInference()) as server:
        with pytest.raises(grpc.aio.AioRpcError, match="resume_grace_ms is at most 30000") as failure:
            await server.stub.Generate(asked(grace_ms=30_001)).read()
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_what_fails_fails_for_who_resumes_too() -> None:
    inference = FakeInference([STARTED, Delta("Hel", (1,), 0), Unavailable("gone")])
    async with served(inference) as server:
        await lost_after(server, 1, asked())
        assert await refused(server, grpc.StatusCode.UNAVAILABLE) == "gone"


async def test_what_is_refused_before_it_starts_is_refused_as_ever() -> None:
    async with served(FakeInference([Unavailable("nobody there")])) as server:
        with pytest.raises(grpc.aio.AioRpcError, match="nobody there"):
            await server.stub.Generate(asked()).read()
        await refused(server, grpc.StatusCode.NOT_FOUND)


async def test_an_answer_is_its_callers_alone() -> None:
    inference: Inference = Slow()
    resumption = Resumption(inference, 30.0)
    mine = resumption.generate(GenerateRequest(prompt="hi", caller=Caller("me")), 30.0)
    assert await anext(mine) == STARTED
    await mine.aclose()
    for other in (ANYBODY, Caller("you")):
        with pytest.raises(Exception, match="no answer of 'req-1' is kept here"):
            resumption.resume(other, "req-1", 0)
        with pytest.raises(Exception, match="no answer of 'req-1' is kept here"):
            resumption.cancel(other, "req-1")
    again = resumption.resume(Caller("me", requests_per_minute=5), "req-1", 1)  # the file of keys has changed
    assert (await anext(again)).token_ids == (2, 3)  # type: ignore[union-attr]
    await again.aclose()
