"""A request's ledger as a waterfall: each segment where it began and as long as it took, on one axis of time.

Knows records (`frontend.records`). Does not know where they come from.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from cli.ledger import EIGHTHS
from frontend.records import MAX_ATTEMPTS, RequestAttempt, RequestRecord, RouterDecision
from frontend.segments import BY_NAME, Kind, of_kind

STYLES = dict.fromkeys(of_kind(Kind.WAIT), "yellow") | dict.fromkeys(of_kind(Kind.MOVE), "magenta")
"""Waiting and moving; the rest is work."""
SLOW_CLIENT = 0.05
"""Share of a request's time from which on it is told that tokens waited for who reads them."""
_LEFT_CELLS = 31
"""Before the bars: a name, milliseconds, a share."""


@dataclass(frozen=True, slots=True)
class _Bar:
    """One segment on the axis."""

    name: str
    began_ms: float
    ms: float
    way_began_ms: float = 0.0
    way_ms: float = 0.0
    """A part of it that was before."""


def waterfall(record: RequestRecord, width: int = 80) -> RenderableType:
    """Everything that is known of a request, at most `width` cells wide."""
    cells = max(width - _LEFT_CELLS, 8)
    lines = [*_head(record), Text(), *_ledger(record, cells), Text()]
    if record.ttft_ms is not None:
        lines += [*_rest(record), *_largest("time to first token", record.ttft_segments, record.ttft_ms)]
        lines += _vague(record)
        lines += _cold(record)
        if record.second_token_ms is not None and _most(record.second_token_segments) > _most(record.ttft_segments):
            lines += _largest("time to second token", record.second_token_segments, record.second_token_ms)
    else:
        lines += _largest("time until it failed", record.ttft_segments, record.e2e_ms)
    for attempt in record.attempts:
        lines += [Text(), *_attempt(attempt, record.num_attempts)]
    if record.num_attempts > len(record.attempts) == MAX_ATTEMPTS:
        lines += [Text(f"of {record.num_attempts} attempts only the first and the latest are kept", "dim")]
    return Group(*lines)


def _head(record: RequestRecord) -> Iterator[Text]:
    outcome = Text(record.outcome, "red" if record.failed else "green")
    words = (record.request_id, outcome, record.operation, record.model)
    yield Text("  ").join(word if isinstance(word, Text) else Text(word) for word in words)
    yield Text(time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(record.arrived_s)), "dim")
    if record.error:
        yield Text(record.error, "red")
    cached = f" ({record.cached_tokens} cached)" if record.cached_tokens else ""
    whose = f", key {record.key}" if record.key else ""
    yield Text(f"{record.prompt_tokens} prompt tokens{cached}, {record.output_tokens} output tokens{whose}", "dim")
    if record.trace_id:
        yield Text(f"trace {record.trace_id}{'' if record.traced else ', not exported'}", "dim")


def _ledger(record: RequestRecord, cells: int) -> Iterator[Text]:
    known_ms = record.e2e_ms if record.ttft_ms is None else record.ttft_ms + (record.second_token_ms or 0.0)
    yield _axis(known_ms, cells)
    for bar in _ttft_bars(record):
        yield _line(bar, sum(record.ttft_segments.values()), known_ms, cells)
    if record.ttft_ms is None:
        yield _total("no first token", record.e2e_ms)
        return
    yield _total("first token", record.ttft_ms)
    if record.second_token_ms is not None:
        for bar in _bars(record.second_token_segments, record.ttft_ms):
            yield _line(bar, record.second_token_ms, known_ms, cells)
        yield _total("second token", known_ms)


def _ttft_bars(record: RequestRecord) -> Iterator[_Bar]:
    """The way to the worker is of egress, and before the worker's."""
    way_ms, shift_ms, way_began_ms = record.way_ms, 0.0, 0.0
    for bar in _bars(record.ttft_segments, 0.0):
        if bar.name == "prefill_queue":
            shift_ms, way_began_ms = way_ms, bar.began_ms
        way = (way_began_ms, way_ms) if bar.name == "egress" else ()
        yield _Bar(bar.name, bar.began_ms + shift_ms, bar.ms, *way)


def _bars(segments: Mapping[str, float], began_ms: float) -> Iterator[_Bar]:
    for name, ms in segments.items():
        yield _Bar(name, began_ms, ms)
        began_ms += ms


def _axis(whole_ms: float, cells: int) -> Text:
    end = f" {_ms(whole_ms)} ms"
    return Text(" " * _LEFT_CELLS + "0 ".ljust(cells - len(end), "─") + end, "dim")


def _line(bar: _Bar, sum_ms: float, whole_ms: float, cells: int) -> Text:
    """`sum_ms` is what it is a share of, `whole_ms` the axis."""
    share = bar.ms / sum_ms if sum_ms > 0 else 0.0
    left = Text(f"{bar.name[:16]:<16}{_ms(bar.ms):>9}{share:>5.0%} ")
    way = drawn(bar.way_began_ms, bar.way_ms, whole_ms, cells)
    rest = drawn(bar.began_ms, bar.ms - bar.way_ms, whole_ms, cells)
    return left.append(way + rest[len(way) :], STYLES.get(bar.name, "blue"))


def _total(name: str, ms: float) -> Text:
    return Text(f"{name:<16}{_ms(ms):>9}", "bold")


def drawn(began: float, part: float, whole: float, cells: int) -> str:
    """`part` of `whole`, beginning where it began, to an eighth of a cell at its end; what is not nothing is seen."""
    if whole <= 0 or part <= 0:
        return ""
    first = min(int(cells * began / whole), cells - 1)
    eighths = max(round(8 * (cells * (began + part) / whole - first)), 1)
    eighths = min(eighths, 8 * (cells - first))
    return " " * first + "█" * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")


def _rest(record: RequestRecord) -> Iterator[Text]:
    """What came after the second token, which has no segments of its own."""
    if record.ttft_ms is None or record.second_token_ms is None or record.output_tokens < 3:
        return
    num_tokens = record.output_tokens - 2
    rest_ms = record.e2e_ms - record.ttft_ms - record.second_token_ms
    yield Text(f"{num_tokens} more tokens in {_ms(rest_ms)} ms, {_ms(rest_ms / num_tokens)} ms each")
    if record.client_ms > SLOW_CLIENT * record.e2e_ms:
        share = record.client_ms / record.e2e_ms
        yield Text(f"tokens waited {_ms(record.client_ms)} ms for the client to read, {share:.0%} of it all", "yellow")


def _largest(what: str, segments: Mapping[str, float], whole_ms: float) -> Iterator[Text]:
    if not segments or whole_ms <= 0:
        return
    name, ms = max(segments.items(), key=lambda item: item[1])
    meaning = f" ({BY_NAME[name].meaning})" if name in BY_NAME else ""
    yield Text(f"{ms / whole_ms:.0%} of the {what} was {name}{meaning}", "bold")
    if name in BY_NAME:
        yield Text(f"where that is much: {BY_NAME[name].remedy}")


def _most(segments: Mapping[str, float]) -> float:
    return max(segments.values(), default=0.0)


def _vague(record: RequestRecord) -> Iterator[Text]:
    """How well it is known where workers' segments stand; how long they are they measure."""
    if record.clock_within_ms is not None:
        yield Text(
            f"workers' clocks are known ± {_ms(record.clock_within_ms)} ms: so far their segments may be shifted", "dim"
        )


def _cold(record: RequestRecord) -> Iterator[Text]:
    """Where computing the prompt took longest: whether the prefix cache could have spared it."""
    if max(record.ttft_segments, key=record.ttft_segments.__getitem__, default="") != "prefill_compute":
        return
    if record.prompt_tokens and not record.cached_tokens:
        yield Text("none of the prompt was in the prefix cache", "yellow")


def _attempt(attempt: RequestAttempt, num_attempts: int) -> Iterator[Text]:
    of = f"attempt {attempt.number} of {num_attempts}, " if num_attempts > 1 else ""
    if attempt.decision is None:
        yield Text(f"{of}at {_ms(attempt.at_ms)} ms: no worker had taken it")
    else:
        yield Text(f"{of}at {_ms(attempt.at_ms)} ms: {way(attempt.decision)}")
        yield from _decision(attempt.decision)
    if attempt.failed:
        yield Text(f"  failed: {attempt.failed}", "red")


def way(decision: RouterDecision) -> str:
    """Who computed the prompt and who the rest."""
    if decision.prefill is None:
        return f"{decision.choice} on {decision.decode}"
    return f"{decision.choice}, {decision.prefill} → {decision.decode}"


def _decision(decision: RouterDecision) -> Iterator[Text]:
    if decision.cached_tokens:
        yield Text(f"  {decision.cached_tokens} tokens of the prompt were in its cache")
    if decision.local_ms is not None and decision.remote_ms is not None:
        yield Text("  predicted")
        for name, ms, loss_ms in (
            ("local", decision.local_ms, decision.local_loss_ms),
            ("remote", decision.remote_ms, decision.remote_loss_ms),
        ):
            lost = f", {_ms(loss_ms)} ms lost by others' streams" if loss_ms else ""
            chosen = "bold" if name == decision.choice else ""
            yield Text(f"  {name:<6} {_ms(ms):>8} ms to the first token{lost}", chosen)
    yield Text(f"  {decision.choice} was chosen: {decision.why}")


def _ms(ms: float) -> str:
    """With as many digits as tell something."""
    return f"{ms:,.2f}" if ms < 10 else f"{ms:,.1f}" if ms < 1000 else f"{ms:,.0f}"
