"""A server's status drawn for a terminal, in as many lines as that has.

From the top: the server, its last minute, its workers, where the time to the first token went, the slowest requests,
the router's latest decisions. Whoever has little room sees fewer of each; 80 by 24 shows all kinds. Pure: a status in,
lines out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.text import Text

from cli.ledger import EIGHTHS
from cli.waterfall import STYLES, drawn
from frontend.api import WorkerStatus
from frontend.minute import LastMinute
from frontend.recorder import LatestDecision
from frontend.records import RequestRecord
from frontend.status import ServerStatus

FEWEST = 3
"""Of workers, requests and decisions, each, where there is little room."""
POOL_CELLS = 8
AIRY_LINES = 30
"""With fewer there are no blank lines."""
_BEFORE_BAR = 31
_LONGEST_BAR = 24


@dataclass(frozen=True, slots=True)
class Room:
    """How many of each are shown."""

    workers: int
    slowest: int
    decisions: int


def screen(status: ServerStatus, width: int, height: int | None) -> list[Text]:
    """`height` lines at most, each of `width` cells at most; None: as many lines as there is to tell."""
    top = [*_server(status), *_minute(status.last_minute)]
    split = _split(status.last_minute, width)
    blank = [Text()] if height is None or height >= AIRY_LINES else []
    headings = 3 + 4 * len(blank)
    left = None if height is None else height - len(top) - len(split) - headings
    room = _shared_out(left, len(status.workers), len(status.slowest), len(status.decisions))
    lines = [
        *top,
        *blank,
        *_workers(status.workers, room.workers),
        *blank,
        *split,
        *blank,
        *_slowest(status, room.slowest),
        *blank,
        *_decisions(status, room.decisions),
    ]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines if height is None else lines[:height]


def _shared_out(left: int | None, workers: int, slowest: int, decisions: int) -> Room:
    """First a few of each, then workers, then requests, then decisions."""
    if left is None:
        return Room(workers, slowest, decisions)
    wanted = [workers, slowest, decisions]
    given = [min(FEWEST, number) for number in wanted]
    left -= sum(given)
    for index, number in enumerate(wanted):
        more = max(min(number - given[index], left), 0)
        given[index] += more
        left -= more
    return Room(*given)


# -- the server and its last minute ------------------------------------------------------------------------------------


def _server(status: ServerStatus) -> list[Text]:
    state = Text("ready", "green") if status.ready else Text(f"not ready: {status.reason}", "bold red")
    queued = f"{status.queued_requests}/{status.max_queued_requests} queued"
    full = status.queued_requests >= status.max_queued_requests
    return [
        _joined(
            Text(f"tandem {status.version}", "bold"),
            Text(", ".join(status.models)),
            state,
            Text(f"up {_span(status.up_s)}"),
            Text(f"{status.in_flight} under way"),
            Text(queued, "red" if full else "yellow" if status.queued_requests else ""),
        )
    ]


def _minute(minute: LastMinute) -> list[Text]:
    rates = _joined(
        Text(f"last {minute.over_s:.0f} s", "bold"),
        Text(f"{minute.answers_per_s:.1f} answers/s"),
        Text(f"{minute.output_tokens_per_s:,.0f} tokens/s"),
        Text(f"prompts {minute.prompt_tokens_per_s:,.0f} tokens/s, {minute.cached_share:.0%} cached"),
    )
    failures = ", ".join(f"{_word(reason)} {number}" for reason, number in _most(minute.num_failed))
    return [rates, Text(f"without an answer: {failures}", "red") if failures else Text("all were answered", "dim")]


def _most(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: -item[1])


def _word(reason: str) -> str:
    return reason.lower().replace("_", " ")


def _split(minute: LastMinute, width: int) -> list[Text]:
    """Where the time to the first token went, in two columns."""
    if minute.ttft_mean_ms is None or minute.ttft_p50_ms is None or minute.ttft_p95_ms is None:
        return [Text("no first token in the last minute", "dim")]
    title = _joined(
        Text(f"time to first token {_ms(minute.ttft_mean_ms)}", "bold"),
        Text(f"p50 {_ms(minute.ttft_p50_ms)}"),
        Text(f"p95 {_ms(minute.ttft_p95_ms)}"),
        Text(f"max {_ms(minute.ttft_max_ms or 0.0)}"),
    )
    segments = list(minute.ttft_segments.items())
    half = -(-len(segments) // 2)
    cells = min(max(width // 2 - _BEFORE_BAR, 1), _LONGEST_BAR)
    lines = [title]
    for left in range(half):
        line = Text()
        for name, ms in segments[left::half]:
            line.append(f" {name:<15}{_ms(ms):>9}{ms / (minute.ttft_mean_ms or 1.0):>5.0%} ")
            line.append(drawn(0, ms, minute.ttft_mean_ms, cells).ljust(cells), _style(name))
        lines.append(line)
    return lines


def _style(segment: str) -> str:
    return STYLES.get(segment, "blue")


# -- workers -----------------------------------------------------------------------------------------------------------


def _workers(workers: Sequence[WorkerStatus], most: int) -> list[Text]:
    """By role, but first those that take no requests."""
    lines = [Text(f"{'worker':<17}{'batch':>8}{'waiting':>13}  {'pool':<13}  speed", "bold")]
    ordered = sorted(workers, key=lambda worker: (worker.ready, worker.role, worker.worker_id or worker.address))
    shown = ordered if len(ordered) <= most else ordered[: most - 1]
    lines += [_worker(worker) for worker in shown]
    if len(ordered) > len(shown):
        lines.append(Text(f"{len(ordered) - len(shown)} more workers", "dim"))
    return lines


def _worker(worker: WorkerStatus) -> Text:
    # Of a worker that is away only the address is known, whose end is what tells one from the other.
    name = _cut(worker.worker_id, 16) if worker.worker_id else f"…{worker.address[-15:]}"
    line = Text(f"{name:<17}", "" if worker.ready else "red")
    if not worker.ready:
        return line.append(f" {worker.role}: {worker.state or 'not ready'}", "red")
    batch = f"{worker.running}/{worker.max_sequences}" if worker.max_sequences else str(worker.running)
    waiting = f"{worker.queued}, {_count(worker.queued_tokens)} tok" if worker.queued or worker.queued_tokens else "0"
    line.append(f"{batch:>8}").append(f"{waiting:>13}  ", "yellow" if worker.queued else "")
    line.append(_bar(worker.pool_share, POOL_CELLS), "red" if worker.pool_share > 0.9 else "blue")
    line.append(f"{worker.pool_share:>5.0%}")
    if worker.leaked_blocks:
        line.append(f" {worker.leaked_blocks} leaked", "bold red")
    return line.append(f"  {_speed(worker)}")


def _bar(share: float, cells: int) -> str:
    """Always so many cells wide."""
    eighths = round(8 * cells * min(max(share, 0.0), 1.0))
    return ("█" * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")).ljust(cells, "·")


def _speed(worker: WorkerStatus) -> str:
    parts = []
    if worker.role == "decode" and worker.decode_step_s:
        parts.append(f"{_ms(worker.decode_step_s * 1e3)}/step")
    if worker.tokens_per_s:
        parts.append(f"{worker.tokens_per_s:,.0f} tok/s")
    if worker.transfer_bytes_per_s:
        parts.append(f"KV {_bytes(worker.transfer_bytes_per_s)}/s")
    return ", ".join(parts)


# -- requests and decisions --------------------------------------------------------------------------------------------


def _slowest(status: ServerStatus, most: int) -> list[Text]:
    lines = [Text("slowest to a first token; tandem explain ID", "bold")]
    lines += [_request(record, status.at_s) for record in status.slowest[:most]]
    return lines if status.slowest else [*lines, Text("none yet", "dim")]


def _request(record: RequestRecord, now_s: float) -> Text:
    name, ms = max(record.ttft_segments.items(), key=lambda item: item[1], default=("?", 0.0))
    ttft_ms = record.ttft_ms or record.e2e_ms
    line = Text(f"{_cut(record.request_id, 30):<31}{_ms(ttft_ms):>9} ")
    line.append(f"{ms / ttft_ms if ttft_ms else 0.0:>4.0%} {name:<15}", _style(name))
    line.append(f"{_count(record.prompt_tokens):>6} tok{_span(now_s - record.arrived_s):>8}")
    return line


def _decisions(status: ServerStatus, most: int) -> list[Text]:
    lines = [Text("the router's latest: who computed the prompt → who the answer", "bold")]
    lines += [_decision(latest, status.at_s) for latest in status.decisions[:most]]
    return lines if status.decisions else [*lines, Text("none yet", "dim")]


def _decision(latest: LatestDecision, now_s: float) -> Text:
    decision = latest.decision
    ways = f"{_cut(decision.prefill or 'local', 12)} → {_cut(decision.decode, 12)}"
    line = Text(f"{_span(now_s - latest.at_s):>5}  {ways:<27}")
    if decision.local_ms is not None and decision.remote_ms is not None:
        ways_ms = (
            ("local", decision.local_ms, decision.local_loss_ms),
            (
                "remote",
                decision.remote_ms,
                decision.remote_loss_ms,
            ),
        )
        for name, ms, loss_ms in ways_ms:
            loss = f" +{_ms(loss_ms)}" if loss_ms and loss_ms >= 0.1 else ""
            line.append(f" {name} {_ms(ms)}{loss} ", "bold" if name == decision.choice else "dim")
    if decision.local_ms is None or decision.why != "by the estimates":
        line.append(f" {decision.why}")
    return line


# -- words and numbers -------------------------------------------------------------------------------------------------


def _joined(*parts: Text) -> Text:
    return Text(" · ").join(part for part in parts if part.plain)


def _cut(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _ms(ms: float) -> str:
    """To about three digits."""
    if ms >= 100_000:
        return f"{ms / 1e3:,.0f} s"
    if ms >= 1000:
        return f"{ms / 1e3:.2f} s"
    return f"{ms:.0f} ms" if ms >= 100 else f"{ms:.1f} ms"


def _span(seconds: float) -> str:
    """Rounded down to what one looks for."""
    whole = max(int(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min" if whole < 86_400 else f"{whole // 86_400} d"


def _count(number: int) -> str:
    return str(number) if number < 10_000 else f"{number / 1e3:.0f}k"


def _bytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
