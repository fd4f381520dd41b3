"""A server's processes on this machine, found through /proc, and what each of them takes of it. Linux only.

The frontend is who listens on the port; `tandem up` is its parent; workers are the parent's children that were given a
name. Nothing else is ever touched.
"""

import ipaddress
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from engine.errors import ConfigError
from engine.exposure import in_url

PROC = Path("/proc")
LISTENING = "0A"  # TCP_LISTEN of <net/tcp_states.h>
ROLES = ("prefill", "decode")


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process."""

    name: str
    role: str
    pid: int
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LocalServer:
    """A `tandem up` of this machine that is ours to hurt."""

    up_pid: int
    frontend_pid: int
    grpc_address: str


@dataclass(frozen=True, slots=True)
class Vitals:
    """What a process takes."""

    rss_kib: int
    fds: int
    threads: int


def check_platform() -> None:
    """Raises ConfigError where processes cannot be found."""
    if sys.platform != "linux":
        raise ConfigError(f"tandem chaos finds its victims through Linux's /proc; this is {sys.platform}")


def find_server(url: str, proc: Path = PROC) -> LocalServer:
    """The `tandem up` behind this address. Raises ConfigError, with the reason, where there is none to be hurt."""
    port = _local_port(url)
    owner = _owner(proc, _listening_inodes(proc, port))
    if owner is None:
        message = f"no process of ours listens on port {port}: is the server this user's, and in no container?"
        raise ConfigError(message, field="--url")
    command, parent = command_of(owner, proc), parent_of(owner, proc)
    is_ours = "frontend" in command and parent is not None and "up" in command_of(parent, proc)
    if parent is None or not is_ours or not workers(parent, proc):
        message = f"port {port} is process {owner}'s, which tandem up did not start: nobody would start workers again"
        raise ConfigError(message, field="--url")
    grpc_port = option(command, "--grpc-port")
    host = str(urlsplit(url).hostname)
    return LocalServer(parent, owner, f"{in_url(host)}:{grpc_port}")


def workers(up_pid: int, proc: Path = PROC) -> dict[str, Worker]:
    """The workers that run now, by name."""
    found = {}
    for pid in _pids(proc):
        if parent_of(pid, proc) != up_pid:
            continue
        command = command_of(pid, proc)
        role, name = option(command, "-m"), option(command, "--worker-id")
        if role in ROLES and name:
            found[name] = Worker(name, role, pid, command)
    return found


def vitals(pid: int, proc: Path = PROC) -> Vitals | None:
    """None of a process that is gone."""
    status = _status(pid, proc)
    try:
        fds = len(os.listdir(proc / str(pid) / "fd"))
    except OSError:
        return None
    if "VmRSS" not in status:
        return None
    return Vitals(int(status["VmRSS"].split()[0]), fds, int(status["Threads"]))


def option(command: tuple[str, ...], name: str) -> str:
    """What follows it on a command line; empty if it is not there."""
    return command[command.index(name) + 1] if name in command[:-1] else ""


def command_of(pid: int, proc: Path = PROC) -> tuple[str, ...]:
    """Empty of a process that is gone."""
    try:
        return tuple((proc / str(pid) / "cmdline").read_text(errors="replace").rstrip("\0").split("\0"))
    except OSError:
        return ()


def parent_of(pid: int, proc: Path = PROC) -> int | None:
    parent = _status(pid, proc).get("PPid")
    return int(parent) if parent is not None else None


def _local_port(url: str) -> int:
    parts = urlsplit(url)
    try:
        port = parts.port or 80
    except ValueError as error:
        raise ConfigError(f"{url}: {error}", field="--url") from error
    if parts.scheme != "http" or not parts.hostname:
        raise ConfigError(f"{url} is no http://HOST:PORT", field="--url")
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)}
    except OSError as error:
        raise ConfigError(f"{parts.hostname} has no address: {error.strerror}", field="--url") from error
    if not all(ipaddress.ip_address(address).is_loopback for address in found):
        message = f"{parts.hostname} is not this machine's loopback; only workers of this machine can be killed"
        raise ConfigError(message, field="--url")
    return port


def _listening_inodes(proc: Path, port: int) -> set[str]:
    """Of the sockets that listen on this port, whatever their address."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (proc / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(fields[9])
    return inodes


def _owner(proc: Path, inodes: set[str]) -> int | None:
    """The process that has one of these sockets open, among those whose files we may see."""
    sockets = {f"socket:[{inode}]" for inode in inodes}
    for pid in _pids(proc):
        with suppress(OSError):
            for fd in (proc / str(pid) / "fd").iterdir():
                with suppress(OSError):
                    if os.readlink(fd) in sockets:
                        return pid
    return None


def _pids(proc: Path) -> Iterator[int]:
    yield from (int(entry.name) for entry in proc.iterdir() if entry.name.isdecimal())


def _status(pid: int, proc: Path) -> dict[str, str]:
    try:
        lines = (proc / str(pid) / "status").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
