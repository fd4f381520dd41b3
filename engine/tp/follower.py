"""A rank that follows: `python -m engine.tp.follower SOCKET`, started by the worker whose rank 0 leads it.

 1. It hears over its socket which part of which model it is, maps the worker's KV pool and reads its weights.
 2. It says that it has them, or why not, and joins the group of all ranks; then it says so.
 3. It computes every batch that it is sent, and nothing else.

It ends when the leader does, whatever it is doing then: the system kills it (`engine.leash`), and where that cannot be
asked of the system a thread notices the end of the socket.
"""

import os
import select
import signal
import socket
import sys
import threading
from pathlib import Path

import torch

from engine.cache import KVCache
from engine.checkpoint import ModelFolder
from engine.errors import ConfigError
from engine.runner import Runner, load_decoder
from engine.shared_memory import map_writable
from engine.telemetry import setup_logging
from engine.tp.channel import Channel
from engine.tp.gloo import GlooRanks, store_in
from engine.tp.ranks import Ranks
from engine.tp.wire import Setup, unpack_batch

FINE = b""
"""What a rank answers when it has done what it was told; anything else says why it cannot."""


def open_rank(setup: Setup, pool: memoryview, ranks: Ranks) -> Runner:
    """This rank's part of the model, over the worker's pool; raises ConfigError."""
    folder = ModelFolder.open(Path(setup.folder))
    decoder = load_decoder(folder, setup.dtype, setup.max_context, quantize=setup.quantize, ranks=ranks)
    heads = decoder.split.kv_heads
    cache = KVCache(decoder.spec, setup.num_blocks, setup.block_tokens, pool, dtype=setup.kv_dtype, heads=heads)
    return Runner(decoder, cache)


def follow(channel: Channel, runner: Runner) -> None:
    """Compute what comes, until the leader ends."""
    while (data := channel.receive()) is not None:
        runner(unpack_batch(data))


def main() -> int:
    descriptor = int(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM):  # the leader drains, and needs its ranks for that
        signal.signal(number, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=descriptor))
    threading.Thread(target=_end_with_channel, args=(channel,), daemon=True).start()
    if (told := channel.receive_with(2)) is None:
        return 1
    data, (pool, place) = told
    setup = Setup.from_bytes(data)
    setup_logging(setup.log_level, setup.service, setup.log_format)
    torch.set_num_threads(setup.num_threads)
    try:
        ranks = GlooRanks(setup.rank, setup.size)
        runner = open_rank(setup, map_writable(pool), ranks)
    except ConfigError as error:
        channel.send(error.message.encode())
        return 2
    channel.send(FINE)
    ranks.join(store_in(place, setup.size))
    channel.send(FINE)
    follow(channel, runner)
    return 0


def _end_with_channel(channel: Channel) -> None:
    poll = select.poll()
    poll.register(channel, select.POLLRDHUP)
    poll.poll()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
