"""A frontend process: `python -m frontend --decode 127.0.0.1:50053 --prefill 127.0.0.1:50052 --model DIR`."""

import asyncio
import logging
import os
import resource
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc.aio
import uvicorn
import uvloop
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from engine.cpus import pin
from engine.disks import Disks
from engine.errors import USAGE_STATUS, ConfigError
from engine.exposure import check_guarded, in_url
from engine.hub import resolve_model
from engine.options import parse_options
from engine.process import drain, stop_signal
from engine.source import sources
from engine.telemetry import setup_logging, setup_tracing
from engine.tls import Tls, listen
from engine.version import VERSION
from frontend.admission import Admission
from frontend.attempt import Attempts
from frontend.callers import KeyRing
from frontend.catalogue import Catalogue
from frontend.config import FrontendConfig, by_model
from frontend.fleet import Fleet
from frontend.inference import FleetInference
from frontend.keeper import Keeper
from frontend.metrics import FrontendMetrics
from frontend.model import LoadedModel
from frontend.mounts import Mount, parse_mounts
from frontend.observer import Observer
from frontend.rest.app import build_app
from frontend.rest.http import ErrorsAt, HttpProtocol
from frontend.rest.mounted import Mounted
from frontend.rest.openai.errors import OpenAIErrors
from frontend.router import Policy
from frontend.schemas.documents import load_documents
from frontend.served import Served
from frontend.service import Health, build_server

log = logging.getLogger("frontend")

KEEP_ALIVE_S = 75
"""How long a connection without a request stays open: longer than proxies keep theirs, lest one sends a request on what
is just being closed."""
LAST_WORDS_S = 2
"""What clients may take to read how their answers ended, when a server leaves before these are complete."""


async def run(config: FrontendConfig, models: Sequence[LoadedModel], keys: KeyRing) -> None:
    """Serve gRPC and REST until told to stop; then refuse new requests, finish those there are, and return."""
    mounts = parse_mounts(config.mount, {config.http_port: "--http-port", config.grpc_port: "--grpc-port"})
    tracing = setup_tracing("tandem-frontend", config.otlp_endpoint, sample_ratio=config.trace_sample_ratio)
    metrics = FrontendMetrics(CollectorRegistry())
    workers = Tls.of(config.worker_cert, config.worker_key, config.worker_ca, prefix="worker")
    fleet = Fleet(config.prefill, config.decode, workers)
    catalogue = Catalogue([_served(config, model, fleet) for model in models])
    keeper = Keeper(tracing, fleet.keep_trace, config.trace_slow_ttft_s)
    inference = FleetInference(catalogue, fleet, Observer(tracing, metrics, keeper))
    metrics.watch(inference)

    def note_disks(full: str) -> None:
        inference.unready = full
        fleet.pulse.beat()

    disks = Disks(config.watch_folders, note_disks)
    grpc_server, health = build_server(
        inference,
        keys=keys,
        max_message_bytes=config.max_body_bytes,
        version=VERSION,
        max_resume_grace_s=config.max_resume_grace_s,
    )
    build = partial(
        build_app,
        inference,
        keys=keys,
        max_body_bytes=config.max_body_bytes,
        metrics=metrics.exposition,
        openmetrics=metrics.openmetrics,
        lenient=config.unknown_parameters == "ignore",
        cors_origins=config.cors_origins,
        trace_ui=config.trace_ui.rstrip("/"),
        local_only=not (_is_guarded(config, keys) or config.insecure or "*" in config.cors_origins),
    )
    tls = Tls.of(config.tls_cert, config.tls_key, config.tls_ca)
    with bound(config, mounts, grpc_server, tls) as (sockets, mounts):
        app = Mounted(build(), mounts, lambda mount: build(mount=mount))
        rest = RestServer(rest_config(app, tls, app.errors_at))
        async with asyncio.TaskGroup() as tasks:
            health_told = _tell_health(inference, fleet, health)
            background = [tasks.create_task(work) for work in (fleet.run(), disks.run(), health_told)]
            serving = tasks.create_task(rest.serve(sockets=sockets))
            await grpc_server.start()
            try:
                await stop_signal().wait()
                inference.draining = True
                await health.drain()
                await drain(inference.idle(), config.drain_timeout_s)
                inference.cut()
                rest.should_exit = True
                await serving
            finally:  # without which the process could not end
                await grpc_server.stop(grace=LAST_WORDS_S)
            for task in background:
                task.cancel()
    await tracing.aclose()
    log.info("stopped")


def _served(config: FrontendConfig, model: LoadedModel, fleet: Fleet) -> Served:
    """Each with a queue of its own: who waits for one model takes nobody's place who waits for another."""
    attempts = Attempts(
        fleet,
        Admission(config.max_queued_requests, config.max_queued_tokens),
        Policy(config.local_prefill_tokens, config.always_remote, config.itl_tolerance),
        config.queue_timeout_s,
        config.ttft_slo_s,
    )
    return Served(model, attempts, max_attempts=config.max_attempts, max_worker_deaths=config.max_worker_deaths)


def rest_config(app: ASGIApp, tls: Tls | None, errors_at: ErrorsAt = lambda _: OpenAIErrors()) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=partial(HttpProtocol, errors_at=errors_at),  # type: ignore[arg-type] # it is called, and nothing else
        ws="none",
        log_config=None,
        log_level="error",  # else whoever sends what is not HTTP fills the log
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=LAST_WORDS_S,
        timeout_keep_alive=KEEP_ALIVE_S,
        ssl_context_factory=(lambda _config, _default: tls.context()) if tls else None,
    )


class RestServer(uvicorn.Server):
    """uvicorn, but signals are this process's own affair: draining comes before exiting."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def bound(
    config: FrontendConfig, mounts: Sequence[Mount], grpc_server: grpc.aio.Server, tls: Tls | None
) -> Iterator[tuple[list[socket.socket], tuple[Mount, ...]]]:
    """Bind all ports; yields the sockets of REST, and `mounts` with the ports that they have. Raises ConfigError naming
    the port that is taken."""
    with ExitStack() as stack:
        own = stack.enter_context(_listening(config.host, config.http_port, "http_port"))
        host = in_url(config.host)
        grpc_port = listen(grpc_server, f"{host}:{config.grpc_port}", tls, field="grpc_port")
        if config.local_listen:
            listen(grpc_server, config.local_listen, None, field="local_listen")
        scheme = "https" if tls else "http"
        log.info("%s://%s:%d grpc://%s:%d", scheme, host, _port(own), host, grpc_port)
        sockets, bound_to = [own], []
        for mount in mounts:
            if mount.port is not None:
                sockets.append(stack.enter_context(_listening(config.host, mount.port, "mount")))
                mount = replace(mount, port=_port(sockets[-1]))
            log.info("%s %s://%s:%d%s", mount.dialect, scheme, host, mount.port or _port(own), mount.prefix)
            bound_to.append(mount)
        yield sockets, tuple(bound_to)


def _listening(host: str, port: int, field: str) -> socket.socket:
    try:
        is_6 = ":" in host
        family = socket.AF_INET6 if is_6 else socket.AF_INET
        both = is_6 and host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, backlog=2048, dualstack_ipv6=both)
    except OSError as error:
        message = f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}"
        raise ConfigError(message, field=field) from error


def _port(listening: socket.socket) -> int:
    return int(listening.getsockname()[1])


async def _tell_health(inference: FleetInference, fleet: Fleet, health: Health) -> None:
    """Keep grpc.health.v1 in step with readiness."""
    told: tuple[bool, dict[str, bool]] | None = None
    while not inference.draining:
        ready = inference.readiness().ready, {model.name: model.ready for model in inference.statuses()}
        if ready == told:
            await fleet.pulse.wait()
        else:
            await health.set_serving(*ready)
            told = ready


def load_models(config: FrontendConfig) -> list[LoadedModel]:
    """The default first. Raises ConfigError."""
    named = sources(config.model, config.served_model_name)
    names = [source.name for source in named]
    aliases = by_model(config.model_aliases, names, "model_aliases")
    fallbacks = by_model(config.fallback, names, "fallback")
    first, *others = named
    template, documents = Path(config.chat_template) if config.chat_template else None, load_documents(config.schemas)
    default = LoadedModel.load(
        resolve_model(first.place),
        first.name,
        template,
        tool_parser=config.tool_parser,
        reasoning_parser=config.reasoning_parser,
        embedding_pooling=config.embedding_pooling,
        documents=documents,
    )
    models = [
        replace(default, takes_any_name=config.accept_any_model),
        *(LoadedModel.load(resolve_model(each.place), each.name, None, documents=documents) for each in others),
    ]
    return [
        replace(model, aliases=frozenset(aliases[model.name]) - {model.name}, fallback=fallbacks[model.name])
        for model in models
    ]


def _is_guarded(config: FrontendConfig, keys: KeyRing) -> bool:
    """Whether who asks must show something."""
    return not keys.is_open or bool(config.tls_ca)


def _take_all_descriptors() -> None:
    """A connection is one, and what a shell gives by default (1,024) is soon used up by those that are idle."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> int:
    config = parse_options(FrontendConfig, "frontend")
    setup_logging(config.log_level, "frontend", config.log_format)
    try:
        pin(config.cpus)
        _take_all_descriptors()
        if not config.decode:
            raise ConfigError("a frontend needs the address of at least one decode worker: --decode", field="decode")
        models = load_models(config)
        keys = KeyRing(config.api_key, Path(config.api_keys) if config.api_keys else None)
        address, guarded = f"{config.host}:{config.http_port}", _is_guarded(config, keys)
        check_guarded(address, guarded=guarded, insecure=config.insecure, how="--api-key or --api-keys")
        if config.local_listen and not config.local_listen.startswith("unix:"):
            raise ConfigError(f"{config.local_listen} is not unix:PATH", field="local_listen")
        if config.trace_ui and not config.trace_ui.startswith(("http://", "https://")):
            raise ConfigError(f"{config.trace_ui} is not http://… or https://…", field="trace_ui")
        uvloop.run(run(config, models, keys))
    except ConfigError as error:
        log.error("%s", error.message)
        return USAGE_STATUS
    return 0


if __name__ == "__main__":
    sys.exit(main())
