"""A receiver in a process of its own, for tests that kill it: prints its address, opens one ticket, waits."""

import sys
import threading

from kvtransfer.endpoints import CUDA_IPC
from kvtransfer.nccl_receiver import NcclReceiver
from kvtransfer.shm_receiver import ShmReceiver
from kvtransfer.transport import KVReceiver
from kvtransfer.zeromq_receiver import ZeroMQReceiver
from tests.kvtransfer.lent_by_cpus import lending
from tests.kvtransfer.pools import OnDevice, Pool, make_ticket

NUM_BLOCKS = 64
BLOCK_BYTES = 1 << 20


def listen(transport: str, address: str, pool: Pool) -> KVReceiver:
    if transport == "shm":
        return ShmReceiver(pool, lambda _: None)
    if transport == CUDA_IPC:
        return ShmReceiver(OnDevice(pool), lambda _: None)
    if transport == "gloo":
        return NcclReceiver("gloo", address, pool, lambda _: None)
    return ZeroMQReceiver(address, pool, lambda _: None)


def main(transport: str, address: str) -> None:
    pool = Pool(NUM_BLOCKS, BLOCK_BYTES)
    with lending():
        receiver = listen(transport, address, pool)
        receiver.open(make_ticket(receiver, pool, NUM_BLOCKS), range(NUM_BLOCKS))
        print(receiver.endpoint.address, flush=True)  # noqa: T201 — how the parent learns the port
        threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
