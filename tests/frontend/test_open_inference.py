"""The Open Inference Protocol: tensors in, tensors out, and what is wrong with them named."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidRequest, Overloaded
from frontend.callers import KeyRing
from frontend.open_inference_tensors import read
from frontend.service import build_server
from protos import open_inference_pb2 as pb
from protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.frontend.fake_inference import MODEL, FakeInference, say

KEY = (("authorization", "Bearer key"),)


@asynccontextmanager
async def stub_of(inference: FakeInference) -> AsyncIterator[Any]:
    server, _ = build_server(inference, keys=KeyRing("key"), max_message_bytes=2**24, version="1.2.3")  # type: ignore[arg-type]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
    finally:
        await server.stop(None)


def asking(text: bytes = b"hi", *, raw: bool = False, **more: Any) -> pb.ModelInferRequest:
    """With `more` inputs, by name: bytes or a bool."""
    request = pb.ModelInferRequest(model_name=MODEL, id="7")
    for name, value in {"text_input": text, **more}.items():
        is_bool = isinstance(value, bool)
        tensor = request.inputs.add(name=name, datatype="BOOL" if is_bool else "BYTES", shape=[1])
        if raw:
            request.raw_input_contents.append(bytes([value]) if is_bool else len(value).to_bytes(4, "little") + value)
        elif is_bool:
            tensor.contents.bool_contents.append(value)
        else:
            tensor.contents.bytes_contents.append(value)
    return request


def said(answer: pb.ModelInferResponse) -> dict[str, bytes]:
    if answer.raw_output_contents:
        assert all(int.from_bytes(raw[:4], "little") == len(raw) - 4 for raw in answer.raw_output_contents)
        values = [raw[4:] for raw in answer.raw_output_contents]
    else:
        values = [tensor.contents.bytes_contents[0] for tensor in answer.outputs]
    assert {(tensor.datatype, tuple(tensor.shape)) for tensor in answer.outputs} == {("BYTES", (1,))}
    return dict(zip((tensor.name for tensor in answer.outputs), values, strict=True))


@pytest.mark.parametrize("raw", [False, True])
async def test_a_whole_answer(raw: bool) -> None:
    inference = FakeInference()
    sampling = b'{"temperature": "0.5", "max_tokens": 9, "stop": ["x"], "top_k": "3"}'
    request = asking(sampling_parameters=sampling, raw=raw)
    request.parameters["seed"].int64_param = 5
    async with stub_of(inference) as stub:
        answer = await stub.ModelInfer(request, metadata=(*KEY, ("traceparent", "00-aa-bb-01")))
    assert said(answer) == {"text_output": b"Hello!", "finish_reason": b"stop"}
    assert (answer.id, answer.model_name, bool(answer.raw_output_contents)) == ("7", MODEL, raw)
    assert answer.parameters["completion_tokens"].int64_param == 6
    (asked,) = inference.requests
    assert (asked.temperature, asked.max_tokens, asked.stop, asked.top_k, asked.seed) == (0.5, 9, ("x",), 3, 5)
    assert asked.trace_headers == {"traceparent": "00-aa-bb-01"}


async def test_the_prompt_can_be_part_of_the_answer_and_outputs_can_be_chosen() -> None:
    request = asking(exclude_input_in_output=False)
    request.outputs.add(name="text_output")
    async with stub_of(FakeInference()) as stub:
        assert said(await stub.ModelInfer(request, metadata=KEY)) == {"text_output": b"hiHello!"}


async def test_a_stream_answers_each_request_in_parts_or_whole() -> None:
    async with stub_of(FakeInference()) as stub:
        call = stub.ModelStreamInfer(metadata=KEY)
        for name, stream in (("a", True), ("b", False)):
            request = asking(stream=stream)
            request.id = name
            request.parameters["triton_enable_empty_final_response"].bool_param = stream
            await call.write(request)
        await call.done_writing()
        answers = [message async for message in call]
    assert not any(message.error_message for message in answers)
    parts = [said(m.infer_response) for m in answers if m.infer_response.id == "a"]
    assert b"".join(part["text_output"] for part in parts) == b"Hello!"
    assert [part["finish_reason"] for part in parts] == [b"", b"", b"", b"stop"]
    (whole,) = [m.infer_response for m in answers if m.infer_response.id == "b"]
    assert said(whole)["text_output"] == b"Hello!"
    finals = [m.infer_response.parameters["triton_final_response"].bool_param for m in answers]
    assert finals.count(True) == 2


async def test_a_request_of_a_stream_that_fails_says_so_and_the_others_go_on() -> None:
    inference = FakeInference(scripts=[[Overloaded("full", retry_after_s=1.0)]])
    async with stub_of(inference) as stub:
        call = stub.ModelStreamInfer(metadata=KEY)
        for name, request in (("full", asking()), ("none", pb.ModelInferRequest()), ("fine", asking())):
            request.id = name
            await call.write(request)
            answer = await call.read()
            assert answer.infer_response.id == name
            assert bool(answer.error_message) == (name != "fine"), answer
        await call.done_writing()


async def test_a_caller_that_leaves_aborts_the_work() -> None:
    inference = FakeInference([*say("Hel")[:1], asyncio.Event()])
    async with stub_of(inference) as stub:
        call = stub.ModelStreamInfer(metadata=KEY)
        await call.write(asking(stream=True))
        assert said((await call.read()).infer_response)["text_output"] == b"Hel"
        call.cancel()
        await asyncio.wait_for(inference.idle.wait(), 5)


async def test_metadata_and_readiness() -> None:
    async with stub_of(FakeInference()) as stub:
        assert (await stub.ServerLive(pb.ServerLiveRequest(), metadata=KEY)).live
        assert (await stub.ServerReady(pb.ServerReadyRequest(), metadata=KEY)).ready
        assert (await stub.ModelReady(pb.ModelReadyRequest(name=MODEL, version="1"), metadata=KEY)).ready
        assert not (await stub.ModelReady(pb.ModelReadyRequest(name="other"), metadata=KEY)).ready
        assert (await stub.ServerMetadata(pb.ServerMetadataRequest(), metadata=KEY)).version == "1.2.3"
        told = await stub.ModelMetadata(pb.ModelMetadataRequest(name=MODEL), metadata=KEY)
    assert {tensor.name: tensor.datatype for tensor in told.inputs}["text_input"] == "BYTES"
    assert [tensor.name for tensor in told.outputs] == ["text_output", "finish_reason"]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (pb.ModelInferRequest(model_name="other"), grpc.StatusCode.NOT_FOUND),
        (pb.ModelInferRequest(model_name=MODEL, model_version="2"), grpc.StatusCode.NOT_FOUND),
        (pb.ModelInferRequest(model_name=MODEL), grpc.StatusCode.INVALID_ARGUMENT),
        (asking(stream=True), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_what_cannot_be_answered_is_a_status(request_: pb.ModelInferRequest, code: grpc.StatusCode) -> None:
    async with stub_of(FakeInference()) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.ModelInfer(request_, metadata=KEY)
    assert failure.value.code() is code


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
async def test_a_key_is_asked_for(method: str) -> None:
    async with stub_of(FakeInference()) as stub:
        answer = stub.ModelInfer(asking()) if method == "ModelInfer" else stub.ModelStreamInfer().read()
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await answer
    assert failure.value.code() is grpc.StatusCode.UNAUTHENTICATED


def broken(**fields: Any) -> pb.ModelInferRequest:
    request = asking(raw=bool(fields.get("raw_input_contents")))
    del request.raw_input_contents[:]
    request.MergeFrom(pb.ModelInferRequest(**fields))
    return request


TENSOR = pb.ModelInferRequest.InferInputTensor


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (broken(inputs=[TENSOR(name="image", datatype="BYTES")]), "inputs"),
        (broken(inputs=[TENSOR(name="text_input", datatype="BYTES")]), "inputs"),
        (broken(inputs=[TENSOR(name="stream", datatype="BYTES")]), "stream"),
        (broken(inputs=[TENSOR(name="stream", datatype="BOOL", shape=[2])]), "stream"),
        (broken(inputs=[TENSOR(name="stream", datatype="BOOL")]), "stream"),
        (broken(outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="logits")]), "outputs"),
        (broken(parameters={"warp": pb.InferParameter(int64_param=9)}), "warp"),
        (broken(parameters={"seed": pb.InferParameter(string_param="x")}), "seed"),
        (broken(raw_input_contents=[b"\4\0\0\0abc"]), "text_input"),
        (broken(raw_input_contents=[b"\1\0\0\0a", b"\1"]), "raw_input_contents"),
        (asking(b"\xff"), "text_input"),
        (asking(sampling_parameters=b"[]"), "sampling_parameters"),
        (asking(sampling_parameters=b"{"), "sampling_parameters"),
        (asking(sampling_parameters=b'{"stop": [1]}'), "stop"),
    ],
)
def test_what_is_wrong_is_named(request_: pb.ModelInferRequest, field: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        read(request_)
    assert error.value.field == field


def test_what_triton_asks_of_the_last_response_is_a_bool() -> None:
    request = asking()
    request.parameters["triton_enable_empty_final_response"].string_param = "yes"
    with pytest.raises(InvalidRequest, match="unknown parameter: triton_enable_empty_final_response"):
        read(request)


def test_nothing_is_said_twice() -> None:
    request = asking(sampling_parameters=b'{"seed": 1}')
    request.parameters["seed"].int64_param = 1
    with pytest.raises(InvalidRequest, match="both"):
        read(request)


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_read_or_refused(data: bytes) -> None:
    request = asking(raw=True, stream=True)
    request.raw_input_contents[0] = data
    request.raw_input_contents[1] = data[:1]
    with suppress(InvalidRequest):
        assert read(request).text.encode() == data[4:]
