import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from engine.errors import Unavailable
from frontend.service import SERVICE
from protos import generate_pb2 as pb
from tests.frontend.test_grpc_service import FakeInference, served


async def test_health_says_not_serving_until_told_and_while_draining() -> None:
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    async with served(FakeInference([Unavailable("draining")]), api_key="secret") as server:
        stub = health_pb2_grpc.HealthStub(server.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == not_serving
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == not_serving
        await server.health.set_serving(True)
        assert (await watch.read()).status == serving
        assert (await stub.Check(health_pb2.HealthCheckRequest(service=SERVICE))).status == serving
        await server.health.set_serving(True, {"big": True, "small": False})
        for model, status in (("", serving), ("big", serving), ("small", not_serving)):
            assert (await stub.Check(health_pb2.HealthCheckRequest(service=model))).status == status
        await server.health.drain()
        await server.health.set_serving(True)
        assert (await stub.Check(health_pb2.HealthCheckRequest(service="big"))).status == not_serving
        assert (await watch.read()).status == not_serving
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == not_serving
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.Check(health_pb2.HealthCheckRequest(service="unknown"))
        assert failure.value.code() is grpc.StatusCode.NOT_FOUND
        watch.cancel()


async def test_reflection_lists_services_and_describes_ours() -> None:
    async with served(FakeInference(), api_key="secret") as server:
        call = reflection_pb2_grpc.ServerReflectionStub(server.channel).ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = await call.read()
        await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE))
        described = await call.read()
        await call.done_writing()

    assert {service.name for service in listed.list_services_response.service} == {
        "tandem.v1.Inference",
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert pb.DESCRIPTOR.serialized_pb in described.file_descriptor_response.file_descriptor_proto
