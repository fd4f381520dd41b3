"""Calls that come while the server is too busy to take them in wait their turn: gRPC cancels none of them."""

import asyncio
import time

import grpc
import pytest

from frontend.callers import KeyRing
from frontend.service import build_server
from protos import generate_pb2 as pb
from protos.generate_pb2_grpc import InferenceStub
from tests.frontend.test_grpc_service import FakeInference

pytestmark = pytest.mark.slow

BUSY_S = 33.0
"""gRPC would cancel after 30 what nobody has taken in."""
NUM_CALLS = 1200
"""From a thousand on it would cancel some at once."""


async def test_none_of_many_is_cancelled_however_long_it_waits() -> None:
    server, _ = build_server(FakeInference(), keys=KeyRing(), max_message_bytes=1 << 20, version="test")  # type: ignore[arg-type]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        calls = asyncio.create_task(asyncio.to_thread(ask, f"127.0.0.1:{port}"))
        await asyncio.sleep(1.0)  # the first are taken in, and the channel is open
        time.sleep(BUSY_S)  # noqa: ASYNC251 - which is the point
        assert [len(answer.models) for answer in await calls] == [1] * NUM_CALLS
    finally:
        await server.stop(None)


def ask(address: str) -> list[pb.ListModelsResponse]:
    with grpc.insecure_channel(address) as channel:
        stub = InferenceStub(channel)
        stub.ListModels(pb.ListModelsRequest(), timeout=60, wait_for_ready=True)
        time.sleep(2.0)  # by now the server is busy
        calls = [stub.ListModels.future(pb.ListModelsRequest(), timeout=120) for _ in range(NUM_CALLS)]
        return [call.result() for call in calls]
