"""How fast KV blocks move between two processes: ZeroMQ over tcp and ipc against a plain TCP socket.

    python -m bench.transfer --mib 128 --rounds 7 --out transfer.json

Every round moves the same blocks once over each path, so that a busy machine disturbs all of them alike. The plain
socket only copies; ZeroMQ also checksums on both sides and has every piece acknowledged.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from kvtransfer.transport import Commit, Endpoint, Fence, Ticket, TicketId
from kvtransfer.zeromq import ZeroMQSender
from kvtransfer.zeromq_receiver import ZeroMQReceiver

RAW = "raw tcp"
PATHS = (RAW, "zeromq tcp", "zeromq ipc")


@dataclass(frozen=True, slots=True)
class Case:
    """What one round moves."""

    num_blocks: int
    block_bytes: int

    @property
    def size_bytes(self) -> int:
        return self.num_blocks * self.block_bytes


class Pool:
    """Blocks in ordinary memory, every page of it touched."""

    def __init__(self, case: Case, fill: bytes) -> None:
        self._block_bytes = case.block_bytes
        self._memory = memoryview(bytearray(fill * (case.size_bytes // len(fill) + 1)))

    @property
    def block_bytes(self) -> int:
        return self._block_bytes

    def block_view(self, block: int) -> memoryview:
        return self._memory[block * self._block_bytes : (block + 1) * self._block_bytes]


def serve(case: Case, directory: str, control: Connection) -> None:
    """The receiving process: listens on every path, opens tickets as told, ends when `control` closes."""
    pool = Pool(case, b"\0")
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve_raw, args=(listener, pool, case), daemon=True).start()
    receivers = [
        ZeroMQReceiver(address, pool, lambda _: None) for address in ("tcp://127.0.0.1:0", f"ipc://{directory}/kv")
    ]
    control.send((listener.getsockname(), [receiver.endpoint for receiver in receivers]))
    with contextlib.suppress(EOFError):
        while True:
            ticket, slots = control.recv()
            for receiver in receivers:
                if receiver.endpoint in ticket.endpoints:
                    receiver.open(ticket, slots)
            control.send(None)
    for receiver in receivers:
        receiver.close()


def serve_raw(listener: socket.socket, pool: Pool, case: Case) -> None:
    peer, _ = listener.accept()
    while True:
        for block in range(case.num_blocks):
            view = pool.block_view(block)
            while view:
                if not (size := peer.recv_into(view)):
                    return
                view = view[size:]
        peer.sendall(b"k")


def send_raw(peer: socket.socket, pool: Pool, blocks: Sequence[int]) -> None:
    for block in blocks:
        peer.sendall(pool.block_view(block))
    peer.recv(1)


class Bench:
    """The sending process."""

    def __init__(self, case: Case, control: Connection) -> None:
        self._case = case
        self._control = control
        self._pool = Pool(case, os.urandom(1 << 20))
        self._sender = ZeroMQSender(self._pool)
        raw_address, self._endpoints = control.recv()
        self._raw = socket.create_connection(raw_address)
        self._num_tickets = 0

    async def run(self, rounds: int) -> dict[str, list[float]]:
        """Bytes per second of every path in every round; the first round only warms up."""
        measured: dict[str, list[float]] = {path: [] for path in PATHS}
        for number in range(rounds + 1):
            for path in PATHS:
                blocks = random.sample(range(self._case.num_blocks), self._case.num_blocks)
                seconds = await self._move(path, blocks)
                if number:
                    measured[path].append(self._case.size_bytes / seconds)
        await self._sender.aclose()
        self._raw.close()
        return measured

    async def _move(self, path: str, blocks: Sequence[int]) -> float:
        if path == RAW:
            return timed(lambda: send_raw(self._raw, self._pool, blocks))
        ticket = self._open(self._endpoints[PATHS.index(path) - 1])
        start = time.perf_counter()
        await self._sender.send(ticket, 0, blocks)
        await self._sender.commit(ticket, Commit(0))
        return time.perf_counter() - start

    def _open(self, endpoint: Endpoint) -> Ticket:
        self._num_tickets += 1
        fence = Fence(TicketId(f"bench-{self._num_tickets}"), "bench", 0, 0)
        ticket = Ticket(fence, "bench", self._case.num_blocks, 0, self._case.block_bytes, "bytes", (endpoint,))
        slots = random.sample(range(self._case.num_blocks), self._case.num_blocks)
        self._control.send((ticket, slots))
        self._control.recv()
        return ticket


def timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(case: Case, rounds: int) -> dict[str, list[float]]:
    processes = multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe()
    with tempfile.TemporaryDirectory() as directory:
        receiver = processes.Process(target=serve, args=(case, directory, theirs))
        receiver.start()
        theirs.close()
        try:
            return asyncio.run(Bench(case, ours).run(rounds))
        finally:
            ours.close()
            receiver.join()


def report(case: Case, measured: dict[str, list[float]]) -> dict[str, object]:
    medians = {path: statistics.median(speeds) for path, speeds in measured.items()}
    print(f"{case.num_blocks} blocks of {case.block_bytes / 1024:g} KiB, {len(measured[RAW])} rounds, GB/s")
    print(f"{'path':<12}{'median':>8}{'best':>8}{'of raw tcp':>12}")
    for path, speeds in measured.items():
        print(f"{path:<12}{medians[path] / 1e9:>8.2f}{max(speeds) / 1e9:>8.2f}{medians[path] / medians[RAW]:>12.2f}")
    return {
        "num_blocks": case.num_blocks,
        "block_bytes": case.block_bytes,
        "bytes_per_s": measured,
        "median_bytes_per_s": medians,
        "of_raw_tcp": {path: median / medians[RAW] for path, median in medians.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mib", type=int, default=128, help="moved per round and path")
    parser.add_argument("--block-kib", type=int, nargs="+", default=[16, 256, 1792], help="sizes of a block")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="also write the measurements here, as JSON")
    options = parser.parse_args()
    cases = [Case(max(1, (options.mib << 10) // kib), kib << 10) for kib in options.block_kib]
    results = [report(case, measure(case, options.rounds)) for case in cases]
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
