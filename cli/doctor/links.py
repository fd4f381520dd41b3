"""How fast bytes go between processes of this machine, by the ways that KV takes: measured for a fraction of a second.

shm is what copying out of memory that two processes share costs; ipc and tcp are ZeroMQ's, in frames as large as KV's.
Both ends are threads of this process: what moves the bytes are the kernel and ZeroMQ's own threads.
"""

import mmap
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import zmq

from cli.doctor.findings import Finding, ok, warning

FRAME_BYTES = 1 << 20
NUM_FRAMES = 96
SLOW_BYTES_PER_S: Mapping[str, float] = {"shm": 1e9, "ipc": 2e8, "tcp": 2e8}
"""Below it something is wrong with the machine, or others use it."""
LONG_PROMPT = 1000


def measure() -> dict[str, float]:
    """Bytes a second by way."""
    with tempfile.TemporaryDirectory(prefix="tandem-doctor-") as folder:
        ipc = f"ipc://{Path(folder) / 'link'}"
        return {"shm": _shared(), "ipc": _zeromq(ipc), "tcp": _zeromq("tcp://127.0.0.1:*")}


def check_links(speeds: Mapping[str, float], kv_bytes_per_token: int = 0) -> Iterator[Finding]:
    """`kv_bytes_per_token` of a model, if it is known; 0 tells nothing of prompts."""
    for way, speed in speeds.items():
        says = f"{way}: {speed / 1e9:.2g} GB/s"
        if kv_bytes_per_token:
            size_bytes = LONG_PROMPT * kv_bytes_per_token
            says += f"; the KV of {LONG_PROMPT:,} tokens ({size_bytes / 1e6:,.0f} MB) takes {size_bytes / speed:.2g} s"
        if speed < SLOW_BYTES_PER_S[way]:
            yield warning("links", says, "see what else uses this machine's CPUs and memory, and measure again")
        else:
            yield ok("links", says)


def _shared() -> float:
    target = bytearray(FRAME_BYTES)
    with mmap.mmap(-1, NUM_FRAMES * FRAME_BYTES) as source:
        source.write(bytes(len(source)))  # every page is there
        began_s = time.perf_counter()
        for start in range(0, len(source), FRAME_BYTES):
            target[:] = memoryview(source)[start : start + FRAME_BYTES]
        return len(source) / (time.perf_counter() - began_s)


def _zeromq(address: str) -> float:
    with zmq.Context() as context, context.socket(zmq.PULL) as receiver, context.socket(zmq.PUSH) as sender:
        receiver.bind(address)
        sender.connect(receiver.getsockopt_string(zmq.LAST_ENDPOINT))
        frame = bytes(FRAME_BYTES)
        sender.send(frame)  # connected, and warm
        receiver.recv()
        sending = threading.Thread(target=lambda: [sender.send(frame, copy=False) for _ in range(NUM_FRAMES)])
        began_s = time.perf_counter()
        sending.start()
        for _ in range(NUM_FRAMES):
            receiver.recv(copy=False)
        seconds = time.perf_counter() - began_s
        sending.join()
        return NUM_FRAMES * FRAME_BYTES / seconds
