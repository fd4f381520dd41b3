"""A frontend process: `python -m frontend --decode 127.0.0.1:50053 --prefill 127.0.0.1:50052 --model DIR`."""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc.aio
import uvicorn
import uvloop
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from engine.cpus import pin
from engine.errors import ConfigError
from engine.exposure import check_guarded
from engine.hub import model_name, resolve_model
from engine.process import drain, stop_signal
from engine.telemetry import setup_logging, setup_tracing
from engine.tls import Tls, listen
from engine.version import VERSION
from frontend.admission import Admission
from frontend.attempt import Attempts
from frontend.callers import KeyRing
from frontend.config import FrontendConfig
from frontend.fleet import Fleet
from frontend.inference import FleetInference
from frontend.metrics import FrontendMetrics
from frontend.model import LoadedModel
from frontend.observer import Observer
from frontend.rest.app import build_app
from frontend.rest.http import HttpProtocol
from frontend.router import Policy
from frontend.schemas.documents import load_documents
from frontend.service import Health, build_server

log = logging.getLogger("frontend")


async def run(config: FrontendConfig, model: LoadedModel, keys: KeyRing) -> None:
    """Serve gRPC and REST until told to stop; then refuse new requests, finish those there are, and return."""
    tracing = setup_tracing("tandem-frontend", config.otlp_endpoint)
    metrics = FrontendMetrics(CollectorRegistry())
    workers = Tls.of(config.worker_cert, config.worker_key, config.worker_ca, prefix="worker")
    fleet = Fleet(config.prefill, config.decode, workers)
    attempts = Attempts(
        fleet,
        Admission(config.max_queued_requests, config.max_queued_tokens),
        Policy(config.local_prefill_tokens, config.always_remote, config.itl_tolerance),
        config.queue_timeout_s,
        config.ttft_slo_s,
    )
    inference = FleetInference(
        model,
        attempts,
        Observer(tracing, metrics),
        max_attempts=config.max_attempts,
        max_worker_deaths=config.max_worker_deaths,
    )
    metrics.watch(inference)
    grpc_server, health = build_server(
        inference,
        keys=keys,
        max_message_bytes=config.max_body_bytes,
        version=VERSION,
        max_resume_grace_s=config.max_resume_grace_s,
    )
    app = build_app(
        inference,
        keys=keys,
        max_body_bytes=config.max_body_bytes,
        metrics=metrics.exposition,
        lenient=config.unknown_parameters == "ignore",
        cors_origins=config.cors_origins,
    )
    tls = Tls.of(config.tls_cert, config.tls_key, config.tls_ca)
    rest = RestServer(rest_config(app, tls))
    with bound(config, grpc_server, tls) as rest_socket:
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


def rest_config(app: Starlette, tls: Tls | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=HttpProtocol,
        ws="none",
        log_config=None,
        log_level="error",  # else whoever sends what is not HTTP fills the log
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=5,
        ssl_context_factory=(lambda _config, _default: tls.context()) if tls else None,
    )


class RestServer(uvicorn.Server):
    """uvicorn, but signals are this process's own affair: draining comes before exiting."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def bound(config: FrontendConfig, grpc_server: grpc.aio.Server, tls: Tls | None) -> Iterator[socket.socket]:
    """Bind both ports; yields the socket for REST. Raises ConfigError naming the port that is taken."""
    try:
        rest_socket = socket.create_server((config.host, config.http_port), backlog=2048)
    except OSError as error:
        message = f"cannot listen on {config.host}:{config.http_port}: {os.strerror(error.errno or 0)}"
        raise ConfigError(message, field="http_port") from error
    with rest_socket:
        grpc_port = listen(grpc_server, f"{config.host}:{config.grpc_port}", tls, field="grpc_port")
        if config.local_listen:
            listen(grpc_server, config.local_listen, None, field="local_listen")
        log.info(
            "%s://%s:%d grpc://%s:%d",
            "https" if tls else "http",
            config.host,
            rest_socket.getsockname()[1],
            config.host,
            grpc_port,
        )
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
    setup_logging(config.log_level, "frontend", config.log_format)
    try:
        pin(config.cpus)
        if not config.decode:
            raise ConfigError("a frontend needs the address of at least one decode worker: --decode", field="decode")
        folder = resolve_model(config.model)
        template = Path(config.chat_template) if config.chat_template else None
        model = LoadedModel.load(
            folder,
            model_name(config.model, config.served_model_name),
            template,
            tool_parser=config.tool_parser,
            reasoning_parser=config.reasoning_parser,
            embedding_pooling=config.embedding_pooling,
            documents=load_documents(config.schemas),
        )
        model = replace(
            model, aliases=frozenset(config.model_aliases) - {model.name}, takes_any_name=config.accept_any_model
        )
        keys = KeyRing(config.api_key, Path(config.api_keys) if config.api_keys else None)
        guarded = not keys.is_open or bool(config.tls_ca)
        address = f"{config.host}:{config.http_port}"
        check_guarded(address, guarded=guarded, insecure=config.insecure, how="--api-key or --api-keys")
        if config.local_listen and not config.local_listen.startswith("unix:"):
            raise ConfigError(f"{config.local_listen} is not unix:PATH", field="local_listen")
        uvloop.run(run(config, model, keys))
    except ConfigError as error:
        log.error("%s", error.message)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
