"""Channels to a server, blocking or not, and the methods of its service on them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from tandem_client import generate_pb2 as pb

ChannelOptions = Sequence[tuple[str, str | int]]
Metadata = tuple[tuple[str, str], ...]

_SERVICE = pb.DESCRIPTOR.services_by_name["Inference"]
_OPTIONS: ChannelOptions = (
    ("grpc.enable_http_proxy", 0),  # one for the web is not the way to a server that is named by its address
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 20_000),  # finds connections that died while an answer is waited for
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


@dataclass(frozen=True, slots=True)
class Tls:
    """How a server over TLS is known, and what it is shown. PEM files."""

    ca: str | Path | None = None
    """Its authority; without one, those that gRPC knows."""
    cert: str | Path | None = None
    key: str | Path | None = None


def options(own: ChannelOptions) -> ChannelOptions:
    """Of a channel; `own` ones count."""
    return [*((name, value) for name, value in _OPTIONS if name not in dict(own)), *own]


def credentials(tls: Tls) -> grpc.ChannelCredentials:
    """Raises OSError for files that cannot be read."""
    return grpc.ssl_channel_credentials(_read(tls.ca), _read(tls.key), _read(tls.cert))


def _read(path: str | Path | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()


def authorization(api_key: str | None) -> Metadata:
    return (("authorization", f"Bearer {api_key}"),) if api_key else ()


def method(channel: Any, name: str) -> Callable[..., Any]:
    """One of tandem.v1.Inference, as channels of this kind call it."""
    described = _SERVICE.methods_by_name[name]
    make = channel.unary_stream if described.server_streaming else channel.unary_unary
    called: Callable[..., Any] = make(
        f"/{_SERVICE.full_name}/{name}",
        request_serializer=GetMessageClass(described.input_type).SerializeToString,
        response_deserializer=GetMessageClass(described.output_type).FromString,
    )
    return called
