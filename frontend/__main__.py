"""A frontend process: `python -m frontend --decode 127.0.0.1:50053 --prefill 127.0.0.1:50052 --model DIR`."""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc.aio
import uvicorn
import uvloop
from prometheus_client import CollectorRegistry

from engine.cpus import pin
from engine.errors import ConfigError
from engine.hub import model_name, resolve_model
from engine.process import drain, stop_signal
from engine.telemetry import setup_logging, setup_tracing
from engine.version import VERSION
from frontend.admission import Admission
from frontend.attempt import Attempts
from frontend.config import FrontendConfig
from frontend.fleet import Fleet
from frontend.inference import FleetInference
from frontend.metrics import FrontendMetrics
from frontend.model import LoadedModel
from frontend.observer import Observer
from frontend.rest.app import build_app
from frontend.router import Policy
from frontend.service import Health, build_server

log = logging.getLogger("frontend")


async def run(config: FrontendConfig, model: LoadedModel) -> None:
    """Serve gRPC and REST until told to stop; then refuse new requests, finish those there are, and return."""
    tracing = setup_tracing("tandem-frontend", config.otlp_endpoint)
    metrics = FrontendMetrics(CollectorRegistry())
    fleet = Fleet(config.prefill, config.decode)
    attempts = Attempts(
        fleet,
        Admission(config.max_queued_requests, config.max_queued_tokens),
        Policy(config.local_prefill_tokens, config.always_remote, config.itl_tolerance),
        config.queue_timeout_s,
    )
    inference = FleetInference(model, attempts, Observer(tracing, metrics), max_attempts=config.max_attempts)
    metrics.watch(inference)
    grpc_server, health = build_server(
        inference, api_key=config.api_key, max_message_bytes=config.max_body_bytes, version=VERSION
    )
    app = build_app(inference, api_key=config.api_key, max_body_bytes=config.max_body_bytes, metrics=metrics.exposition)
    rest = RestServer(
        uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=5)
    )
    with bound(config, grpc_server) as rest_socket:
        async with asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(fleet.run()), tasks.create_task(_tell_health(inference, fleet, health))]
            serving = tasks.create_task(rest.serve(sockets=[rest_socket]))
            await grpc_server.start()
            try:
                await stop_signal().wait()
                inference.draining = True
                await health.drain()
                await drain(inference.idle(), config.drain_timeout_s)
                rest.should_exit = True
                await serving
            finally:  # without which the process could not end
                await grpc_server.stop(grace=1.0)
            for task in background:
                task.cancel()
    await tracing.aclose()
    log.info("stopped")


class RestServer(uvicorn.Server):
    """uvicorn, but signals are this process's own affair: draining comes before exiting."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def bound(config: FrontendConfig, grpc_server: grpc.aio.Server) -> Iterator[socket.socket]:
    """Bind both ports; yields the socket for REST. Raises ConfigError naming the port that is taken."""
    try:
        rest_socket = socket.create_server((config.host, config.http_port), backlog=2048)
    except OSError as error:
        message = f"cannot listen on {config.host}:{config.http_port}: {os.strerror(error.errno or 0)}"
        raise ConfigError(message, field="http_port") from error
    with rest_socket:
        try:
            grpc_port = grpc_server.add_insecure_port(f"{config.host}:{config.grpc_port}")
        except RuntimeError as error:
            message = f"cannot listen on {config.host}:{config.grpc_port}: the address is in use or not this machine's"
            raise ConfigError(message, field="grpc_port") from error
        log.info("http://%s:%d grpc://%s:%d", config.host, rest_socket.getsockname()[1], config.host, grpc_port)
        yield rest_socket


async def _tell_health(inference: FleetInference, fleet: Fleet, health: Health) -> None:
    """Keep grpc.health.v1 in step with readiness."""
    told: bool | None = None
    while not inference.draining:
        if (ready := inference.readiness().ready) == told:
            await fleet.pulse.wait()
        else:
            await health.set_serving(ready)
            told = ready


def main() -> int:
    config = FrontendConfig(_cli_parse_args=True, _cli_prog_name="python -m frontend")  # type: ignore[call-arg]
    setup_logging(config.log_level, "frontend")
    try:
        pin(config.cpus)
        if not config.decode:
            raise ConfigError("a frontend needs the address of at least one decode worker: --decode", field="decode")
        folder = resolve_model(config.model)
        template = Path(config.chat_template) if config.chat_template else None
        model = LoadedModel.load(folder, model_name(config.model, config.served_model_name), template)
        uvloop.run(run(config, model))
    except ConfigError as error:
        log.error("%s", error.message)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
