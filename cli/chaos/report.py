"""What a run found, for the terminal and as JSON; and whether all is well."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.chaos.checks import Custody, Grown
from cli.chaos.faults import Action, Moment
from cli.chaos.load import Outcome, Verdict
from cli.chaos.strikes import State, Strike
from engine.version import VERSION

SHOWN = 20
"""Of what is wrong, on the terminal; the JSON has all."""
NEEDED = ("tandem up", "frontend")
"""Processes that nobody hurts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a run was asked to be."""

    url: str
    """Empty: a server of its own."""
    model: str
    minutes: float
    seed: int
    num_asks: int
    num_clients: int
    every_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run, over."""

    config: Config
    served_model: str
    duration_s: float
    outcomes: tuple[Outcome, ...]
    strikes: tuple[Strike, ...]
    custody: Custody
    missing: tuple[str, ...]
    """Workers that the frontend could not use at the end."""
    grown: tuple[Grown, ...]
    num_corrupted: int
    """Pieces on KV links."""

    @property
    def wrong(self) -> list[str]:
        """Everything that is not well, in words with which it can be found again. Empty: all is well."""
        bad = [one for one in self.outcomes if one.verdict in (Verdict.WRONG, Verdict.LOST)]
        found = [_complaint(outcome) for outcome in bad]
        found += [
            f"fault {strike.fault.number}: {strike.victim} did not come back after {strike.fault.action}"
            for strike in self.strikes
            if strike.state is State.DONE
            and strike.fault.action in (Action.KILL, Action.STOP)
            and strike.recovered_s is None
        ]
        found += [f"{name} is not ready at the end" for name in self.missing]
        found += self.custody.wrong
        found += [line for process in self.grown for line in process.wrong]
        same = {process.name for process in self.grown if process.is_same}
        found += [f"{name} did not survive" for name in NEEDED if name not in same]
        if not any(strike.state is State.DONE for strike in self.strikes):
            found.append("nothing was hurt: the run was too short for its faults (--minutes, --every)")
        if not any(outcome.verdict is Verdict.RIGHT for outcome in self.outcomes):
            found.append("no request was answered to its end")
        return found

    def count(self, verdict: Verdict) -> int:
        return sum(outcome.verdict is verdict for outcome in self.outcomes)


def _complaint(outcome: Outcome) -> str:
    ask = outcome.ask
    how = "streamed" if ask.stream else "whole"
    what = f"ask {ask.number} ({ask.kind}, {ask.dialect}, {how}), sent at {outcome.sent_s:.1f} s"
    return f"{outcome.verdict}: {outcome.request_id or 'no request id'}, {what}: {outcome.why}"


# -- terminal ------------------------------------------------------------------------------------------------------


def render(report: Report) -> Group:
    """Requests, faults, processes, and what is wrong."""
    config, wrong = report.config, report.wrong
    title = f"chaos on {report.served_model}, {report.duration_s:.0f} s, seed {config.seed}"
    parts: list[RenderableType] = [Text(title, "bold"), Text(), _requests(report), Text(), _faults(report), Text()]
    parts += [_processes(report), Text(), Text(_blocks(report))]
    if refusals := Counter(why for outcome in report.outcomes for why in outcome.refusals):
        told = "; ".join(f"{count} x {why}" for why, count in refusals.most_common(3))
        parts.append(Text(f"refused before they were begun, and asked again: {told}", "dim"))
    if not wrong:
        return Group(*parts, Text("all is well", "bold green"))
    parts.append(Text(f"{len(wrong)} things are wrong:", "bold red"))
    parts += [Text(f"  {line}", "red") for line in wrong[:SHOWN]]
    if len(wrong) > SHOWN:
        parts.append(Text(f"  and {len(wrong) - SHOWN} more: see --output", "red"))
    again = f"the same asks and the same schedule again: --seed {config.seed} --asks {config.num_asks}"
    return Group(*parts, Text(again, "dim"))


def _table(first: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _requests(report: Report) -> Table:
    table = _table("requests", "asked", *Verdict, "refused")
    groups: list[tuple[str, Callable[[Outcome], bool]]] = []
    for kind in sorted({outcome.ask.kind for outcome in report.outcomes}):
        groups.append((kind, lambda outcome, kind=kind: outcome.ask.kind is kind))  # type: ignore[misc]
    groups.append(("all", lambda _: True))
    for name, belongs in groups:
        some = [outcome for outcome in report.outcomes if belongs(outcome)]
        counts = [_count(sum(o.verdict is verdict for o in some), verdict) for verdict in Verdict]
        table.add_row(_name(name), str(len(some)), *counts, str(sum(bool(o.refusals) for o in some)))
    return table


def _faults(report: Report) -> Table:
    done = [strike for strike in report.strikes if strike.state is State.DONE]
    table = _table("faults", "done", *Moment, "back after", "at most")
    for action, role in sorted({(strike.fault.action, strike.fault.role) for strike in report.strikes}):
        some = [strike for strike in done if (strike.fault.action, strike.fault.role) == (action, role)]
        times = sorted(strike.recovered_s for strike in some if strike.recovered_s is not None)
        moments = [str(sum(strike.moment is moment for strike in some) or "") for moment in Moment]
        name = f"{action} {role}" if action in (Action.KILL, Action.STOP) else f"{action} KV"
        back = [f"{times[len(times) // 2]:.1f} s", f"{times[-1]:.1f} s"] if times else ["", ""]
        table.add_row(_name(name), str(len(some)), *moments, *back)
    return table


def _processes(report: Report) -> Table:
    table = _table("processes", "RSS before", "after", "grown", "files", "threads")
    for one in report.grown:
        before, after = one.before, one.after
        grown = f"{(after.rss_kib - before.rss_kib) / 1024:+.1f} MiB" if one.is_same else "started again"
        table.add_row(
            _name(one.name),
            f"{before.rss_kib / 1024:.1f} MiB",
            f"{after.rss_kib / 1024:.1f} MiB",
            Text(grown, "bold red" if one.wrong else ""),
            f"{before.fds} → {after.fds}",
            f"{before.threads} → {after.threads}",
        )
    return table


def _blocks(report: Report) -> str:
    idle = report.custody.idle_after_s
    when = f"everything was let go {idle:.1f} s after the load" if idle is not None else "blocks are still held"
    skipped = sum(strike.state is State.SKIPPED for strike in report.strikes)
    found = f"{report.custody.leaked_blocks} blocks leaked; {when}; {skipped} faults found nothing to hurt"
    return f"{found}; {report.num_corrupted} pieces of KV corrupted" if report.num_corrupted else found


def _name(name: str) -> Text:
    return Text(name, "cyan")


def _count(count: int, verdict: Verdict) -> Text:
    return Text(str(count), "bold red" if count and verdict in (Verdict.WRONG, Verdict.LOST) else "")


# -- JSON ----------------------------------------------------------------------------------------------------------


def to_json(report: Report) -> str:
    """config, what is wrong, a row per request, per fault and per process."""
    value = {
        "tandem": VERSION,
        "config": asdict(report.config),
        "model": report.served_model,
        "duration_s": report.duration_s,
        "wrong": report.wrong,
        "verdicts": {verdict: report.count(verdict) for verdict in Verdict},
        "custody": asdict(report.custody),
        "requests": [_request(outcome) for outcome in report.outcomes],
        "faults": [_strike(strike) for strike in report.strikes],
        "processes": [asdict(process) for process in report.grown],
        "num_corrupted": report.num_corrupted,
    }
    return json.dumps(value, allow_nan=False) + "\n"


def _request(outcome: Outcome) -> dict[str, object]:
    ask = outcome.ask
    return {
        "ask": ask.number,
        "kind": ask.kind,
        "dialect": ask.dialect,
        "stream": ask.stream,
        "behavior": asdict(outcome.behavior),
        "verdict": outcome.verdict,
        "why": outcome.why,
        "request_id": outcome.request_id,
        "sent_s": round(outcome.sent_s, 3),
        "refusals": outcome.refusals,
    }


def _strike(strike: Strike) -> dict[str, object]:
    return {**asdict(strike.fault), "began_s": strike.at_s, "victim": strike.victim, "state": strike.state} | {
        "moment": strike.moment,
        "recovered_s": strike.recovered_s,
        "was_given_up": strike.was_given_up,
    }
