"""How `tandem up` learns that a process is ready: gRPC health of a worker, /ready of a frontend."""

import asyncio
import http.client
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import quote

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from cli.process import Tell

INTERVAL_S = 0.1
TIMEOUT_S = 2.0
SLOW_S = 5.0
"""A worker that loads for longer than this is most likely compiling."""

# A worker that restarts should be seen within a tick, not after gRPC's usual second and more.
CHANNEL_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.enable_http_proxy", 0),
]


def worker_serving(address: str) -> Callable[[Tell], Awaitable[None]]:
    """A wait until the worker at `address` has loaded its model and serves."""

    async def until_ready(tell: Tell) -> None:
        start_s = time.monotonic()

        def tell_how_long() -> None:
            is_slow = time.monotonic() - start_s > SLOW_S
            tell("loading model (the first start on a machine compiles kernels)" if is_slow else "loading model")

        await _until_serving(address, tell_how_long)

    return until_ready


def frontend_serving(address: str, models: Sequence[str] = ()) -> Callable[[Tell], Awaitable[None]]:
    """As `frontend_ready`, over gRPC, which does not say why not."""

    async def until_ready(tell: Tell) -> None:
        for service in ("", *models):
            await _until_serving(address, lambda: tell("waiting for workers"), service)

    return until_ready


def frontend_ready(host: str, port: int, models: Sequence[str] = ()) -> Callable[[Tell], Awaitable[None]]:
    """A wait until the frontend says that a request would succeed, for its default model and for `models`."""

    async def until_ready(tell: Tell) -> None:
        for path in ("/ready", *(f"/ready?model={quote(model, safe='')}" for model in models)):
            while (reason := await asyncio.to_thread(_why_not_ready, host, port, path)) is not None:
                tell(reason)
                await asyncio.sleep(INTERVAL_S)

    return until_ready


async def _until_serving(address: str, tell: Callable[[], None], service: str = "") -> None:
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        health = HealthStub(channel)
        while not await _serves(health, service):
            tell()
            await asyncio.sleep(INTERVAL_S)


async def _serves(health: HealthStub, service: str) -> bool:
    try:
        reply = await health.Check(HealthCheckRequest(service=service), timeout=TIMEOUT_S)
    except grpc.aio.AioRpcError:  # nobody listens yet, or knows of the service
        return False
    return bool(reply.status == HealthCheckResponse.SERVING)


def _why_not_ready(host: str, port: int, path: str) -> str | None:
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException):
        return "starting"
    finally:
        connection.close()
    return None if response.status == http.HTTPStatus.OK else _reason(body)


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["reason"]) or "not ready"
    except (ValueError, KeyError, TypeError):
        return "not ready"
