"""Frontends in the test's own process, which play scripts: what is behind a proxy."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc.aio

from frontend.__main__ import RestServer, rest_config
from frontend.callers import KeyRing
from frontend.config import FrontendConfig
from frontend.rest.app import build_app
from frontend.service import Health, build_server
from tests.edge.proxies import Frontend
from tests.frontend.fake_inference import FakeInference

MAX_BODY_BYTES: int = FrontendConfig.model_fields["max_body_bytes"].default
"""That the examples of deploy/ suppose."""


@dataclass(slots=True)
class Playing:
    """A frontend over REST and gRPC."""

    at: Frontend
    inference: FakeInference
    rest: RestServer
    grpc: grpc.aio.Server
    health: Health

    @property
    def num_connections(self) -> int:
        """Of REST."""
        return len(self.rest.server_state.connections)

    async def kill(self) -> None:
        """As the kernel does with the connections of a process that it ends."""
        for server in self.rest.servers:
            server.close()
        for connection in list(self.rest.server_state.connections):
            connection.transport.abort()
        await self.grpc.stop(None)


@asynccontextmanager
async def playing(inference: FakeInference | None = None, *, api_key: str = "") -> AsyncIterator[Playing]:
    inference = inference or FakeInference()
    app = build_app(inference, keys=KeyRing(api_key), max_body_bytes=MAX_BODY_BYTES, metrics=lambda: b"tandem_up 1\n")
    grpc_server, health = build_server(
        inference,  # type: ignore[arg-type]
        keys=KeyRing(api_key),
        max_message_bytes=MAX_BODY_BYTES,
        version="0",
    )
    grpc_port = grpc_server.add_insecure_port("127.0.0.1:0")
    rest = RestServer(rest_config(app, None))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(rest.serve(sockets=[listening]))
        await grpc_server.start()
        await health.set_serving(True)
        try:
            yield Playing(Frontend(listening.getsockname()[1], grpc_port), inference, rest, grpc_server, health)
        finally:
            rest.should_exit = True
            await grpc_server.stop(None)
            await serving
