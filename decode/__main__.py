"""A decode worker process: `python -m decode --listen HOST:50053 --kv-listen tcp://HOST:50063 --model DIR`."""

import asyncio
import logging
import sys

import uvloop

from decode.scheduler import DecodeScheduler
from decode.service import DecodeService
from decode.spans import DecodeSpans
from decode.worker import Command, DecodeWorker, Event, TicketTemplate
from engine.audit import audited
from engine.config import WorkerConfig
from engine.cost import Slowdown
from engine.device import OpenModel, open_model
from engine.errors import ConfigError
from engine.lending import lending
from engine.process import check_exposure, serve, stop_signal
from engine.shared_memory import can_share_memory
from engine.steploop import StepLoop
from engine.telemetry import Telemetry, setup_logging, setup_tracing
from kvtransfer.curve import Curve
from kvtransfer.shm_receiver import ShmReceiver
from kvtransfer.transport import KVReceiver
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
    receivers: list[KVReceiver] = []  # a sender takes the first one that it reaches
    if model.cache and config.shared_memory == "auto" and can_share_memory():
        shm = ShmReceiver(model.cache, lambda arrived: service.arrived(arrived), vocab_size=who.vocab_size)
        receivers.append(shm)
    if model.cache:
        curve = Curve.of(config.kv_key, config.kv_peers)
        zeromq = ZeroMQReceiver(
            config.kv_listen, model.cache, lambda arrived: service.arrived(arrived), curve, vocab_size=who.vocab_size
        )
        receivers.append(zeromq)
    template = TicketTemplate(who.worker_id, who.incarnation, who.block_bytes, who.layout, tuple(receivers))
    slowdown = Slowdown(who.costs, who.own_costs)
    worker = DecodeWorker(scheduler, model.runner, model.sampler, template, slowdown)
    loop: StepLoop[Command, Event] = StepLoop(lending(audited(worker, config), config, slowdown))
    service = DecodeService(worker, loop, receivers, who, DecodeSpans(tracing, who.worker_id))
    try:
        await serve(service.sessions, loop, service.deliver, config, stop or stop_signal(), who.costs)
    finally:
        for receiver in receivers:
            receiver.close()
        await tracing.aclose()


def main() -> int:
    config = WorkerConfig(_cli_parse_args=True, _cli_prog_name="python -m decode")  # type: ignore[call-arg]
    setup_logging(config.log_level, "decode")
    try:
        check_exposure(config)
        tracing = setup_tracing("tandem-decode", config.otlp_endpoint)
        model = open_model(config, pb.ROLE_DECODE)
        uvloop.run(run(config, model, tracing))
    except ConfigError as error:
        log.error("%s", error.message)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
