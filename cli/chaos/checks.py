"""What must hold when the load is over and everybody was left in peace: nothing held, nothing leaked, nothing grown."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio

from cli.chaos.talk import Talk
from cli.chaos.victims import PROC, LocalServer, Vitals, Worker, option, vitals, workers

IDLE_S = 60.0
LOOK_S = 0.5
MAX_RSS_KIB = 64 << 10
"""What a process may have grown by, beside a worker's pool: its memory is touched as blocks are first used."""
DEFAULT_POOL_MIB = 512
MAX_FDS = 16
MAX_THREADS = 16


@dataclass(frozen=True, slots=True)
class Grown:
    """A process before and after."""

    name: str
    is_same: bool
    """False: it was started again meanwhile, and the two are not comparable."""
    before: Vitals
    after: Vitals
    max_rss_kib: int

    @property
    def wrong(self) -> list[str]:
        if not self.is_same:
            return []
        found = []
        if (rss := self.after.rss_kib - self.before.rss_kib) > self.max_rss_kib:
            found.append(f"{self.name} has grown by {rss >> 10} MiB; {self.max_rss_kib >> 10} MiB are plenty")
        if (fds := self.after.fds - self.before.fds) > MAX_FDS:
            found.append(f"{self.name} has {fds} file descriptors more")
        if (threads := self.after.threads - self.before.threads) > MAX_THREADS:
            found.append(f"{self.name} has {threads} threads more")
        return found


@dataclass(frozen=True, slots=True)
class Processes:
    """What a server's processes take at one moment, by name."""

    vitals: Mapping[str, tuple[int, Vitals]]
    """With the process id."""
    pools_kib: Mapping[str, int]
    """Of the workers."""

    @classmethod
    def of(cls, server: LocalServer, proc: Path = PROC) -> "Processes":
        found = workers(server.up_pid, proc)
        pids = {"tandem up": server.up_pid, "frontend": server.frontend_pid, **{w.name: w.pid for w in found.values()}}
        taken = {name: (pid, now) for name, pid in pids.items() if (now := vitals(pid, proc)) is not None}
        return cls(taken, {worker.name: _pool_kib(worker) for worker in found.values()})

    def grown_to(self, after: "Processes") -> list[Grown]:
        """Those that there are now as well, by name."""
        return [
            Grown(name, pid == now[0], was, now[1], MAX_RSS_KIB + self.pools_kib.get(name, 0))
            for name, (pid, was) in self.vitals.items()
            if (now := after.vitals.get(name)) is not None
        ]


@dataclass(frozen=True, slots=True)
class Custody:
    """What workers said of their blocks, once idle or when patience ended."""

    leaked_blocks: int = 0
    wrong: tuple[str, ...] = ()
    idle_after_s: float | None = None


@dataclass(slots=True)
class Settled:
    """Asks a server until nobody holds anything."""

    talk: Talk
    names: frozenset[str]
    """Of all workers there should be."""
    _wrong: list[str] = field(default_factory=list)

    async def custody(self) -> Custody:
        start_s = time.monotonic()
        while True:
            reports = await self._reports()
            wrong = complaints(reports, self.names)
            leaked = sum(count for report in reports if isinstance(count := report.get("leaked_blocks"), int))
            if not wrong:
                return Custody(leaked, (), time.monotonic() - start_s)
            if time.monotonic() - start_s > IDLE_S:
                return Custody(leaked, tuple(wrong))
            await asyncio.sleep(LOOK_S)

    async def missing(self) -> list[str]:
        """Workers that the frontend cannot use."""
        try:
            return sorted(self.names - await self.talk.ready_workers())
        except grpc.aio.AioRpcError as error:
            return [f"all of them: {error.details()}"]

    async def _reports(self) -> list[dict[str, object]]:
        try:
            reports = await self.talk.get("/debug/custody")
        except (OSError, ValueError) as error:
            return [{"address": "the frontend", "error": str(error) or type(error).__name__}]
        return [report for report in reports if isinstance(report, dict)] if isinstance(reports, list) else []


def complaints(reports: list[dict[str, object]], names: frozenset[str]) -> list[str]:
    """What is not as it should be with an idle server's blocks, by worker and request. Empty: all is well."""
    wrong = [f"{report.get('address')}: {report['error']}" for report in reports if "error" in report]
    heard = {str(report["worker_id"]): report for report in reports if "worker_id" in report}
    wrong += [f"{name} gives no custody report" for name in sorted(names - heard.keys())]
    for name, report in sorted(heard.items()):
        holders = report.get("holders")
        for holder in holders if isinstance(holders, list) else ["what is no list"]:
            wrong.append(f"{name}: {_holder(holder)}")
        if report.get("leaked_blocks") != 0:
            wrong.append(f"{name}: {report.get('leaked_blocks')} blocks are leaked")
        counts = [report.get(f"{state}_blocks") for state in ("free", "cached")]
        if sum(count for count in counts if isinstance(count, int)) != report.get("num_blocks"):
            wrong.append(f"{name}: {counts} blocks are free and cached, of {report.get('num_blocks')}")
    return wrong


def _holder(holder: object) -> str:
    if not isinstance(holder, dict):
        return str(holder)
    blocks = holder.get("blocks")
    held = f"{len(blocks)} blocks" if isinstance(blocks, list) else "blocks"
    return f"{holder.get('request_id')} still holds {held}, {holder.get('state')}"


def _pool_kib(worker: Worker) -> int:
    given = option(worker.command, "--kv-memory-mb")
    return int(given or DEFAULT_POOL_MIB) << 10
