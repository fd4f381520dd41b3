"""A rank that follows: `python -m engine.tp.follower SOCKET COPIES`, started by the worker whose rank 0 leads it.

 1. It hears over its socket which part of which model it is, maps the worker's memory and reads its weights.
 2. It says that it has them, or why not, and joins the group of all ranks; then it says so.
 3. It computes every batch that it is sent, and nothing else.

On CPUs the memory is the worker's KV pool. On GPUs each rank has a pool of its own heads; the memory is where their
bytes lie on the way to and from other workers, and over the second socket it hears which it is to copy (`copies.py`).

It ends when the leader does, whatever it is doing then: the system kills it (`engine.leash`), and where that cannot be
asked of the system a thread notices the end of the socket.
"""

import logging
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from engine.batch import Batch
from engine.cache import KVCache
from engine.checkpoint import ModelFolder
from engine.config import WorkerConfig
from engine.errors import ConfigError
from engine.runner import Runner, load_decoder
from engine.shared_memory import map_writable
from engine.telemetry import setup_logging
from engine.tp.channel import FINE, Channel
from engine.tp.copies import Copies, serve_copies, staging_of
from engine.tp.devices import device_of, ranks_on
from engine.tp.gloo import store_in
from engine.tp.ranks import DeviceRanks, Ranks
from engine.tp.wire import Setup, unpack_batch

log = logging.getLogger(__name__)

Compute = Callable[[Batch], torch.Tensor]


def open_rank(setup: Setup, pool: memoryview, ranks: Ranks) -> Runner:
    """This rank's part of the model, over the worker's pool; raises ConfigError."""
    folder = ModelFolder.open(Path(setup.folder))
    decoder = load_decoder(folder, setup.dtype, setup.max_context, quantize=setup.quantize, ranks=ranks)
    heads = decoder.split.kv_heads
    cache = KVCache(decoder.spec, setup.num_blocks, setup.block_tokens, pool, dtype=setup.kv_dtype, heads=heads)
    return Runner(decoder, cache)


def open_rank_on_device(
    setup: Setup, staging: memoryview, ranks: DeviceRanks, join: Callable[[], None], copies: Channel
) -> Compute:
    """The same with the GPU's engine, over a pool of its own; `join` returns when all have their weights. From then on
    it copies what it is told to. Raises ConfigError."""
    from engine.gpu.open import open_gpu  # imports Triton, which a worker on a CPU need not have

    config = WorkerConfig.model_validate_json(setup.config)
    device = device_of(torch.device(setup.device), setup.rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    runner = open_gpu(config, ModelFolder.open(Path(setup.folder)), device, ranks, join).runner
    own = Copies(runner.cache.pool, staging_of(staging, setup.rank))
    threading.Thread(target=serve_copies, args=(copies, own), name="tp-copies", daemon=True).start()
    return runner


def follow(channel: Channel, runner: Compute) -> None:
    """Compute what comes, until the leader ends."""
    while (data := channel.receive()) is not None:
        runner(unpack_batch(data))


def main() -> int:
    descriptor, of_copies = (int(word) for word in sys.argv[1:])
    for number in (signal.SIGINT, signal.SIGTERM):  # the leader drains, and needs its ranks for that
        signal.signal(number, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=descriptor))
    threading.Thread(target=_end_with_channel, args=(channel,), daemon=True).start()
    if (told := channel.receive_with(2)) is None:
        return 1
    data, (memory, place) = told
    setup = Setup.from_bytes(data)
    setup_logging(setup.log_level, setup.service, setup.log_format)
    torch.set_num_threads(setup.num_threads)
    runner: Compute
    try:
        ranks = ranks_on(device_of(torch.device(setup.device), setup.rank), setup.rank, setup.size)

        def join() -> None:
            channel.send(FINE)
            ranks.join(store_in(place, setup.size))
            channel.send(FINE)

        if setup.config:
            copies = Channel(socket.socket(fileno=of_copies))
            runner = open_rank_on_device(setup, map_writable(memory), ranks, join, copies)
        else:
            runner = open_rank(setup, map_writable(memory), ranks)
            join()
    except ConfigError as error:
        log.error("%s", error.message)
        channel.send(error.message.encode())
        channel.receive()  # nothing comes: whoever leads says why, and ends this process
        return 2
    follow(channel, runner)
    return 0


def _end_with_channel(channel: Channel) -> None:
    poll = select.poll()
    poll.register(channel, select.POLLRDHUP)
    poll.poll()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
