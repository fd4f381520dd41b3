"""Facts of this machine as the kernel tells them, and nothing made of them. Linux; elsewhere most are not known."""

import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
SHM = Path("/dev/shm")
PROBE_S = 60.0
"""Starting torch on a busy machine takes long."""


@dataclass(frozen=True, slots=True)
class Cpu:
    name: str
    flags: frozenset[str]
    architecture: str
    """As `uname -m` has it."""


@dataclass(frozen=True, slots=True)
class Cores:
    usable: int
    """CPUs that this process may run on."""
    present: int
    quota: float | None
    """CPUs' worth of time that the cgroup grants; None: as much as there is."""


@dataclass(frozen=True, slots=True)
class Memory:
    available_bytes: int
    """Without swapping, of the machine."""
    limit_bytes: int | None
    """Of the cgroup, what is left of it; None: no limit."""

    @property
    def usable_bytes(self) -> int:
        return min(self.available_bytes, self.limit_bytes if self.limit_bytes is not None else self.available_bytes)


@dataclass(frozen=True, slots=True)
class Gpu:
    """What the driver and this torch say. `driver` is None where there is none."""

    driver: str | None
    names: tuple[str, ...]
    torch_cuda: str | None
    """CUDA's version that torch was built for; None: a build without."""
    usable: bool
    """Whether torch finds a device."""


@dataclass(frozen=True, slots=True)
class Limits:
    open_files: int
    hard_open_files: int
    shm_bytes: int | None
    """Free in /dev/shm; None: there is none."""


def cpu() -> Cpu:
    lines = _text(Path("/proc/cpuinfo")).splitlines()
    fields = dict(_pair(line) for line in reversed(lines))  # of the first processor
    name = fields.get("model name", platform.processor() or "unknown")
    return Cpu(name, frozenset((fields.get("flags") or fields.get("Features", "")).split()), platform.machine())


def cores() -> Cores:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Cores(usable, os.cpu_count() or usable, _quota())


def memory() -> Memory:
    fields = dict(_pair(line) for line in _text(Path("/proc/meminfo")).splitlines())
    available = int(fields.get("MemAvailable", "0 kB").split()[0]) << 10
    limits = [left for folder in _cgroups() if (left := _left(folder)) is not None]
    return Memory(available, min(limits, default=None))


def limits() -> Limits:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Limits(soft, hard, shutil.disk_usage(SHM).free if SHM.is_dir() else None)


def gpu() -> Gpu:
    """Asks the driver, and torch, which takes seconds to import, in a process of its own: CUDA leaves traces."""
    found = _run(["nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader"])
    rows = [line.partition(",") for line in found.splitlines() if "," in line]
    script = "import torch; print(torch.version.cuda or '', int(torch.cuda.is_available()))"
    built, _, usable = _run([sys.executable, "-c", script]).strip().rpartition(" ")
    return Gpu(
        rows[0][0] if rows else None, tuple(row[2].strip() for row in rows), built.strip() or None, usable == "1"
    )


def taken_ports(host: str, ports: Iterable[int]) -> list[int]:
    """Those of them on which this process could not listen."""
    taken = []
    for port in ports:
        try:
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((host, port))
                listener.listen(1)
        except OSError:
            taken.append(port)
    return taken


def _quota() -> float | None:
    """The smallest of this cgroup's and of those above it; of version 2, or 1."""
    quotas = []
    for folder in _cgroups():
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if quota.isdigit():
            quotas.append(int(quota) / int(period))
    old = _text(CGROUP / "cpu" / "cpu.cfs_quota_us").strip(), _text(CGROUP / "cpu" / "cpu.cfs_period_us").strip()
    if all(number.isdigit() for number in old):  # -1 is no limit
        quotas.append(int(old[0]) / int(old[1]))
    return min(quotas, default=None)


def _cgroups() -> list[Path]:
    """This process's, and those above it."""
    own = _text(Path("/proc/self/cgroup")).strip().rpartition("0::")[2].strip("/\n")
    path = CGROUP / own.splitlines()[0] if own else CGROUP
    return [folder for folder in (path, *path.parents) if folder.is_relative_to(CGROUP)]


def _left(folder: Path) -> int | None:
    """Of a memory limit; what the page cache has can be taken."""
    most, used = _text(folder / "memory.max").strip(), _text(folder / "memory.current").strip()
    if not (most.isdigit() and used.isdigit()):
        return None
    stat = dict(line.partition(" ")[::2] for line in _text(folder / "memory.stat").splitlines())
    return int(most) - int(used) + int(stat.get("inactive_file", 0))


def _pair(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def _text(path: Path) -> str:
    """Empty where it cannot be read."""
    with suppress(OSError):
        return path.read_text()
    return ""


def _run(command: list[str]) -> str:
    """Its output; empty where it cannot be run, or fails."""
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PROBE_S)
        return done.stdout if done.returncode == 0 else ""
    return ""
