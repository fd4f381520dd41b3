"""A decode worker process: `python -m decode --listen HOST:50053 --kv-listen tcp://HOST:50063 --model DIR`."""

import asyncio
import logging
import sys

import uvloop

from decode.messages import Command, Event
from decode.scheduler import DecodeScheduler
from decode.service import DecodeService
from decode.spans import DecodeSpans
from decode.worker import DecodeWorker, TicketTemplate
from engine.audit import audited
from engine.config import WorkerConfig
from engine.cost import Slowdown
from engine.device import OpenModel, configured_for, open_model
from engine.errors import USAGE_STATUS, ConfigError
from engine.gpu.memory import MAX_NCCL_GROUPS
from engine.lending import lending
from engine.options import parse_options
from engine.process import check_exposure, serve, stop_signal
from engine.shared_memory import can_share_memory
from engine.steploop import StepLoop
from engine.telemetry import Telemetry, setup_logging, setup_tracing
from kvtransfer.curve import Curve
from kvtransfer.endpoints import beside
from kvtransfer.group import check_backend
from kvtransfer.host_store import HostStore
from kvtransfer.nccl_receiver import MAX_GROUPS, NcclReceiver
from kvtransfer.shm_receiver import ShmReceiver
from kvtransfer.stores import Store, can_lend, device_frames_of, store_of
from kvtransfer.transport import Arrived, Deliver, KVReceiver
from kvtransfer.zeromq_receiver import ZeroMQReceiver
from protos import worker_pb2 as pb

log = logging.getLogger("decode")


async def run(config: WorkerConfig, model: OpenModel, tracing: Telemetry, stop: asyncio.Event | None = None) -> None:
    """Serve until `stop` is set; without one, until the process is told to stop."""
    who = model.who
    scheduler = DecodeScheduler(
        who.num_blocks,
        config.block_tokens,
        max_step_tokens=config.max_step_tokens,
        max_sequences=config.max_sequences,
    )

    def deliver(arrived: Arrived) -> None:
        service.arrived(arrived)

    # A sender takes the first one that it reaches.
    receivers = _receivers(config, store_of(model.cache, model.team), deliver, who.vocab_size)
    template = TicketTemplate(who.worker_id, who.incarnation, who.block_bytes, who.layout, receivers)
    slowdown = Slowdown(who.costs, who.own_costs)
    worker = DecodeWorker(scheduler, model.runner, model.sampler, template, slowdown, model.launch)
    loop: StepLoop[Command, Event] = StepLoop(lending(audited(worker, config), config, slowdown))
    spans = DecodeSpans(tracing, who.worker_id)
    service = DecodeService(worker, loop, receivers, who, spans, model.grammars)
    try:
        await serve(service.sessions, loop, service.deliver, config, stop or stop_signal(), who.costs)
    finally:
        for receiver in receivers:
            receiver.close()
        model.close()
        await tracing.aclose()


def _receivers(config: WorkerConfig, store: Store, deliver: Deliver, vocab_size: int) -> tuple[KVReceiver, ...]:
    """Everything that KV can come through."""
    receivers: list[KVReceiver] = []
    if config.shared_memory == "auto" and can_share_memory() and isinstance(store, HostStore):
        receivers.append(ShmReceiver(store, deliver, vocab_size=vocab_size))
    if can_lend(store, config):
        receivers.append(ShmReceiver(store, deliver, vocab_size=vocab_size))
    curve, listen = Curve.of(config.kv_key, config.kv_peers), config.kv_listen
    if config.kv_groups != "off":
        groups = NcclReceiver(
            config.kv_groups,
            beside(listen),
            store,
            deliver,
            curve,
            frames=device_frames_of(config.kv_groups, store),
            vocab_size=vocab_size,
            max_groups=MAX_NCCL_GROUPS if config.kv_groups == "nccl" else MAX_GROUPS,
            stall_limit_s=config.stall_limit_s,
        )
        receivers.append(groups)
    receivers.append(ZeroMQReceiver(listen, store, deliver, curve, vocab_size=vocab_size))
    return tuple(receivers)


def main() -> int:
    config = parse_options(WorkerConfig, "decode")
    setup_logging(config.log_level, "decode", config.log_format)
    try:
        check_exposure(config)
        check_backend(config.kv_groups)
        tracing = setup_tracing("tandem-decode", config.otlp_endpoint)
        config = configured_for(config, pb.ROLE_DECODE)
        model = open_model(config, pb.ROLE_DECODE)
        uvloop.run(run(config, model, tracing))
    except ConfigError as error:
        log.error("%s", error.message)
        return USAGE_STATUS
    return 0


if __name__ == "__main__":
    sys.exit(main())
