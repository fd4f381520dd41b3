"""A sender in a process of its own, whose memory is borrowed: sends one block of a ticket, says so, waits to be killed.

Its pool is on a GPU if the second argument says so; else files stand for CUDA's handles.
"""

import asyncio
import sys
from contextlib import nullcontext

import torch

from kvtransfer.cuda_ipc import DeviceMemory
from kvtransfer.device_store import DeviceStore
from kvtransfer.endpoints import CUDA_IPC
from kvtransfer.shm import ShmSender
from kvtransfer.transport import Endpoint
from tests.kvtransfer.lent_by_cpus import lending
from tests.kvtransfer.pools import OnDevice, Pool, make_ticket

NUM_BLOCKS = 4
BLOCK_BYTES = 70_000
BYTE = 0xAB


async def main(address: str, device: str) -> None:
    pool = Pool(NUM_BLOCKS, BLOCK_BYTES)
    pool.overwrite(range(NUM_BLOCKS), BYTE)
    shared = pool.share()
    store: DeviceStore = OnDevice(pool)
    if device != "cpu":
        store = DeviceStore(store.pool.to(device))
        torch.cuda.synchronize()
    with lending() if device == "cpu" else nullcontext() as files:
        if files is not None:
            files.add(store.pool, shared)
        sender = ShmSender(store, DeviceMemory(store.pool))
        await sender.send(make_ticket(Endpoint(CUDA_IPC, address), pool, NUM_BLOCKS), 0, [0])
        print("sent", flush=True)  # noqa: T201 — how the parent learns of it
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
