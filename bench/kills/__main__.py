"""Workers killed (SIGKILL) at every moment of a request's way through them, under streams that never stop.

    python -m bench.kills [--kills 300] [--model DIR] [--seed N] [--clients 6] [--serve-option ...]

Each round is a `tandem up` of three prefill and three decode workers over one transport, whose workers have traps
(bench.kills.traps) at the moments of bench.kills.phases. One worker after the other is told where to die, and dies
there of itself, so that each kill's moment is certain. The next one waits until the streams that were there got on: a
request that workers keep dying with is refused as what they die of (frontend.quarantine), and here none is. All answers
are compared with those of undisturbed runs. Exit status 1 if any is wrong or lost, a block is held or leaked, a worker
does not come back, or died without being told to.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

from bench.abandon import held_and_leaked, settled_s
from bench.kills.load import Load
from bench.kills.phases import PHASES, Phase, Way
from bench.kills.report import Report
from bench.kills.server import Fleet, Server, served
from bench.kills.strikes import Striker
from cli.chaos.talk import Places, Talk

PER_ROLE = 3
UP = (
    *("--prefill", str(PER_ROLE), "--decode", str(PER_ROLE), "--max-step-tokens", "64", "--max-sequences", "12"),
    *("--kv-memory-mb", "16", "--threads", "1", "--debug-custody"),
)
SOON = {"TANDEM_PROFILE_S": "0.2"}
"""Workers measure their speed in less time than usual, to be back sooner."""
REMOTE = {**SOON, "TANDEM_ALWAYS_REMOTE": "true"}
ROUNDS: dict[str, tuple[tuple[str, ...], dict[str, str], frozenset[Way], int]] = {
    "shm": (("--transport", "shm"), REMOTE, frozenset((Way.ANY, Way.REMOTE)), 6),
    "zeromq, ipc": (("--transport", "ipc"), REMOTE, frozenset((Way.ANY, Way.REMOTE)), 4),
    "zeromq, tcp": (("--transport", "tcp"), REMOTE, frozenset((Way.ANY, Way.REMOTE)), 3),
    "prompts on decode": (("--prefill", "0"), SOON, frozenset((Way.ANY, Way.LOCAL)), 2),
}
"""Options, environment, which moments come, and which share of the kills."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--model", type=Path, help="a folder; default: the model that comes with Tandem")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=6, help="streams at any time")
    parser.add_argument("--serve-option", action="append", default=[], help="of tandem up, like --prefill-cpus=0")
    parser.add_argument("--minutes", type=float, default=60.0, help="after which no round kills any further")
    parser.add_argument("--only", choices=list(ROUNDS), help="one round alone")
    args = parser.parse_args()
    model = ("--model", str(args.model)) if args.model else ()
    rng, report = random.Random(args.seed), Report()
    until_s = time.monotonic() + 60 * args.minutes
    try:
        for (name, (options, environment, ways, _)), num_kills in zip(
            ROUNDS.items(), shares(args.kills, args.only), strict=True
        ):
            if not num_kills or time.monotonic() > until_s:
                continue
            with tempfile.TemporaryDirectory(prefix="tandem-kills-") as folder:
                arguments = (*model, *UP, *options, *args.serve_option)
                with served(Path(folder), arguments, environment) as server:
                    kills = schedule(ways, num_kills, rng)
                    asyncio.run(round_of(server, name, kills, until_s, args.clients, rng, report))
    finally:
        report.show()
    sys.exit(bool(report.faults))


def shares(num_kills: int, only: str | None = None) -> list[int]:
    """How many of the kills each round has."""
    weights = [weight if only in (None, name) else 0 for name, (*_, weight) in ROUNDS.items()]
    ends = [num_kills * sum(weights[: i + 1]) // sum(weights) for i in range(len(weights))]
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]


def schedule(ways: frozenset[Way], num_kills: int, rng: random.Random) -> list[Phase]:
    """Every phase that comes here as often as any other, in any order."""
    here = [phase for phase in PHASES if phase.way in ways and (Way.REMOTE in ways or phase.role == "decode")]
    kills: list[Phase] = []
    while len(kills) < num_kills:
        kills += rng.sample(here, len(here))
    return kills[:num_kills]


async def round_of(
    server: Server, name: str, kills: list[Phase], until_s: float, num_clients: int, rng: random.Random, report: Report
) -> None:
    talk = Talk(Places(server.http, server.grpc_address))
    try:
        load = Load(talk, await talk.served(), rng)
        fleet = Fleet(server, talk, frozenset(_names(server)))
        await load.learn()
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(fleet.watch())
            streams = tasks.create_task(load.run(num_clients))
            striker = Striker(server.arms, fleet, load, rng)
            await fleet.all_ready()
            try:
                await striker.strike(kills, until_s, lambda kill: report.note(name, kill))
            finally:
                load.ending = True
            await streams
            missing = await striker.all_back()
            watching.cancel()
        report.missed += len(striker.missed)
        report.faults += [f"{name}: {worker} did not come back" for worker in missing]
        report.faults += [f"{name}: {worker} died, and nobody had told it to" for worker in fleet.unasked]
        await _judge(server, name, load, report)
    finally:
        await talk.aclose()


async def _judge(server: Server, name: str, load: Load, report: Report) -> None:
    wrong = await load.judge()
    lost = [f"{o.heard.request_id} ({o.ask.kind}): {o.error}" for o in load.outcomes if o.error is not None]
    report.settle_s = max(report.settle_s, await settled_s(server.http))
    held, leaked = held_and_leaked(server.http)
    report.wrong, report.lost = report.wrong + len(wrong), report.lost + len(lost)
    report.held, report.leaked = report.held + held, report.leaked + leaked
    report.retries += retries(server.http)
    report.streams += Counter("whole" if outcome.is_whole else "left" for outcome in load.outcomes)
    report.longest_s += [outcome.longest_s for outcome in load.outcomes]
    report.faults += [f"{name}: wrong: {each}" for each in wrong] + [f"{name}: lost: {each}" for each in lost]
    if held or leaked:
        report.faults.append(f"{name}: {held} blocks are held, {leaked} leaked")


def retries(http: str) -> int:
    with urllib.request.urlopen(f"{http}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith("tandem_retries_total")))


def _names(server: Server) -> list[str]:
    from cli.chaos.victims import workers

    return sorted(workers(server.up_pid))


if __name__ == "__main__":
    main()
