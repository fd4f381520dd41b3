"""What the runners here have in common: options, the servers that run all the while, whose turn it is, and a report.

Systems come in groups, each with its own rounds: the servers of all of them together do not fit into memory. The report
is printed however a run ends.
"""

import argparse
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.rivals.models import Models, prepare
from bench.rivals.results import Results
from bench.rivals.servers import Server, System, awake, end_on_sigterm, start_all
from engine.errors import ConfigError

Groups = Sequence[Sequence[System]]


@dataclass(frozen=True, slots=True)
class Session:
    """One group of a run: what was asked, who answers, and where samples go."""

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


def compare(
    args: argparse.Namespace,
    what: str,
    groups: Callable[[Models], Groups],
    measure: Callable[[Session], None],
    report: Callable[[Results], str],
) -> None:
    """Measure one group after the other, all chosen servers of it running from beginning to end; then print the report,
    of what was found by then if an error or SIGTERM ends it.

    Exits with a message where the models cannot be made, or `--only` names what there is not.
    """
    end_on_sigterm()
    try:
        models = prepare()
        chosen = choose(groups(models), args.only)
    except ConfigError as error:
        sys.exit(error.message)
    results = Results(what, args.output)
    try:
        for systems in chosen:
            with ExitStack() as stack:
                measure(Session(args, models, start_all(systems, stack), results))
    finally:
        print(report(results))


def choose(groups: Groups, only: Sequence[str]) -> list[list[System]]:
    """Those that `only` names, in their own order; all where it is empty. Raises ConfigError for an unknown name."""
    names = [system.name for systems in groups for system in systems]
    if unknown := [name for name in only if name not in names]:
        raise ConfigError(f"no system is named {', '.join(unknown)}; there are: {', '.join(names)}", field="--only")
    chosen = [[system for system in systems if not only or system.name in only] for systems in groups]
    return [systems for systems in chosen if systems]


def in_turn(servers: Sequence[Server], number: int = 0) -> Iterator[Server]:
    """Each server once, awake while it is the caller's. Every round begins with another one, or the same servers would
    have whatever befalls a round's beginning.
    """
    turned = deque(servers)
    turned.rotate(-number)
    for server in turned:
        with awake(server):
            yield server
