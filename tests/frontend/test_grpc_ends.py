import grpc
import grpc.aio
import pytest

from frontend.events import Delta
from protos import generate_pb2 as pb
from tests.frontend.test_grpc_service import ANSWER, FINISHED, STARTED, FakeInference, generate, served


async def test_a_deadline_that_passes_closes_the_generator() -> None:
    inference = FakeInference([STARTED, None])
    async with served(inference) as server:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            _ = [r async for r in server.stub.Generate(pb.GenerateRequest(text="hi"), timeout=0.3)]
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await inference.closed.wait()


async def test_cancelling_the_call_closes_the_generator() -> None:
    inference = FakeInference([STARTED, None])
    async with served(inference) as server:
        call = server.stub.Generate(pb.GenerateRequest(text="hi"))
        assert (await call.read()).started.request_id == "req-1"
        call.cancel()
        await inference.closed.wait()
        inference.script = ANSWER
        assert len(await generate(server)) == 4


async def test_a_client_that_vanishes_closes_the_generator() -> None:
    inference = FakeInference([STARTED, None])
    async with served(inference) as server:
        call = server.stub.Generate(pb.GenerateRequest(text="hi"))
        await call.read()
        await server.channel.close(None)
        await inference.closed.wait()


async def test_a_client_that_leaves_a_flood_unread_closes_the_generator(caplog: pytest.LogCaptureFixture) -> None:
    inference = FakeInference([STARTED, *(Delta("x" * 10_000, (1,), i) for i in range(2_000))])
    async with served(inference) as server:
        call = server.stub.Generate(pb.GenerateRequest(text="hi"))
        await call.read()
        call.cancel()
        await inference.closed.wait()
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_large_requests_and_answers_pass() -> None:
    inference = FakeInference([STARTED, Delta("y" * 6_000_000, tuple(range(100)), 0), FINISHED])
    async with served(inference) as server:
        responses = await generate(server, pb.GenerateRequest(text="x" * 6_000_000))

    assert len(responses[1].delta.text) == 6_000_000
    assert inference.requests[0].prompt == "x" * 6_000_000


async def test_a_request_that_is_too_large_is_refused() -> None:
    async with served(FakeInference(), max_message_bytes=1_000) as server:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await generate(server, pb.GenerateRequest(text="x" * 2_000))
        assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(await generate(server)) == 4
