"""A sender in a process of its own, for tests that kill it: sends one ticket's blocks to an address."""

import asyncio
import sys

from kvtransfer.nccl import NcclSender
from kvtransfer.transport import Endpoint
from tests.kvtransfer.pools import Pool, make_ticket

NUM_BLOCKS = 64
BLOCK_BYTES = 1 << 20


async def main(address: str) -> None:
    pool = Pool(NUM_BLOCKS, BLOCK_BYTES, seed=1)
    ticket = make_ticket(Endpoint("gloo", address), pool, NUM_BLOCKS)
    await NcclSender("gloo", pool).send(ticket, 0, range(NUM_BLOCKS))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
