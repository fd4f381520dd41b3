"""Calls Tandem over gRPC: `Client` blocks, `AsyncClient` is for asyncio; requests are made by `text`, `chat`, `tokens`,
`infill`.

    with Client("127.0.0.1:50051") as client:
        print(client.generate(chat("What is prefill?", max_tokens=60)).text)

`pb` are the messages of tandem.v1, as generate.proto has them.
"""

from tandem_client import generate_pb2 as pb
from tandem_client.aclient import AsyncClient, AsyncStream
from tandem_client.answer import Answer
from tandem_client.channel import Tls
from tandem_client.client import Client, Stream
from tandem_client.errors import (
    Cancelled,
    ConnectionLost,
    ContextOverflow,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    Overloaded,
    PermissionDenied,
    Poisoned,
    TandemError,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from tandem_client.requests import ChatOptions, Messages, Options, chat, infill, json_schema, text, tokens
from tandem_client.tries import Retries

__all__ = [
    "Answer",
    "AsyncClient",
    "AsyncStream",
    "Cancelled",
    "ChatOptions",
    "Client",
    "ConnectionLost",
    "ContextOverflow",
    "DeadlineExceeded",
    "InvalidRequest",
    "Messages",
    "NotFound",
    "Options",
    "Overloaded",
    "PermissionDenied",
    "Poisoned",
    "Retries",
    "Stream",
    "TandemError",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "Unsupported",
    "chat",
    "infill",
    "json_schema",
    "pb",
    "text",
    "tokens",
]
