"""What the card can do, measured: copying, multiplying, launching. The other parts are held against these."""

import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from bench.gpu_parts.bench import Bench, Task
from bench.gpu_parts.report import Row

COPY, GEMM, LAUNCH = "copy GB/s", "gemm TFLOP/s", "launch us"
_GIB = 1 << 30
_GEMMS = ((8192, 8192, 8192), (4096, 4096, 4096), (8192, 28672, 4096), (2048, 28672, 4096), (16384, 8192, 8192))
"""Rows, outputs, inputs; the best of them is the rate."""


def tasks(bench: Bench) -> Iterator[Task]:
    yield Task("device copy", lambda: _copy(bench))
    yield Task("bf16 matrix product", lambda: _gemm(bench))
    yield Task("launches", lambda: _launches(bench))
    yield Task("pinned copies", lambda: _pinned_copies(bench))


def _copy(bench: Bench) -> None:
    num_bytes = bench.size(min(4 * _GIB, bench.free_bytes() // 8) // 4096 * 4096, 1 << 20)
    source = torch.randint(-128, 127, (num_bytes,), dtype=torch.int8, device=bench.device)
    target = torch.empty_like(source)
    speed = 2 * num_bytes / bench.median_ms([lambda: target.copy_(source)]) / 1e6
    bench.keep_limit(COPY, speed)
    bench.emit(Row("device copy", speed, "GB/s", note=f"{num_bytes / _GIB:.1f} GiB, read and written"))


def _gemm(bench: Bench) -> None:
    best, shape = 0.0, (0, 0, 0)
    for sizes in _GEMMS[: bench.size(len(_GEMMS), 1)]:
        rows, outputs, inputs = (bench.size(size, 64) for size in sizes)
        x = torch.randn(rows, inputs, dtype=torch.bfloat16, device=bench.device)
        weight = torch.randn(outputs, inputs, dtype=torch.bfloat16, device=bench.device)
        rate = 2 * rows * outputs * inputs / bench.median_ms([lambda x=x, w=weight: F.linear(x, w)]) / 1e9  # type: ignore[misc]
        if rate > best:
            best, shape = rate, (rows, outputs, inputs)
    bench.keep_limit(GEMM, best)
    bench.emit(Row("bf16 matrix product", best, "TFLOP/s", note=f"random, {' x '.join(map(str, shape))}"))


@triton.jit
def _nothing(x):  # type: ignore[no-untyped-def]
    tl.store(x, tl.load(x) + 1)


def _launches(bench: Bench) -> None:
    number = torch.zeros(1, dtype=torch.int32, device=bench.device)
    in_graph = bench.median_ms([lambda: _nothing[(1,)](number, num_warps=1)]) * 1e3
    count = bench.size(2000, 5)
    bench.synchronize()
    began = time.perf_counter()
    for _ in range(count):
        _nothing[(1,)](number, num_warps=1)
    launched_us = (time.perf_counter() - began) * 1e6 / count
    bench.synchronize()
    bench.keep_limit(LAUNCH, in_graph)
    bench.emit(Row("smallest kernel, in a graph", in_graph, "us", note="one after another, its gap included"))
    bench.emit(Row("launch of a Triton kernel", launched_us, "us", note="the host's time, without a graph"))


def _pinned_copies(bench: Bench) -> None:
    """One frame of KV after another, as they go through the host; the host's checksums are not in it."""
    size, count = bench.size(4 << 20, 1 << 12), bench.size(256, 2)
    there = torch.zeros(size, dtype=torch.uint8, device=bench.device)
    here = torch.zeros(size, dtype=torch.uint8, device="cpu", pin_memory=bench.device.type == "cuda")
    for name, target, source in (("to", here, there), ("from", there, here)):
        for num_copies in (1, count):
            bench.synchronize()
            began = time.perf_counter()
            for _ in range(num_copies):
                target.copy_(source, non_blocking=True)
            bench.synchronize()
            seconds = time.perf_counter() - began
        speed = size * count / seconds / 1e9
        bench.emit(Row(f"{name} pinned memory, 4 MiB", speed, "GB/s", note="the host's time, many under way"))
