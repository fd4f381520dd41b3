"""tandem.v1.Inference, health and reflection of a real server, over the generated client and without it."""

import json
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from protos import generate_pb2 as pb
from tests.e2e.clients import (
    DEMO,
    GRPC_OPTIONS,
    PATIENCE_S,
    chat_request,
    endless_request,
    grpc_stub,
    openai_client,
    until_idle,
)
from tests.e2e.server import Tandem

QUESTION = "What is a KV cache?"
MAX_TOKENS = 48


async def openai_answer(server: Tandem) -> str:
    async with openai_client(server) as client:
        answer = await client.chat.completions.create(
            model=DEMO, messages=[{"role": "user", "content": QUESTION}], temperature=0.0, max_tokens=MAX_TOKENS
        )
    assert answer.choices[0].message.content
    return answer.choices[0].message.content


async def test_the_generated_client(demo: Tandem) -> None:
    async with grpc_stub(demo) as stub:
        call = stub.Generate(chat_request(QUESTION, MAX_TOKENS))
        events = [event async for event in call]
        initial, trailing = dict(await call.initial_metadata()), dict(await call.trailing_metadata())

    started, *deltas, finished = [getattr(event, event.WhichOneof("event")) for event in events]
    assert started.model == DEMO
    assert initial["x-request-id"] == started.request_id
    assert "".join(delta.text for delta in deltas) == await openai_answer(demo)
    numbers = [delta.first_index + i for delta in deltas for i in range(len(delta.token_ids))]
    assert numbers == list(range(finished.usage.completion_tokens))
    assert finished.usage.prompt_tokens == started.prompt_tokens
    ledger = json.loads(trailing["tandem-timing"])
    assert ledger["ttft_ms"] == pytest.approx(finished.timing.ttft_ms, abs=0.001)
    assert sum(ledger["ttft_segments"].values()) == pytest.approx(ledger["ttft_ms"], abs=1)
    assert float(trailing["tandem-ttft-ms"]) == ledger["ttft_ms"]


async def test_a_client_that_knows_nothing_but_reflection(demo: Tandem) -> None:
    with grpc.insecure_channel(demo.grpc, options=GRPC_OPTIONS) as channel:
        text = _generate_by_reflection(channel)
    assert text == await openai_answer(demo)


def _generate_by_reflection(channel: grpc.Channel) -> str:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert pb.DESCRIPTOR.services_by_name["Inference"].full_name in database.get_services()
    method = DescriptorPool(database).FindServiceByName("tandem.v1.Inference").FindMethodByName("Generate")
    request_type: Any = GetMessageClass(method.input_type)
    response_type: Any = GetMessageClass(method.output_type)
    assert not issubclass(request_type, pb.GenerateRequest)

    request = request_type()
    message = request.chat.messages.add()
    message.role, message.content = "user", QUESTION
    request.sampling.temperature = 0.0
    request.stopping.max_tokens = MAX_TOKENS
    generate = channel.unary_stream(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=request_type.SerializeToString,
        response_deserializer=response_type.FromString,
    )
    return "".join(response.delta.text for response in generate(request, timeout=PATIENCE_S))


async def test_health(demo: Tandem) -> None:
    async with grpc.aio.insecure_channel(demo.grpc, options=GRPC_OPTIONS) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "tandem.v1.Inference"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_the_other_methods(demo: Tandem) -> None:
    async with grpc_stub(demo) as stub:
        tokens = await stub.Tokenize(pb.TokenizeRequest(text=QUESTION))
        assert (await stub.Detokenize(pb.DetokenizeRequest(token_ids=tokens.token_ids))).text == QUESTION
        assert [model.name for model in (await stub.ListModels(pb.ListModelsRequest())).models] == [DEMO]
        info = await stub.GetServerInfo(pb.GetServerInfoRequest())
    assert sorted((worker.role, worker.ready) for worker in info.workers) == [("decode", True), ("prefill", True)]


async def test_a_deadline_ends_the_work(demo: Tandem) -> None:
    async with grpc_stub(demo) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            async for _ in stub.Generate(endless_request([5, 6, 7], 2000), timeout=0.2):
                pass
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until_idle(demo, num_workers=2)


async def test_cancelling_ends_the_work(demo: Tandem) -> None:
    async with grpc_stub(demo) as stub:
        call = stub.Generate(endless_request([5, 6, 7], 2000))
        events = aiter(call)
        assert (await anext(events)).started.request_id
        assert (await anext(events)).delta.token_ids
        call.cancel()
        await until_idle(demo, num_workers=2)
