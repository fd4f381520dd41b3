"""Which processes `tandem up` runs, and with which options: a value in, command lines out.

Knows the options of `python -m frontend | prefill | decode`. Starts nothing.
"""

import os
import sys
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cli.environment import child_environment
from cli.probes import frontend_ready, frontend_serving, worker_serving
from cli.process import ProcessSpec
from engine.cpus import format_cpus, share_out
from engine.exposure import in_url
from engine.source import DEMO_NAME, Source
from frontend.mounts import Mount

PREFILL_NICENESS = 5
"""Where they share cores, a decode step (every stream waits for it) goes before a prompt's next chunk."""

Options = Mapping[str, object]
"""Options of a role by the names of its configuration's fields; None is "not given": the role's own default holds. One
that is given several times is a list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One frontend with its workers, all on this machine."""

    http_port: int
    grpc_port: int
    host: str = "127.0.0.1"
    mounts: tuple[Mount, ...] = ()
    prefill: int = 1
    """Workers of each model, as is `decode`."""
    decode: int = 1
    api_key: str | None = None
    transport: str = "shm"
    models: Sequence[Source] = (Source(DEMO_NAME, ""),)
    """The first is the default. Workers of one role are numbered through, those of the first model first."""
    shared: Options = field(default_factory=dict)
    """Of every process."""
    worker: Options = field(default_factory=dict)
    """Of prefill and decode workers alike."""
    frontend: Options = field(default_factory=dict)
    cpus: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """By role, and shared out among the role's processes; a role that is not there is pinned to none."""
    borrowers: Container[str] = ()
    """Roles whose workers use the CPUs of the other one's while these have no work. All workers must have their own."""
    ranks: Mapping[str, int] = field(default_factory=dict)
    """Processes of each worker, by role; 1 where it is not named."""
    drain_timeout_s: float = 60.0

    @property
    def needs_key(self) -> bool:
        return self.api_key is not None or self.frontend.get("api_keys") is not None

    @property
    def has_tls(self) -> bool:
        return self.frontend.get("tls_cert") is not None

    @property
    def asks_for_certificates(self) -> bool:
        return self.frontend.get("tls_ca") is not None

    @property
    def http_url(self) -> str:
        return self._url_at(self.http_port)

    @property
    def grpc_url(self) -> str:
        return f"{'grpcs' if self.has_tls else 'grpc'}://{self.grpc_address}"

    @property
    def grpc_address(self) -> str:
        return f"{in_url(reachable(self.host))}:{self.grpc_port}"

    def url_of(self, mount: Mount) -> str:
        return self._url_at(self.http_port if mount.port is None else mount.port) + mount.prefix

    def _url_at(self, port: int) -> str:
        return f"{'https' if self.has_tls else 'http'}://{in_url(reachable(self.host))}:{port}"

    def socket_names(self) -> list[str]:
        """The files that its processes make in their folder."""
        workers = [*self._workers("prefill"), *self._workers("decode")]
        return ["frontend.sock", *(f"{worker}.{ending}" for worker in workers for ending in ("sock", "kv", "kv.group"))]

    def processes(self, folder: Path) -> list[ProcessSpec]:
        """Workers first, as the frontend waits for them; the frontend is drained first."""
        workers = [self._worker(role, name, folder) for role in ("prefill", "decode") for name in self._workers(role)]
        return [*workers, self._frontend(folder)]

    def _workers(self, role: str) -> list[str]:
        return [f"{role}-{index}" for index in range(self._num_of_each(role) * len(self.models))]

    def _num_of_each(self, role: str) -> int:
        return self.prefill if role == "prefill" else self.decode

    def _model(self, role: str, name: str) -> Options:
        """What the worker of this name serves."""
        source = self.models[self._workers(role).index(name) // self._num_of_each(role)]
        return {"model": source.place or None, "served_model_name": source.name}

    def _worker(self, role: str, name: str, folder: Path) -> ProcessSpec:
        address = _listen(folder, name)
        own: dict[str, object] = {"worker_id": name, "listen": address, "cpus": self._cpus(role, name)}
        if self.borrowers:
            own["cpu_board"] = folder / "cpus"
            lender = "decode" if role == "prefill" else "prefill"
            own["borrow_cpus"] = format_cpus(self.cpus[lender]) if role in self.borrowers else None
        if self.worker.get("device", "cpu") != "cpu":
            own["device_memory_share"] = self._device_memory_share()
        if role == "decode":
            own["kv_listen"] = f"ipc://{folder / name}.kv" if self.transport != "tcp" else "tcp://127.0.0.1:0"
        else:
            own["niceness"] = PREFILL_NICENESS
        if (num_ranks := self.ranks.get(role, 1)) > 1:
            own["tensor_parallel"] = num_ranks
        if self.transport != "shm":
            own["shared_memory"] = "off"
        if self.transport == "gloo":
            own["kv_groups"] = "gloo"
        return ProcessSpec(
            name=name,
            command=self._command(role, folder, {**self._model(role, name), **self.shared, **self.worker, **own}),
            environment=child_environment(),
            until_ready=worker_serving(address),
            drain_stage=1,
        )

    def _device_memory_share(self) -> float | None:
        """All workers are on one GPU: as much for each. Rounded down, so that it is never more than there is."""
        num_workers = (self.prefill + self.decode) * len(self.models)
        return int(10_000 / num_workers) / 10_000 if num_workers > 1 else None

    def _frontend(self, folder: Path) -> ProcessSpec:
        own: dict[str, object] = {"host": self.host, "http_port": self.http_port, "grpc_port": self.grpc_port}
        own["cpus"] = self._cpus("frontend", "frontend")
        own["mount"] = ",".join(map(str, self.mounts)) or None
        for role in ("prefill", "decode"):
            own[role] = ",".join(_listen(folder, name) for name in self._workers(role)) or None
        first, *others = self.models
        told: dict[str, object] = {"model": first.place or None, "served_model_name": first.name}
        if others:
            told = {"model": [f"{source.name}={source.place}" for source in self.models]}
        # The key goes through the environment: a command line can be read by every user of the machine.
        key = {} if self.api_key is None else {"TANDEM_API_KEY": self.api_key}
        names = [source.name for source in others]
        until_ready = frontend_ready(reachable(self.host), self.http_port, names)
        if self.has_tls:  # it may want certificates that nobody here has: it is asked over a socket in its folder
            own["local_listen"] = local = _listen(folder, "frontend")
            until_ready = frontend_serving(local, names)
        return ProcessSpec(
            name="frontend",
            command=self._command("frontend", folder, {**told, **self.shared, **self.frontend, **own}),
            environment=child_environment(**key),
            until_ready=until_ready,
            drain_stage=0,
        )

    def _cpus(self, role: str, name: str) -> str | None:
        names = [name] if role == "frontend" else self._workers(role)
        shares = dict(zip(names, share_out(self.cpus.get(role, ()), len(names)), strict=True))
        return format_cpus(shares[name]) or None

    def _command(self, role: str, folder: Path, options: Options) -> tuple[str, ...]:
        # Processes write to pipes of ours; the disk that their lines end on, if any, is where our own output goes.
        watched = folder, *(f"/proc/{os.getpid()}/fd/{number}" for number in (1, 2))
        own = {"drain_timeout_s": self.drain_timeout_s, "watch_folders": ",".join(map(str, watched))}
        given = {**options, **own}
        arguments = [
            part
            for name, value in given.items()
            for each in (value if isinstance(value, list) else [value])
            if each is not None
            for part in (f"--{name.replace('_', '-')}", *(() if each is True else (str(each),)))
        ]
        return (*role_command(role), *arguments)


def role_command(role: str) -> tuple[str, ...]:
    """The program of one role. -P: a file named decode.py where the user happens to be is not what is meant."""
    return (sys.executable, "-P", "-m", role)


def _listen(folder: Path, name: str) -> str:
    return f"unix:{folder / name}.sock"


def reachable(host: str) -> str:
    """Where this machine reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
