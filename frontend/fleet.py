"""All workers of a frontend, by role: from a list of addresses, or every address behind a name."""

import asyncio
import logging
from collections.abc import Collection
from urllib.parse import urlsplit

from engine.exposure import in_url
from engine.tls import Tls
from frontend.leg_events import Start
from frontend.link import Link
from frontend.pulse import Pulse
from frontend.tally import Counts, Tally
from protos import worker_pb2 as pb

log = logging.getLogger(__name__)

RESOLVE_INTERVAL_S = 5.0
NAME = "dns:///"


class Fleet:
    """Every worker this frontend was told of, by role."""

    def __init__(self, prefill: tuple[str, ...], decode: tuple[str, ...], tls: Tls | None = None) -> None:
        """Workers are reached over TLS where there is `tls`."""
        self._tls = tls
        self.pulse = Pulse()
        self._addresses = {pb.ROLE_PREFILL: prefill, pb.ROLE_DECODE: decode}
        self._links: dict[str, Link] = {}
        self._tallies: dict[str, Tally] = {}
        """Of addresses that are gone, too."""
        self._roles: dict[str, pb.Role] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._resolved: dict[str, list[str]] = {}
        self._hosts: dict[str, str] = {}
        """By address, the host in the name behind which it was found."""

    async def run(self) -> None:
        """Keep all streams open, and names resolved, until cancelled."""
        async with asyncio.TaskGroup() as streams:
            while True:
                self._update(await self._wanted(), streams)
                await asyncio.sleep(RESOLVE_INTERVAL_S)

    async def _wanted(self) -> dict[str, "pb.Role"]:
        """Every address there is; those of a name that does not resolve now stay what they were."""
        for name in (name for names in self._addresses.values() for name in names):
            if (found := await _resolve(name)) is not None:
                self._resolved[name] = found
                self._hosts |= dict.fromkeys(found, _host(name))
        return {a: role for role, names in self._addresses.items() for n in names for a in self._resolved.get(n, ())}

    def _update(self, wanted: dict[str, "pb.Role"], streams: asyncio.TaskGroup) -> None:
        for address in wanted.keys() - self._links.keys():
            tally = self._tallies.setdefault(address, Tally())
            host = self._hosts.get(address, "")
            self._links[address] = Link(address, self.pulse, self._tls, host, tally=tally)
            self._roles[address] = wanted[address]
            self._tasks[address] = streams.create_task(self._links[address].run())
        for address in self._links.keys() - wanted.keys():
            if self._links[address].num_legs == 0:  # else it is finished first
                self._tasks.pop(address).cancel()
                del self._links[address], self._roles[address]

    def links(self, role: "pb.Role") -> list[Link]:
        """Workers of this role whose stream is up."""
        return [link for link in self._links.values() if link.view is not None and self._role_of(link) == role]

    @property
    def all_links(self) -> list[tuple["pb.Role", Link]]:
        return [(self._role_of(link), link) for link in self._links.values()]

    def keep_trace(self, trace_id: bytes) -> None:
        """Any worker may have had a part in it: attempts end and others have the rest."""
        for link in self._links.values():
            link.keep_trace(trace_id)

    @property
    def counts(self) -> Counts:
        """Of all workers there ever were."""
        return sum((tally.total for tally in self._tallies.values()), Counts())

    def died(self, start: Start) -> bool:
        """Whether this start of a worker is certain to be over: another one has said hello, or nobody is there now."""
        link = self._links.get(start.address)
        return link is None or link.incarnation != start.incarnation

    def expects_prefill(self, others: Collection[str]) -> bool:
        """Whether prefill workers are configured for a model that is served beside `others`: any that has not said that
        it is for one of those."""
        models = [link.model for role, link in self.all_links if role == pb.ROLE_PREFILL]
        return bool(self._addresses[pb.ROLE_PREFILL]) and (not models or any(model not in others for model in models))

    def _role_of(self, link: Link) -> "pb.Role":
        """What the worker says it is; what the configuration says while it says nothing."""
        return link.hello.role if link.hello else self._roles[link.address]


async def _resolve(name: str) -> list[str] | None:
    """The address itself, or every address of a `dns:///name:port`; None if that does not resolve."""
    if not name.startswith(NAME):
        return [name]
    parts = urlsplit("//" + name.removeprefix(NAME))
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(parts.hostname, parts.port, type=1)
    except OSError as error:
        log.warning("%s does not resolve: %s", name, error)
        return None
    hosts = ((str(sockaddr[0]), int(sockaddr[1])) for *_, sockaddr in infos)
    return [f"{in_url(host)}:{port}" for host, port in hosts]


def _host(name: str) -> str:
    """Of a `dns:///name:port`; empty of an address."""
    return urlsplit("//" + name.removeprefix(NAME)).hostname or "" if name.startswith(NAME) else ""
