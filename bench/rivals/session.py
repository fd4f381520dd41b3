"""What the runners here have in common: options, the servers that run all the while, whose turn it is, and a report.

The report is printed however a run ends.
"""

import argparse
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.rivals.models import Models, prepare
from bench.rivals.results import Results
from bench.rivals.servers import Server, System, awake, end_on_sigterm, start_all
from engine.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Session:
    """One run of a runner: what was asked, who answers, and where samples go."""

    args: argparse.Namespace
    models: Models
    servers: list[Server]
    results: Results


def session_parser(description: str | None, rounds: int | None = None) -> argparse.ArgumentParser:
    """The options of every runner; `--rounds` only where it has a default, for a search has none."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--only", nargs="*", default=[], metavar="SYSTEM", help="names of systems; default: all")
    parser.add_argument("--output", type=Path, help="FILE.json")
    return parser


@contextmanager
def session(
    args: argparse.Namespace, what: str, systems: Callable[[Models], list[System]], report: Callable[[Results], str]
) -> Iterator[Session]:
    """All chosen servers until the block ends, be it by an error or SIGTERM; then the report of what was found by then.

    Exits with a message where the models cannot be made, or `--only` names what there is not.
    """
    end_on_sigterm()
    try:
        models = prepare()
        chosen = choose(systems(models), args.only)
    except ConfigError as error:
        sys.exit(error.message)
    results = Results(what, args.output)
    try:
        with ExitStack() as stack:
            yield Session(args, models, start_all(chosen, stack), results)
    finally:
        print(report(results))


def choose(systems: Sequence[System], only: Sequence[str]) -> list[System]:
    """Those that `only` names, in their own order; all where it is empty. Raises ConfigError for an unknown name."""
    names = [system.name for system in systems]
    if unknown := [name for name in only if name not in names]:
        raise ConfigError(f"no system is named {', '.join(unknown)}; there are: {', '.join(names)}", field="--only")
    return [system for system in systems if not only or system.name in only]


def in_turn(servers: Sequence[Server], number: int = 0) -> Iterator[Server]:
    """Each server once, awake while it is the caller's. Every round begins with another one, or the same servers would
    have whatever befalls a round's beginning.
    """
    turned = deque(servers)
    turned.rotate(-number)
    for server in turned:
        with awake(server):
            yield server
