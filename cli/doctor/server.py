"""Looks at a server that runs: whether it is ready, and whether its processes' clocks agree with each other's."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from cli.doctor.findings import Finding, failure, ok, warning
from cli.page import Frontend
from frontend.status import ServerStatus

FAR_S = 0.05
"""Lines of logs that are so far apart stand in the wrong order."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A server's status, and how this machine's clock stands to it."""

    status: ServerStatus
    ahead_s: float
    """How far the frontend's clock is ahead of ours."""
    within_s: float
    """Half of what asking took: it may be so much more or less."""


def hear(frontend: Frontend) -> Heard:
    """Raises OSError or ValueError for a server that does not answer, or says what is no status."""
    asked_s = time.time()
    body = frontend.read("/debug/status")
    answered_s = time.time()
    status = msgspec.json.decode(body, type=ServerStatus)
    return Heard(status, status.at_s - (asked_s + answered_s) / 2, (answered_s - asked_s) / 2)


def check_server(heard: Heard) -> Iterator[Finding]:
    status = heard.status
    if status.ready:
        yield ok("server", f"version {status.version} is ready, {len(status.workers)} workers")
    else:
        yield failure("server", f"it is not ready: {status.reason}", "see the log of that role")
    for worker in status.workers:
        if worker.leaked_blocks:
            says = f"{worker.role} {worker.worker_id} has leaked {worker.leaked_blocks} KV blocks"
            yield failure("server", says, "tandem custody, and report it: it is a bug; a restart gives them back")
        for link in worker.links:
            if failures := sum(link.failures.values()):
                why = ", ".join(f"{reason} {count}" for reason, count in link.failures.items())
                says = f"{worker.worker_id} → {link.decode} over {link.transport}: {failures} transfers failed ({why})"
                yield warning("server", says, "the frontend's and that worker's log; a firewall, KV keys, a slow disk")


def check_clocks(heard: Heard) -> Iterator[Finding]:
    yield _clock("the frontend's clock", heard.ahead_s, heard.within_s, "this machine's")
    for worker in heard.status.workers:
        if worker.clock_ahead_s is not None:
            name = f"{worker.role} {worker.worker_id}'s clock"
            yield _clock(name, worker.clock_ahead_s, worker.clock_within_s or 0.0, "the frontend's")


def _clock(whose: str, ahead_s: float, within_s: float, than: str) -> Finding:
    word = "ahead of" if ahead_s > 0 else "behind"
    says = f"{whose} is {abs(ahead_s) * 1e3:,.1f} ms {word} {than} ± {within_s * 1e3:,.1f}"
    if abs(ahead_s) - within_s > FAR_S:
        remedy = "chrony or systemd-timesyncd on every host; times in logs are wrong, durations and traces are not"
        return warning("clocks", says, remedy)
    return ok("clocks", says)
