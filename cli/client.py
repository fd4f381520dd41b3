"""The public gRPC API from a terminal: chats and model names. Blocking; errors are grpc.RpcError."""

from collections.abc import Iterator
from dataclasses import dataclass

import grpc

from cli.trust import Trust
from protos import generate_pb2 as pb
from protos.generate_pb2_grpc import InferenceStub


@dataclass(frozen=True, slots=True)
class Server:
    """Where a frontend listens, and the key it wants."""

    address: str
    """host:port, or grpcs://host:port for TLS."""
    api_key: str | None = None
    trust: Trust = Trust()


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """How an answer is drawn; None leaves it to the model."""

    temperature: float | None = None
    max_tokens: int | None = None


class Client:
    """One connection. A context manager."""

    def __init__(self, server: Server) -> None:
        """Raises ConfigError for certificates that cannot be used."""
        address, credentials = server.trust.for_grpc(server.address)
        # A proxy for the web is not the way to a server that the user names by address.
        options = [("grpc.enable_http_proxy", 0)]
        self._channel = (
            grpc.secure_channel(address, credentials, options)
            if credentials
            else grpc.insecure_channel(address, options)
        )
        self._stub = InferenceStub(self._channel)
        self._metadata = [("authorization", f"Bearer {server.api_key}")] if server.api_key else []

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def models(self) -> list[str]:
        """The names that requests can use."""
        reply = self._stub.ListModels(pb.ListModelsRequest(), metadata=self._metadata, timeout=10.0)
        return [model.name for model in reply.models]

    def chat(self, messages: list[Message], choices: Choices) -> Iterator[pb.GenerateResponse]:
        """The events of one answer as they come. Closing the iterator cancels the answer."""
        request = pb.GenerateRequest(
            chat=pb.Chat(messages=[pb.ChatMessage(role=m.role, content=m.content) for m in messages]),
            sampling=pb.Sampling(temperature=choices.temperature),
            stopping=pb.Stopping(max_tokens=choices.max_tokens),
        )
        call = self._stub.Generate(request, metadata=self._metadata)
        try:
            yield from call
        finally:
            call.cancel()


def explain(error: grpc.RpcError) -> str:
    """An error of the server or of the way to it, in one line."""
    code = error.code().name.lower().replace("_", " ")
    return f"{code}: {error.details() or 'no details'}"
