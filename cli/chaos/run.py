"""One run from its config to its report: right answers, then hurt, then peace and an account of what is left.

1. A server is found by its address, or started; it must be one whose workers may be killed.
2. Every ask is answered once by an undisturbed server: that is what is right from then on.
3. Load and faults run side by side until the time is over, all answers have ended and all workers are back.
4. What must hold of an idle server is checked.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio

from cli.chaos.asks import SHORTEST_CONTEXT, make_asks
from cli.chaos.checks import Processes, Settled
from cli.chaos.faults import schedule
from cli.chaos.links import LinkProxy, proxies
from cli.chaos.load import Load, right_answers
from cli.chaos.own import own_server
from cli.chaos.report import Config, Report
from cli.chaos.strikes import Striker
from cli.chaos.talk import Places, Talk
from cli.chaos.victims import LocalServer, find_server, option, workers
from engine.errors import ConfigError

READY_S = 30.0
"""A server is ready with one worker of each role; the frontend may not have noticed the others yet."""
LOOK_S = 0.2

Say = Callable[[str], None]


async def run(config: Config, api_key: str | None, say: Say, log: Path | None = None) -> Report:
    """A server of its own writes to `log`.

    Raises ConfigError for a server that cannot be hurt, Unavailable when it does not answer even in peace.
    """
    async with _server(config, say, log) as (url, server, links):
        talk = Talk(Places(url, server.grpc_address, api_key))
        try:
            return await _hurt(config, server, links, talk, say)
        finally:
            await talk.aclose()


@asynccontextmanager
async def _server(
    config: Config, say: Say, log: Path | None
) -> AsyncIterator[tuple[str, LocalServer, dict[str, LinkProxy]]]:
    if config.url:
        yield config.url, find_server(config.url), {}
        return
    with tempfile.TemporaryDirectory(prefix="tandem-chaos-") as folder:
        say("starting a server to hurt")
        async with own_server(config.model, log or Path(folder) / "log") as url:
            server = find_server(url)
            found = workers(server.up_pid).values()
            addresses = {worker.name: option(worker.command, "--kv-listen") for worker in found}
            async with proxies({name: address for name, address in addresses.items() if address}) as links:
                yield url, server, links


async def _all_ready(server: LocalServer, talk: Talk) -> frozenset[str]:
    """The names of all workers, once the frontend can use them. Raises ConfigError."""
    names = frozenset(workers(server.up_pid))
    deadline = time.monotonic() + READY_S
    while unready := names - await talk.ready_workers():
        if time.monotonic() > deadline:
            raise ConfigError(f"not ready before anything was hurt: {', '.join(sorted(unready))}", field="--url")
        await asyncio.sleep(LOOK_S)
    return names


async def _hurt(config: Config, server: LocalServer, links: dict[str, LinkProxy], talk: Talk, say: Say) -> Report:
    try:
        served = await talk.served()
        names = await _all_ready(server, talk)
    except grpc.aio.AioRpcError as error:
        raise ConfigError(f"no answer over gRPC: {error.details()}", field="--url") from error
    if served.max_context < SHORTEST_CONTEXT:
        raise ConfigError(f"a context of {served.max_context} tokens is too short to ask anything", field="--url")
    asks = make_asks(config.seed, config.num_asks, served)
    say(f"asking {len(asks)} questions in peace")
    right = await right_answers(talk, asks)
    before = Processes.of(server)

    duration_s = config.minutes * 60
    load = Load(talk, asks, right, config.seed)
    striker = Striker(server, talk, load.moments, links, say)
    roles = tuple(sorted({worker.role for worker in workers(server.up_pid).values()}))
    faults = schedule(config.seed, duration_s, config.every_s, roles=roles, links=bool(links))
    start_s = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(load.run(config.num_clients, duration_s))
        tasks.create_task(striker.run(faults))
    took_s = time.monotonic() - start_s

    say("waiting for everything to be let go")
    settled = Settled(talk, names)
    custody = await settled.custody()
    return Report(
        config=config,
        served_model=served.name,
        duration_s=took_s,
        outcomes=tuple(sorted(load.outcomes, key=lambda outcome: outcome.sent_s)),
        strikes=tuple(sorted(striker.strikes, key=lambda strike: strike.at_s)),
        custody=custody,
        missing=tuple(await settled.missing()),
        grown=tuple(before.grown_to(Processes.of(server))),
        num_corrupted=sum(link.num_corrupted for link in links.values()),
    )
