"""How fast KV blocks move between two processes: ZeroMQ and gloo against a plain TCP socket, shared memory
against memcpy.

    python -m bench.transfer --mib 128 --rounds 7 --out transfer.json

Every round moves the same blocks once over each path, so that a busy machine disturbs all of them alike; all memory is
of the same kind and every page of it touched. The plain socket and memcpy (one thread, from pool to pool) only copy;
the transports also check fences and have every frame acknowledged, and ZeroMQ and gloo checksum on both
sides.
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

from engine.shared_memory import SharedMemory
from kvtransfer.host_store import HostStore
from kvtransfer.nccl import NcclSender
from kvtransfer.nccl_receiver import NcclReceiver
from kvtransfer.shm import ShmSender
from kvtransfer.shm_receiver import ShmReceiver
from kvtransfer.transport import Commit, Endpoint, Fence, KVReceiver, KVSender, Ticket, TicketId
from kvtransfer.zeromq import ZeroMQSender
from kvtransfer.zeromq_receiver import ZeroMQReceiver

RAW, MEMCPY = "raw tcp", "memcpy"
REFERENCES = {"zeromq tcp": RAW, "zeromq ipc": RAW, "gloo": RAW, "shm": MEMCPY}
"""The transports, in the order in which the receiving process names their endpoints."""
PATHS = (RAW, "zeromq tcp", "zeromq ipc", "gloo", MEMCPY, "shm")


@dataclass(frozen=True, slots=True)
class Case:
    """What one round moves."""

    num_blocks: int
    block_bytes: int

    @property
    def size_bytes(self) -> int:
        return self.num_blocks * self.block_bytes


class Pool(HostStore):
    """Blocks in memory that can be shared, every page of it touched."""

    def __init__(self, case: Case, fill: bytes) -> None:
        self.shared = SharedMemory(case.size_bytes)
        super().__init__(self.shared.buffer, case.block_bytes)
        self.memory[:] = (fill * (case.size_bytes // len(fill) + 1))[: case.size_bytes]


def serve(case: Case, directory: str, control: Connection) -> None:
    """The receiving process: listens on every path, opens tickets as told, ends when `control` closes."""
    pool = Pool(case, b"\0")
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve_raw, args=(listener, pool, case), daemon=True).start()
    receivers: list[KVReceiver] = [
        ZeroMQReceiver("tcp://127.0.0.1:0", pool, lambda _: None),
        ZeroMQReceiver(f"ipc://{directory}/kv", pool, lambda _: None),
        NcclReceiver("gloo", f"ipc://{directory}/kv.group", pool, lambda _: None),
        ShmReceiver(pool, lambda _: None),
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


def copy(source: Pool, target: Pool, blocks: Sequence[int], slots: Sequence[int]) -> None:
    for block, slot in zip(blocks, slots, strict=True):
        target.block_view(slot)[:] = source.block_view(block)


class Bench:
    """The sending process."""

    def __init__(self, case: Case, control: Connection) -> None:
        self._case = case
        self._control = control
        self._pool = Pool(case, os.urandom(1 << 20))
        self._target = Pool(case, b"\0")
        zeromq = ZeroMQSender(self._pool)
        gloo, shm = NcclSender("gloo", self._pool), ShmSender(self._pool, self._pool.shared)
        self._senders: dict[str, KVSender] = {"zeromq": zeromq, "gloo": gloo, "shm": shm}
        raw_address, endpoints = control.recv()
        self._endpoints: dict[str, Endpoint] = dict(zip(REFERENCES, endpoints, strict=True))
        self._raw = socket.create_connection(raw_address)
        self._num_tickets = 0

    async def run(self, rounds: int) -> dict[str, list[float]]:
        """Bytes per second of every path in every round; the first round only warms up."""
        measured: dict[str, list[float]] = {path: [] for path in PATHS}
        for number in range(rounds + 1):
            for path in PATHS:
                seconds = await self._move(path, self._shuffled(), self._shuffled())
                if number:
                    measured[path].append(self._case.size_bytes / seconds)
        for sender in self._senders.values():
            await sender.aclose()
        self._raw.close()
        return measured

    async def _move(self, path: str, blocks: Sequence[int], slots: Sequence[int]) -> float:
        """Seconds."""
        if path == RAW:
            return timed(lambda: send_raw(self._raw, self._pool, blocks))
        if path == MEMCPY:
            return timed(lambda: copy(self._pool, self._target, blocks, slots))
        endpoint = self._endpoints[path]
        sender, ticket = self._senders[endpoint.transport], self._open(endpoint, slots)
        start = time.perf_counter()
        await sender.send(ticket, 0, blocks)
        await sender.commit(ticket, Commit(0))
        return time.perf_counter() - start

    def _open(self, endpoint: Endpoint, slots: Sequence[int]) -> Ticket:
        self._num_tickets += 1
        fence = Fence(TicketId(f"bench-{self._num_tickets}"), "bench", 0)
        ticket = Ticket(fence, "bench", self._case.num_blocks, 0, self._case.block_bytes, "bytes", (endpoint,))
        self._control.send((ticket, slots))
        self._control.recv()
        return ticket

    def _shuffled(self) -> list[int]:
        return random.sample(range(self._case.num_blocks), self._case.num_blocks)


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
    ratios = {path: medians[path] / medians[reference] for path, reference in REFERENCES.items()}
    print(f"{case.num_blocks} blocks of {case.block_bytes / 1024:g} KiB, {len(measured[RAW])} rounds, GB/s")
    print(f"{'path':<12}{'median':>8}{'worst':>8}{'best':>8}")
    for path, speeds in measured.items():
        ratio = f"{ratios[path]:>8.2f} of {REFERENCES[path]}" if path in ratios else ""
        print(f"{path:<12}{medians[path] / 1e9:>8.2f}{min(speeds) / 1e9:>8.2f}{max(speeds) / 1e9:>8.2f}{ratio}")
    return {
        "num_blocks": case.num_blocks,
        "block_bytes": case.block_bytes,
        "bytes_per_s": measured,
        "median_bytes_per_s": medians,
        "ratios": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mib", type=int, default=128, help="moved per round and path")
    parser.add_argument("--block-kib", type=int, nargs="+", default=[16, 96, 256, 384, 1792], help="sizes of a block")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="also write the measurements here, as JSON")
    options = parser.parse_args()
    cases = [Case(max(1, (options.mib << 10) // kib), kib << 10) for kib in options.block_kib]
    results = [report(case, measure(case, options.rounds)) for case in cases]
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
