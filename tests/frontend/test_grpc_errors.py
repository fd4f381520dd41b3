import logging

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2

from engine import errors
from engine.errors import TandemError
from frontend.grpc_errors import rich_status
from frontend.service import SERVICE
from protos import generate_pb2 as pb
from tests.frontend.test_grpc_service import ANSWER, STARTED, FakeInference, Served, details, generate, served, trailers

GENERATE = f"/{SERVICE}/Generate"


async def failure_of(server: Served, request: pb.GenerateRequest | None = None) -> grpc.aio.AioRpcError:
    """How a call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await generate(server, request)
    return failure.value


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidRequest("bad", field="temperature"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.InvalidRequest("bad"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.ContextOverflow("long", field="prompt"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.UnknownModel("no such model", field="model"), grpc.StatusCode.NOT_FOUND),
        (errors.Unsupported("not here"), grpc.StatusCode.UNIMPLEMENTED),
        (errors.Overloaded("full", retry_after_s=1.5), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.Unavailable("draining"), grpc.StatusCode.UNAVAILABLE),
        (errors.DeadlineExceeded("late"), grpc.StatusCode.DEADLINE_EXCEEDED),
        (errors.TransferFailed("lost"), grpc.StatusCode.UNAVAILABLE),
        (errors.ProtocolError("odd"), grpc.StatusCode.INTERNAL),
    ],
)
@pytest.mark.parametrize("started", [True, False], ids=["midway", "at once"])
async def test_each_error_has_its_status_and_says_why(error: TandemError, code: grpc.StatusCode, started: bool) -> None:
    inference = FakeInference([STARTED, error] if started else [error])
    async with served(inference) as server:
        failure = await failure_of(server)
        inference.script = ANSWER
        assert len(await generate(server)) == 4

    assert (failure.code(), failure.details()) == (code, error.message)
    info = details(failure, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == (error.reason, "tandem")
    assert dict(info.metadata) == ({"field": error.field} if error.field else {})


async def test_the_field_at_fault_is_a_violation() -> None:
    error = errors.InvalidRequest("temperature must be finite", field="temperature")
    async with served(FakeInference([error])) as server:
        failure = await failure_of(server)

    (violation,) = details(failure, error_details_pb2.BadRequest).field_violations
    assert (violation.field, violation.description) == ("sampling.temperature", "temperature must be finite")


async def test_overload_says_when_to_come_back() -> None:
    async with served(FakeInference([errors.Overloaded("full", retry_after_s=1.5)])) as server:
        failure = await failure_of(server)

    delay = details(failure, error_details_pb2.RetryInfo).retry_delay
    assert (delay.seconds, delay.nanos) == (1, 500_000_000)


async def test_an_unknown_model_is_a_resource() -> None:
    async with served(FakeInference()) as server:
        failure = await failure_of(server, pb.GenerateRequest(text="hi", model="other"))

    assert failure.code() is grpc.StatusCode.NOT_FOUND
    resource = details(failure, error_details_pb2.ResourceInfo)
    assert (resource.resource_type, resource.description) == ("model", "the model 'other' is not served here")


async def test_what_we_did_not_expect_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    inference = FakeInference([STARTED, ValueError("secret of the house")])
    async with served(inference) as server:
        failure = await failure_of(server)

    assert (failure.code(), failure.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert "secret" not in str(trailers(failure))
    assert details(failure, error_details_pb2.ErrorInfo).reason == "INTERNAL"
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.getMessage() == f"{GENERATE} failed"
    assert "secret of the house" in caplog.text


@pytest.mark.parametrize("size", [2_000, 100_000])
@pytest.mark.parametrize("letter", ["x", "€", "\n", "\ud800"])
async def test_a_long_message_still_reaches_the_client(letter: str, size: int) -> None:
    error = errors.InvalidRequest(letter * size, field=letter * size)
    async with served(FakeInference([error])) as server:
        failure = await failure_of(server)

    assert failure.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len((failure.details() or "").encode()) in range(1_000, 1_025)


def test_every_kind_of_error_has_details() -> None:
    for kind in errors.CODES:
        error = kind("why", retry_after_s=0.25) if kind is errors.Overloaded else kind("why")
        status = rich_status(error)
        assert (status.code, status.message) == (errors.codes(error).grpc, "why")
        assert status.details[0].Is(error_details_pb2.ErrorInfo.DESCRIPTOR)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x12\x02\xff\xfe",  # text that is not UTF-8
        b"\x12\x7fshort",  # says 127 bytes, has five
        b"\x12",
        b"\xff" * 64,
        b"\x1a\x04\x0a\x02\xff\xff",  # token ids: an unfinished varint
        b"\x22\x06\x0a\x04\x12\x02\xc3\x28",  # chat content that is not UTF-8
    ],
)
async def test_bytes_that_are_no_message_are_the_callers_fault(raw: bytes) -> None:
    async with served(FakeInference()) as server:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await server.channel.unary_stream(GENERATE, None, None)(raw).read()
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert details(failure.value, error_details_pb2.ErrorInfo).reason == "INVALID_REQUEST"
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await server.channel.unary_unary(f"/{SERVICE}/Tokenize", None, None)(b"\xff")
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert len(await generate(server)) == 4


async def test_fields_we_do_not_know_are_ignored() -> None:
    raw = pb.GenerateRequest(text="hi").SerializeToString() + b"\xa2\x06\x03new"
    async with served(FakeInference()) as server:
        answer = await server.channel.unary_stream(GENERATE, None, None)(raw).read()

    assert (
        answer
        == pb.GenerateResponse(
            started=pb.Started(request_id="req-1", model="m", prompt_tokens=3, seed=2**64 - 1)
        ).SerializeToString()
    )


async def test_an_unknown_method_is_unimplemented() -> None:
    async with served(FakeInference()) as server:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await server.channel.unary_unary(f"/{SERVICE}/Divine", None, None)(b"")

    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", ""),),
        (("authorization", "Bearer"),),
        (("authorization", "Bearer wrong"),),
        (("authorization", "Bearer secre"),),
        (("authorization", "Bearer secret2"),),
        (("authorization", "Basic secret"),),
        (("authorization", "secret"),),
        (("x-api-key", "secret"),),
    ],
)
async def test_without_the_key_nothing_is_answered(metadata: tuple[tuple[str, str], ...]) -> None:
    inference = FakeInference()
    async with served(inference, api_key="secret") as server:
        for call in (
            server.stub.Generate(pb.GenerateRequest(text="hi"), metadata=metadata).read(),
            server.stub.ListModels(pb.ListModelsRequest(), metadata=metadata),
            server.channel.unary_unary(f"/{SERVICE}/Divine", None, None)(b"", metadata=metadata),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await call
            assert failure.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert details(failure.value, error_details_pb2.ErrorInfo).reason == "UNAUTHENTICATED"

    assert inference.requests == []


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_with_the_key_everything_is(scheme: str) -> None:
    metadata = (("authorization", f"{scheme} secret"),)
    async with served(FakeInference(), api_key="secret") as server:
        assert len([r async for r in server.stub.Generate(pb.GenerateRequest(text="hi"), metadata=metadata)]) == 4
        assert len((await server.stub.ListModels(pb.ListModelsRequest(), metadata=metadata)).models) == 1


async def test_a_call_that_fails_says_by_which_id_it_is_known() -> None:
    inference = FakeInference([errors.Overloaded("full", retry_after_s=1.5)])
    async with served(inference) as server:
        failure = await failure_of(server)
    assert trailers(failure)["x-request-id"] == inference.requests[-1].request_id
