"""Many streams against a frontend, read with as little as can be, and what the frontend's process paid meanwhile.

    python -m bench.stream_client {sse,grpc} ADDRESS --pid PID [--streams 64] [--runs 5] [--seconds 4]

Prints one JSON list: each run's tokens, messages, wall and CPU seconds.
"""

import argparse
import asyncio
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc.aio
import uvloop

from protos import generate_pb2 as pb
from protos import generate_pb2_grpc

MAX_TOKENS = 100_000
"""More than a measurement sees: streams end when the client hangs up."""
PROMPT = [300, 301, 302]
WORD = b" token"
"""What the fake worker says, as text of the demonstration model's tokenizer."""
START_TIMEOUT_S = 30


@dataclass(slots=True)
class Count:
    """Of all streams together."""

    num_waiting: int
    """Streams that have not begun."""
    tokens: int = 0
    messages: int = 0
    all_begun: asyncio.Event = field(default_factory=asyncio.Event)

    def note_begun(self) -> None:
        self.num_waiting -= 1
        if not self.num_waiting:
            self.all_begun.set()


@dataclass(frozen=True, slots=True)
class Run:
    tokens: int
    messages: int
    wall_s: float
    cpu_s: float


class SseReader(asyncio.Protocol):
    """Sends one request and counts what comes: reads are messages, the fake worker's one word is a token."""

    def __init__(self, count: Count, request: bytes) -> None:
        self._count = count
        self._request = request
        self._begun = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self._request)  # type: ignore[attr-defined] # a transport of TCP

    def data_received(self, data: bytes) -> None:
        count = self._count
        count.messages += 1
        count.tokens += (tokens := data.count(WORD))
        if tokens and not self._begun:
            self._begun = True
            count.note_begun()


async def open_sse(address: str, streams: int, count: Count) -> Callable[[], None]:
    host, port = address.rsplit(":", 1)
    asked = {"model": "bench", "prompt": PROMPT, "max_tokens": MAX_TOKENS, "stream": True, "ignore_eos": True}
    body = json.dumps(asked).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    request = (head % len(body)).encode() + body
    loop = asyncio.get_running_loop()
    transports = []
    for _ in range(streams):
        transport, _ = await loop.create_connection(lambda: SseReader(count, request), host, int(port))
        transports.append(transport)

    def close() -> None:
        for transport in transports:
            transport.abort()

    return close


async def open_grpc(address: str, streams: int, count: Count) -> Callable[[], None]:
    channel = grpc.aio.insecure_channel(address)
    stub = generate_pb2_grpc.InferenceStub(channel)
    request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=PROMPT))
    request.stopping.max_tokens = MAX_TOKENS
    request.stopping.ignore_eos = True

    async def read() -> None:
        begun = False
        async for response in stub.Generate(request):
            count.messages += 1
            count.tokens += len(response.delta.token_ids)
            if not begun and response.HasField("delta"):
                begun = True
                count.note_begun()

    tasks = [asyncio.create_task(read()) for _ in range(streams)]

    def close() -> None:
        for task in tasks:
            task.cancel()

    return close


async def measure(kind: str, address: str, pid: int, streams: int, runs: int, seconds: float) -> list[Run]:
    count = Count(streams)
    close = await {"sse": open_sse, "grpc": open_grpc}[kind](address, streams, count)
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            await count.all_begun.wait()
        await asyncio.sleep(1.0)
        return [await _run(count, pid, seconds) for _ in range(runs)]
    finally:
        close()


async def _run(count: Count, pid: int, seconds: float) -> Run:
    tokens, messages, began, cpu_s = count.tokens, count.messages, time.perf_counter(), cpu_seconds(pid)
    await asyncio.sleep(seconds)
    cpu_s = cpu_seconds(pid) - cpu_s
    return Run(count.tokens - tokens, count.messages - messages, time.perf_counter() - began, cpu_s)


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process, as Linux keeps it: in ticks of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("sse", "grpc"))
    parser.add_argument("address")
    parser.add_argument("--pid", type=int, required=True, help="of the frontend")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one run")
    args = parser.parse_args()
    runs = uvloop.run(measure(args.kind, args.address, args.pid, args.streams, args.runs, args.seconds))
    print(json.dumps([asdict(run) for run in runs]))


if __name__ == "__main__":
    main()
