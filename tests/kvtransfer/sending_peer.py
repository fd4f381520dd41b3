"""A sender in a process of its own, for tests that kill it: sends one ticket's blocks, and then may stay."""

import asyncio
import sys

from kvtransfer.nccl import NcclSender
from kvtransfer.transport import Endpoint
from tests.kvtransfer.pools import Pool, make_ticket

NUM_BLOCKS = 64
BLOCK_BYTES = 1 << 20


async def main(address: str, then: str = "") -> None:
    pool = Pool(NUM_BLOCKS, BLOCK_BYTES, seed=1)
    ticket = make_ticket(Endpoint("gloo", address), pool, NUM_BLOCKS)
    sender = NcclSender("gloo", pool)
    await sender.send(ticket, 0, range(NUM_BLOCKS))
    if then == "stay":
        sys.stdout.write("sent\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
