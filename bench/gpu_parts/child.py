"""One part in its own process: its tasks one after another, until they are done or the time is."""

import platform
import time
import traceback
from collections.abc import Callable, Iterable, Set
from contextlib import nullcontext, suppress
from importlib import import_module
from pathlib import Path

import torch
import triton

from bench.gpu_parts import records
from bench.gpu_parts.bench import Bench, Task
from bench.gpu_parts.report import Row

STATUS_OF_A_BROKEN_DEVICE = 3
MADE_ON_THE_DEVICE = ("checks", "kernels", "warm", "tune")
"""Parts whose tensors are on the device unless they say otherwise. torch then hands every call, and every look at a
tensor, to Python first: microseconds that do not belong into what the others measure of the host."""


def run(part: str, file: Path, seconds: float, is_dry: bool, shard: str, seed: int) -> int:
    deadline = time.monotonic() + seconds
    found = records.read(file)
    if not is_dry and not torch.cuda.is_available():
        return 0
    device = torch.device("cpu" if is_dry else "cuda")
    bench = Bench(device, is_dry, deadline, records.limits(found), file)
    if part == "limits":
        records.append(file, {"machine": _machine(device)})
    return run_tasks(bench, part, shard, seed, set(records.begun(found)))


def run_tasks(bench: Bench, part: str, shard: str, seed: int, done: Set[str] = frozenset()) -> int:
    """Those of a shard that are not `done`; the process's status."""
    tasks: Callable[[Bench], Iterable[Task]] = import_module(f"bench.gpu_parts.{part}").tasks
    number, count = (int(word) for word in shard.split("/"))
    with torch.device(bench.device) if part in MADE_ON_THE_DEVICE else nullcontext():
        for index, task in enumerate(tasks(bench)):
            if index % count != number or task.name in done:
                continue
            torch.manual_seed(seed + index)  # whatever was done before it, in this process or another
            if not _do(bench, task):
                return STATUS_OF_A_BROKEN_DEVICE
    return 0


def _do(bench: Bench, task: Task) -> bool:
    """Whether the device is still usable."""
    bench.task = task.name
    records.append(bench.file, {"began": task.name})
    if bench.is_late():
        bench.emit(Row(task.name, "not reached", note="no time was left"))
        records.append(bench.file, {"ended": task.name})
        return True
    try:
        task.run()
        bench.synchronize()
    except Exception as error:  # whatever breaks is one failure, and the rest goes on
        traceback.print_exc()
        _fail(
            bench.file, task.name, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
        )
    else:
        records.append(bench.file, {"ended": task.name})
    if bench.device.type == "cuda":
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            return False
        with suppress(RuntimeError):
            torch.cuda.empty_cache()
    return True


def _fail(file: Path, name: str, why: str) -> None:
    row = Row(name, "failed", note=why, is_failure=True)
    records.append(file, {"row": row.as_json(), "task": name})
    records.append(file, {"ended": name})


def _machine(device: torch.device) -> dict[str, str]:
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": name, "torch": torch.__version__, "triton": triton.__version__}
