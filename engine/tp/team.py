"""A worker of several ranks, seen from rank 0, which is the worker: its streams, scheduler, sampler and transports.

 1. `Team.start` starts a process for each other rank.
 2. `load` makes memory that all ranks map, and tells each rank which part of the model to load. On CPUs it is the KV
    pool; on GPUs, where each rank has a pool of its own heads, what they copy blocks through (`hold`).
 3. `join` waits until they have it, and makes one group of them all.
 4. `announce` sends each batch to the others; rank 0 then computes it as they do.

Whatever goes wrong with one rank ends the worker: rank 0 raises RankFailed in a step, and ends the process between two.
"""

import logging
import os
from dataclasses import replace

import torch

from engine.batch import Batch
from engine.config import WorkerConfig
from engine.errors import ConfigError
from engine.models.spec import ModelSpec
from engine.shared_memory import SharedMemory, can_share_memory
from engine.tp.copies import STAGING_BYTES, Copies, TeamCopies, staging_of
from engine.tp.devices import ranks_on
from engine.tp.followers import Followers, Lost
from engine.tp.gloo import meeting_place, store_in
from engine.tp.split import Split
from engine.tp.wire import Setup, pack_batch

log = logging.getLogger(__name__)


def check_parallel(config: WorkerConfig, device: torch.device) -> None:
    """Raise ConfigError for what cannot be spread over processes, whatever the model is."""
    if (count := config.pipeline_parallel) > 1:
        message = f"pipeline_parallel is {count}: a model's layers are not spread over processes; its heads are, by"
        raise ConfigError(f"{message} tensor_parallel", field="pipeline_parallel")
    if (size := config.tensor_parallel) == 1:
        return
    why = None
    if not can_share_memory():
        why = "ranks share memory, which takes Linux"
    elif device.type == "cuda":
        why = _why_not_on_gpus(config, device)
    elif config.borrow_cpus:
        why = "ranks cannot borrow CPUs; leave borrow_cpus empty"
    if why:
        raise ConfigError(f"tensor_parallel is {size}: {why}", field="tensor_parallel")


def _why_not_on_gpus(config: WorkerConfig, device: torch.device) -> str | None:
    first, count = device.index or 0, torch.cuda.device_count()
    if first + config.tensor_parallel > count:
        return f"each rank has a GPU of its own, from {first} on, and there are {count}"
    if config.kv_groups == "nccl":
        return "blocks whose heads lie on several GPUs go through the host; --kv-groups gloo or off"
    return None


def num_rank_threads(config: WorkerConfig, num_cpus: int) -> int:
    """Compute threads of each rank; 0 leaves it to torch. `num_cpus` is how many the worker is pinned to, or 0."""
    given = config.threads or num_cpus
    if config.tensor_parallel == 1:
        return given
    return max(1, (given or len(os.sched_getaffinity(0))) // config.tensor_parallel)


class Team:
    """Rank 0 and what it has of the others."""

    copies: TeamCopies
    """Of ranks with a pool each, once rank 0's is known"""

    def __init__(self, size: int, lost: Lost | None = None, device: torch.device | None = None) -> None:
        """Starts their processes, which Linux ends with the thread that calls. `lost` hears, once all have joined, of
        one that ends; by default that ends this process. `device` is rank 0's."""
        self.device = device or torch.device("cpu")
        self.ranks = ranks_on(self.device, 0, size)
        self.followers = Followers(size)
        self._lost = lost or _end_process
        self._place = meeting_place()
        """Never closed: torch looks there once more as it forgets the store."""
        self._memory: SharedMemory | None = None

    @classmethod
    def start(cls, config: WorkerConfig, spec: ModelSpec, device: torch.device) -> "Team | None":
        """None for a worker of one rank. Raises ConfigError for a model that cannot be split so."""
        if config.tensor_parallel == 1:
            return None
        Split.of(spec, 0, config.tensor_parallel)
        return cls(config.tensor_parallel, device=device)

    def load(self, setup: Setup, pool_bytes: int | None = None) -> SharedMemory:
        """Have the other ranks load their parts, as `setup` says but for the rank. The pool is made here, or if each
        has its own, what they copy through. Raises ConfigError, RankFailed."""
        memory_bytes = self.ranks.size * STAGING_BYTES if pool_bytes is None else pool_bytes
        self._memory = SharedMemory(memory_bytes, sealed=False)
        setups = [replace(setup, rank=rank, service=f"{setup.service}/{rank}") for rank in range(1, self.ranks.size)]
        self.followers.tell([each.to_bytes() for each in setups], (self._memory.fd, self._place))
        return self._memory

    def join(self) -> None:
        """Return once all ranks have loaded and are one group. Raises ConfigError with what one of them says,
        RankFailed."""
        assert self._memory is not None, "load comes first"
        self.followers.hear()
        self._memory.seal()  # all have mapped it
        self.followers.watch(self._lost)
        self.ranks.join(store_in(self._place, self.ranks.size))
        self.followers.hear()

    def hold(self, pool: torch.Tensor) -> None:
        """`pool` has rank 0's heads, and the other ranks have pools like it."""
        assert self._memory is not None, "load comes first"
        staging = self._memory.buffer
        self.copies = TeamCopies(Copies(pool, staging_of(staging, 0)), self.followers.copies, staging)

    def limit(self, seconds: float) -> None:
        """From now on no rank may keep rank 0 waiting for longer. Before, they compile, each at its own pace."""
        self.ranks.limit(seconds)
        self.followers.limit(seconds)

    def announce(self, batch: Batch) -> None:
        """Have the other ranks compute `batch`, which rank 0 must do next. Raises RankFailed."""
        self.followers.tell_all(pack_batch(batch))

    def close(self) -> None:
        """End the other ranks."""
        self.followers.close()


def _end_process(why: str) -> None:
    log.error("%s, and the worker with it", why)
    os._exit(1)
