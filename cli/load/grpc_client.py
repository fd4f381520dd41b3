"""One streamed request to Tandem's own API. Messages are kept as bytes with their times, and parsed after the end."""

import time

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from cli.load.client import RequestFailed, ServedModel, Tape
from cli.load.config import TargetConfig
from cli.load.measure import Reply
from cli.load.prompts import Job
from engine.errors import ConfigError
from protos import generate_pb2 as pb
from protos.generate_pb2_grpc import InferenceStub

GENERATE = "/tandem.v1.Inference/Generate"


class GrpcClient:
    """A Client of tandem.v1.Inference over one channel."""

    def __init__(self, target: TargetConfig) -> None:
        if target.extra_body:
            raise ConfigError("--extra-body is for JSON, not for gRPC", field="--extra-body")
        self._target = target
        self._model = target.model
        # A proxy for the web is not the way to a server that the user names by address.
        options = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1)]
        address, credentials = target.trust.for_grpc(target.url)
        self._channel = (
            grpc.aio.secure_channel(address, credentials, options)
            if credentials
            else grpc.aio.insecure_channel(address, options)
        )
        self._generate = self._channel.unary_stream(
            GENERATE, request_serializer=pb.GenerateRequest.SerializeToString, response_deserializer=None
        )
        self._metadata = (("authorization", f"Bearer {target.api_key}"),) if target.api_key else None

    async def served_model(self) -> ServedModel:
        try:
            reply = await InferenceStub(self._channel).ListModels(
                pb.ListModelsRequest(), timeout=10.0, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            told = f"{error.code().name}: {error.details()}"
            raise ConfigError(f"no list of models from {self._target.url}: {told}", field="url") from error
        for model in reply.models:
            if self._model in ("", model.name):
                self._model = model.name
                return ServedModel(model.name, vocab=model.vocab_size or None, max_context=model.max_context or None)
        have = ", ".join(model.name for model in reply.models) or "none"
        raise ConfigError(f"the server has no model {self._model!r}; it has: {have}", field="--model")

    async def send(self, job: Job, tape: Tape) -> None:
        call = self._generate(self._request(job), metadata=self._metadata)
        pieces = tape.pieces
        try:
            async for message in call:
                pieces.append((time.perf_counter(), message))
        except grpc.aio.AioRpcError as error:
            raise RequestFailed(f"{error.code().name}: {error.details()}") from error
        finally:
            call.cancel()

    def read(self, tape: Tape) -> Reply:
        return read_messages(tape.pieces)

    def explain(self, tape: Tape) -> str:
        """A failed call says all in its status."""
        return ""

    async def aclose(self) -> None:
        await self._channel.close(None)

    def _request(self, job: Job) -> pb.GenerateRequest:
        request = pb.GenerateRequest(
            model=self._model,
            sampling=pb.Sampling(temperature=self._target.temperature),
            stopping=pb.Stopping(max_tokens=job.output_tokens, ignore_eos=self._target.ignore_eos),
        )
        if not isinstance(job.prompt, str):
            request.token_ids.ids.extend(job.prompt)
        elif self._target.endpoint == "chat":
            request.chat.messages.add(role="user", content=job.prompt)
        else:
            request.text = job.prompt
        return request


def read_messages(pieces: list[tuple[float, bytes]]) -> Reply:
    """What the messages of one call held; a delta without tokens carries no token."""
    times: list[float] = []
    usage: pb.Usage | None = None
    for at, message in pieces:
        try:
            event = pb.GenerateResponse.FromString(message)
        except DecodeError as error:
            return Reply(tuple(times), error=f"malformed message: {error}")
        if event.delta.token_ids:
            times.append(at)
        elif event.HasField("finished"):
            usage = event.finished.usage
    if usage is None:
        return Reply(tuple(times), error="stream cut short")
    return Reply(tuple(times), usage.prompt_tokens, usage.completion_tokens, None if times else "no tokens")
