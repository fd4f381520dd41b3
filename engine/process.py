"""The frame of a worker process: its server, health, signals and drain, around a step loop.

The loop runs on a thread of its own; if it crashes the process ends, so that nobody waits for who cannot step.
The first SIGTERM or SIGINT (`stop_signal`) drains, the second leaves.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from engine.config import WorkerConfig
from engine.cost import Costs
from engine.disks import Disks
from engine.errors import ConfigError
from engine.exposure import check_guarded, is_local
from engine.progress import Progress
from engine.session import LOAD_INTERVAL_S, Sessions
from engine.steploop import StepLoop
from engine.tls import Tls, listen
from engine.wire import MAX_MESSAGE_BYTES
from protos import worker_pb2_grpc

log = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 0.0005
"""How long the step's Python may keep the interpreter from the event loop, which has tokens and blocks to send.
Python's own 5 ms would be the longest part of a small model's hop."""
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
STALL_TIMES = 10.0
"""A step may take so many times what the largest one took when the worker measured itself."""


Command = TypeVar("Command")
Event = TypeVar("Event")
Deliver = Callable[[list[Event]], None]


def check_exposure(config: WorkerConfig) -> None:
    """Raise ConfigError where other machines could reach a worker that does not ask who they are."""
    guards = "--tls-cert, --tls-key and --tls-ca"
    check_guarded(config.listen, guarded=bool(config.tls_ca), insecure=config.insecure, how=guards)
    curve = "--kv-key and --kv-peers"
    check_guarded(config.kv_listen, guarded=bool(config.kv_peers), insecure=config.insecure, how=curve)
    if config.kv_groups != "off" and not config.insecure and not is_local(config.kv_listen):
        message = f"{config.kv_listen} is beyond this machine, and nothing encrypts what goes through --kv-groups"
        raise ConfigError(f"{message}: turn them off, or say --insecure", field="kv_groups")


async def serve(
    sessions: Sessions,
    loop: StepLoop[Command, Event],
    deliver: Deliver[Event],
    config: WorkerConfig,
    stop: asyncio.Event,
    costs: Costs | None = None,
) -> None:
    """Serve until `stop` is set, then drain; returns when nothing is left or the drain's time is up.

    `deliver` takes in what each step reports, on the event loop. A fault in any part of this ends all of it.
    """
    usual_s = costs.table_s(config.max_step_tokens) if costs else 0.0
    disks = Disks([folder for folder in config.watch_folders.split(",") if folder])
    progress = Progress(
        loop.busy_s,
        sessions.load,
        lambda: disks.full,
        longest_step_s=max(config.stall_limit_s, STALL_TIMES * usual_s),
        stall_limit_s=config.stall_limit_s,
    )
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    server, health = await _start(sessions, config)
    outbox: asyncio.Queue[list[Event]] = asyncio.Queue()
    event_loop = asyncio.get_running_loop()

    def put(events: list[Event]) -> None:
        event_loop.call_soon_threadsafe(outbox.put_nowait, events)

    async with asyncio.TaskGroup() as tasks:
        stepping = tasks.create_task(asyncio.to_thread(loop.run, put))
        background = [
            tasks.create_task(sessions.run_timers()),
            tasks.create_task(_deliver_all(outbox, deliver)),
            tasks.create_task(disks.run()),
            tasks.create_task(watch_progress(progress, sessions, health)),
        ]
        try:
            await stop.wait()
            await health.enter_graceful_shutdown()
            await drain(sessions.drain(), config.drain_timeout_s)
            sessions.close()
        finally:  # without which the process could not end
            loop.stop()
            await server.stop(grace=1.0)
        await stepping
        for task in background:
            task.cancel()
    log.info("stopped")


async def watch_progress(progress: Progress, sessions: Sessions, health: HealthServicer) -> None:
    """Health is progress: a worker that gets nowhere, or will not for long, is not serving, and says why, until it
    does."""
    while True:
        await asyncio.sleep(LOAD_INTERVAL_S)
        if progress.look():
            log.warning("%s", progress.stalled or progress.unready or "this worker gets on again")
            sessions.stalled, sessions.unready = progress.stalled, progress.unready
            sessions.report_load()
            await health.set("", NOT_SERVING if progress.stalled or progress.unready else SERVING)


async def _deliver_all(outbox: asyncio.Queue[list[Event]], deliver: Deliver[Event]) -> None:
    while True:
        deliver(await outbox.get())


async def _start(sessions: Sessions, config: WorkerConfig) -> tuple[grpc.aio.Server, HealthServicer]:
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.keepalive_time_ms", 10_000),  # a frontend that hangs reads nothing: what is sent to it would pile up
            ("grpc.keepalive_timeout_ms", 5_000),
            ("grpc.http2.ping_timeout_ms", 5_000),  # a keepalive is a ping, whose own limit is a minute
            ("grpc.so_reuseport", 0),
        )
    )
    health = HealthServicer()
    worker_pb2_grpc.add_WorkerServicer_to_server(sessions, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    tls = None if config.listen.startswith("unix:") else Tls.of(config.tls_cert, config.tls_key, config.tls_ca)
    port = listen(server, config.listen, tls, field="listen")
    await server.start()
    await health.set("", SERVING)
    log.info("listening on %s", config.listen if config.listen.startswith("unix:") else f"port {port}")
    return server, health


async def drain(idle: Awaitable[None], timeout_s: float) -> None:
    """Wait for what is under way to end, but not for longer than `timeout_s`."""
    log.info("draining, for at most %g s", timeout_s)
    try:
        async with asyncio.timeout(timeout_s):
            await idle
    except TimeoutError:
        log.warning("requests are left after %g s of draining", timeout_s)


def stop_signal() -> asyncio.Event:
    """An event that the first SIGTERM or SIGINT sets; the second ends the process at once."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, lambda: os._exit(1) if stop.is_set() else stop.set())
    return stop
