"""A worker's ranks as threads of the test's process, and what tests do with them."""

import socket
import threading
from pathlib import Path

import torch.distributed as dist

from engine.batch import Batch
from engine.cache import KVCache, block_size_bytes
from engine.checkpoint import ModelFolder
from engine.models.families import model_spec
from engine.models.spec import ModelSpec
from engine.runner import Runner, load_decoder
from engine.tp.channel import Channel
from engine.tp.follower import follow
from engine.tp.gloo import GlooRanks
from engine.tp.ranks import ALONE
from engine.tp.wire import pack_batch

LIMIT_S = 30.0


class ThreadRanks:
    """As many ranks of one model as there are asked for, over one pool; `runner` is rank 0's."""

    def __init__(
        self,
        folder: Path,
        size: int,
        *,
        num_blocks: int = 120,
        block_tokens: int = 16,
        kv_dtype: str = "float32",
        dtype: str = "auto",
        quantize: bool = False,
    ) -> None:
        self._model = ModelFolder.open(folder)
        self._options = (dtype, quantize)
        self._pool = (num_blocks, block_tokens, kv_dtype)
        spec: ModelSpec = model_spec(self._model.config)
        self._memory = memoryview(bytearray(num_blocks * block_size_bytes(spec, block_tokens, kv_dtype)))
        self._store = dist.HashStore()
        self._faults: list[BaseException] = []
        self._channels: list[Channel] = []
        self._threads: list[threading.Thread] = []
        for rank in range(1, size):
            ours, theirs = socket.socketpair()
            self._channels.append(Channel(ours))
            self._threads.append(threading.Thread(target=self._follow, args=(rank, size, Channel(theirs)), daemon=True))
        for thread in self._threads:
            thread.start()
        self.runner = self._runner(0, size)

    def close(self) -> None:
        for channel in self._channels:
            channel.close()
        for thread in self._threads:
            thread.join(LIMIT_S)
        assert not self._faults, self._faults

    def _runner(self, rank: int, size: int) -> Runner:
        ranks = GlooRanks(rank, size) if size > 1 else ALONE
        dtype, quantize = self._options
        decoder = load_decoder(self._model, dtype, quantize=quantize, ranks=ranks)
        num_blocks, block_tokens, kv_dtype = self._pool
        heads = decoder.split.kv_heads
        cache = KVCache(decoder.spec, num_blocks, block_tokens, self._memory, dtype=kv_dtype, heads=heads)
        if isinstance(ranks, GlooRanks):
            ranks.limit_s = LIMIT_S
            ranks.join(self._store)
        return Runner(decoder, cache, self._announce if rank == 0 else None)

    def _announce(self, batch: Batch) -> None:
        for channel in self._channels:
            channel.send(pack_batch(batch))

    def _follow(self, rank: int, size: int, channel: Channel) -> None:
        try:
            follow(channel, self._runner(rank, size))
        except BaseException as fault:
            self._faults.append(fault)
            raise
        finally:
            channel.close()
