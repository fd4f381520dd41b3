"""A worker's pool as its transports see it, by where it lies."""

from typing import TYPE_CHECKING, TypeGuard

from engine.cache import KVCache
from engine.config import WorkerConfig
from engine.errors import ConfigError
from engine.shared_memory import can_share_memory
from kvtransfer.device_store import DeviceStore
from kvtransfer.group import Backend
from kvtransfer.host_store import HostStore
from kvtransfer.ranks_store import RanksStore, SharedHeads

if TYPE_CHECKING:
    from engine.gpu.cache import GpuCache
    from engine.tp.team import Team
    from kvtransfer.device_frames import DeviceFrames

Store = HostStore | DeviceStore | RanksStore


def store_of(cache: "KVCache | GpuCache", team: "Team | None" = None) -> Store:
    """Made once for a worker, whose transports share it."""
    if isinstance(cache, KVCache):
        return HostStore(cache.memory, cache.block_bytes)
    if team is None:
        return DeviceStore(cache.pool)
    head_bytes = cache.block_tokens * cache.spec.head_dim * cache.pool.itemsize
    return RanksStore(cache.num_blocks, SharedHeads.of(cache.spec, team.ranks.size, head_bytes), team.copies)


def can_lend(store: Store, config: WorkerConfig) -> TypeGuard[DeviceStore]:
    """Whether other workers of this host may read the pool where it lies on its GPU, and this one theirs."""
    return (
        isinstance(store, DeviceStore) and store.pool.is_cuda and config.shared_memory == "auto" and can_share_memory()
    )


def device_frames_of(backend: Backend, store: Store) -> "DeviceFrames | None":
    """For a group of NCCL, which sends from a GPU and receives on one; None for gloo. Raises ConfigError."""
    if backend == "gloo":
        return None
    if not isinstance(store, DeviceStore):
        message = "--kv-groups nccl is for pools on GPUs: --device cuda, or another way for a CPU's"
        raise ConfigError(message, field="kv_groups")
    from kvtransfer.device_frames import DeviceFrames  # imports Triton, which a worker on a CPU need not have

    return DeviceFrames(store.pool)
