"""A prefill worker process: `python -m prefill --listen 127.0.0.1:50052 --model DIR`."""

import asyncio
import logging
import sys

import uvloop

from engine.audit import audited
from engine.config import WorkerConfig
from engine.cost import Slowdown
from engine.device import OpenModel, configured_for, open_model
from engine.errors import USAGE_STATUS, ConfigError
from engine.lending import lending
from engine.options import parse_options
from engine.process import check_exposure, serve, stop_signal
from engine.steploop import StepLoop
from engine.telemetry import Telemetry, setup_logging, setup_tracing
from kvtransfer.cuda_ipc import DeviceMemory
from kvtransfer.curve import Curve
from kvtransfer.endpoints import CUDA_IPC, SHM, Senders
from kvtransfer.group import check_backend
from kvtransfer.host_store import HostStore
from kvtransfer.nccl import NcclSender
from kvtransfer.shm import ShmSender
from kvtransfer.stores import can_lend, device_frames_of, store_of
from kvtransfer.transport import KVSender
from kvtransfer.zeromq import ZeroMQSender
from prefill.scheduler import PrefillScheduler
from prefill.service import PrefillService
from prefill.spans import PrefillSpans
from prefill.worker import Command, Event, PrefillWorker
from protos import worker_pb2 as pb

log = logging.getLogger("prefill")


async def run(config: WorkerConfig, model: OpenModel, tracing: Telemetry, stop: asyncio.Event | None = None) -> None:
    """Serve until `stop` is set; without one, until the process is told to stop."""
    scheduler = PrefillScheduler(
        model.who.num_blocks,
        config.block_tokens,
        max_step_tokens=config.max_step_tokens,
        max_sequences=config.max_sequences,
        max_queued_tokens=config.max_queued_tokens,
    )
    slowdown = Slowdown(model.who.costs, model.who.own_costs)
    worker = PrefillWorker(scheduler, model.runner, model.sampler, slowdown)
    senders = _senders(config, model)
    loop: StepLoop[Command, Event] = StepLoop(lending(audited(worker, config), config, slowdown))
    spans = PrefillSpans(tracing, model.who.worker_id)
    service = PrefillService(worker, loop, senders, model.who, spans, model.grammars)
    try:
        await serve(service.sessions, loop, service.deliver, config, stop or stop_signal(), model.who.costs)
    finally:
        await service.aclose()
        model.close()
        await tracing.aclose()


def _senders(config: WorkerConfig, model: OpenModel) -> Senders:
    """Everything that KV can go through."""
    by_transport: dict[str, KVSender] = {}
    store, limit_s = store_of(model.cache, model.team), config.stall_limit_s
    if model.shared and isinstance(store, HostStore):
        by_transport[SHM] = ShmSender(store, model.shared, stall_limit_s=limit_s)
    if can_lend(store, config):
        by_transport[CUDA_IPC] = ShmSender(store, DeviceMemory(store.pool), stall_limit_s=limit_s)
    curve = Curve.of(config.kv_key, config.kv_peers)
    if config.kv_groups != "off":
        by_transport[config.kv_groups] = NcclSender(
            config.kv_groups,
            store,
            curve,
            frames=device_frames_of(config.kv_groups, store),
            insecure=config.insecure,
            stall_limit_s=limit_s,
        )
    by_transport["zeromq"] = ZeroMQSender(store, curve, stall_limit_s=limit_s)
    return Senders(by_transport)


def main() -> int:
    config = parse_options(WorkerConfig, "prefill")
    setup_logging(config.log_level, "prefill", config.log_format)
    try:
        check_exposure(config)
        check_backend(config.kv_groups)
        tracing = setup_tracing("tandem-prefill", config.otlp_endpoint)
        config = configured_for(config, pb.ROLE_PREFILL)
        model = open_model(config, pb.ROLE_PREFILL)
        uvloop.run(run(config, model, tracing))
    except ConfigError as error:
        log.error("%s", error.message)
        return USAGE_STATUS
    return 0


if __name__ == "__main__":
    sys.exit(main())
