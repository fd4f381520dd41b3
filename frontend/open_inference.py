"""inference.GRPCInferenceService, the Open Inference Protocol, over `frontend.api.Inference`.

Knows calls. What its tensors mean is in `frontend.open_inference_tensors`; keys are asked for, and errors become
statuses, as for our own service. In a stream an error is a message, for the other requests of the stream go on.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeAlias

import grpc.aio

from engine.errors import InvalidRequest, TandemError, UnknownModel
from frontend.api import Inference, ServedModel
from frontend.callers import Caller, KeyRing
from frontend.events import Delta, Finished, Started
from frontend.grpc_convert import TRACE_HEADERS
from frontend.grpc_errors import abort
from frontend.interceptors import caller_of
from frontend.open_inference_tensors import FINISH, INPUTS, OUTPUT, Wanted, read, response
from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc

log = logging.getLogger(__name__)

SERVICE: str = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
PLATFORM = "tandem"
VERSION = "1"
"""Of every model: there is one of each."""
AT_ONCE = 64
"""Requests of one stream that are under way."""
FINAL = "triton_final_response"

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class OpenInferenceServicer(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers the calls of inference.GRPCInferenceService."""

    def __init__(self, inference: Inference, keys: KeyRing, version: str) -> None:
        self._inference = inference
        self._keys = keys
        self._version = version

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._inference.readiness().ready)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        try:
            model = self._model(request.name, request.version, self._caller(context)[0])
        except UnknownModel:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._inference.readiness(model.name).ready)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name=PLATFORM, version=self._version)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        model = self._model(request.name, request.version, self._caller(context)[0])
        answer = pb.ModelMetadataResponse(name=model.name, versions=[VERSION], platform=PLATFORM)
        for name, datatype in INPUTS.items():
            answer.inputs.add(name=name, datatype=datatype, shape=[1])
        for name in (OUTPUT, FINISH):
            answer.outputs.add(name=name, datatype="BYTES", shape=[1])
        return answer

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        caller, headers = self._caller(context)
        wanted = self._read(request, caller)
        if wanted.stream:
            raise InvalidRequest("stream takes ModelStreamInfer", field="stream")
        async with aclosing(self._answer(wanted, caller, headers, context.time_remaining())) as answers:
            async for answer in answers:
                return answer
        raise AssertionError("an answer ended without Finished")

    async def ModelStreamInfer(self, requests: AsyncIterator[pb.ModelInferRequest], context: Context) -> None:
        try:
            self._caller(context)
        except TandemError as error:
            await abort(context, error)
        free = asyncio.Semaphore(AT_ONCE)
        writing = asyncio.Lock()

        async def write(message: pb.ModelStreamInferResponse) -> None:
            async with writing:
                await context.write(message)

        async def serve(request: pb.ModelInferRequest) -> None:
            try:
                caller, headers = self._caller(context)  # a key may be taken back, or get other limits, meanwhile
                wanted = self._read(request, caller)
                async with aclosing(self._answer(wanted, caller, headers, context.time_remaining())) as answers:
                    async for answer in answers:
                        await write(pb.ModelStreamInferResponse(infer_response=answer))
            except TandemError as error:
                await write(_failed(request.id, error.message[:1000]))
            except Exception:
                log.exception("a request of a stream failed")
                await write(_failed(request.id, "internal error"))
            finally:
                free.release()

        async with asyncio.TaskGroup() as running:
            async for request in requests:
                await free.acquire()
                running.create_task(serve(request))

    async def _answer(
        self, wanted: Wanted, caller: Caller, headers: dict[str, str], deadline_s: float | None
    ) -> AsyncGenerator[pb.ModelInferResponse, None]:
        """Its parts, or all of it as one; the last is marked."""
        request = replace(wanted.request, caller=caller, trace_headers=headers, deadline_s=deadline_s)
        model = ""
        texts = [] if wanted.excludes_input else [wanted.text]
        async with aclosing(self._inference.generate(request)) as events:
            async for event in events:
                match event:
                    case Started():
                        model = event.model
                    case Delta() if event.text:
                        texts.append(event.text)
                        if wanted.stream:
                            yield response(wanted, model, "".join(texts), "")
                            texts.clear()
                    case Finished():
                        last = response(wanted, model, "".join(texts), event.reason.value)
                        last.parameters[FINAL].bool_param = True
                        last.parameters["prompt_tokens"].int64_param = event.usage.prompt_tokens
                        last.parameters["completion_tokens"].int64_param = event.usage.completion_tokens
                        yield last

    def _read(self, request: pb.ModelInferRequest, caller: Caller) -> Wanted:
        self._model(request.model_name, request.model_version, caller)
        return read(request)

    def _model(self, name: str, version: str, caller: Caller) -> ServedModel:
        """Raises UnknownModel, or PermissionDenied."""
        if version not in ("", VERSION):
            raise UnknownModel(f"the model {name[:80]!r} has no version {version[:80]!r}", field="model_version")
        return self._inference.model(name or None, caller)

    def _caller(self, context: Context) -> tuple[Caller, dict[str, str]]:
        metadata = dict(context.invocation_metadata() or ())
        headers = {name: str(metadata[name]) for name in TRACE_HEADERS if name in metadata}
        return caller_of(self._keys, metadata), headers


def _failed(request_id: str, message: str) -> pb.ModelStreamInferResponse:
    return pb.ModelStreamInferResponse(error_message=message, infer_response=pb.ModelInferResponse(id=request_id))
