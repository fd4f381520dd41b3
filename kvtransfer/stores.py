"""A worker's pool as its transports see it, by where it lies."""

from typing import TYPE_CHECKING

from engine.cache import KVCache
from kvtransfer.device_store import DeviceStore
from kvtransfer.host_store import HostStore

if TYPE_CHECKING:
    from engine.gpu.cache import GpuCache


def store_of(cache: "KVCache | GpuCache") -> HostStore | DeviceStore:
    """Made once for a worker, whose transports share it."""
    if isinstance(cache, KVCache):
        return HostStore(cache.memory, cache.block_bytes)
    return DeviceStore(cache.pool)
