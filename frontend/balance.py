"""Which side binds, prefill or decode, by what requests waited for lately and by how busy workers are now.

A request waits for prefill between a decode worker's promise and its first chunk, and for decode until it has room
there and until the step that joins it. What one more worker would do is what there is, shared by one more: arithmetic,
no forecast, for faster answers bring more requests. Pure: periods and workers in, a verdict out.
"""

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from frontend.api import WorkerStatus, pool_share
from frontend.history import PERIOD_S, Period
from frontend.segments import BY_NAME

OVER_S = 300
NEGLIGIBLE = 0.1
"""Of the time until a request has joined its batch: who waits for less is held up by neither side."""
CLEAR = 2 / 3
"""Of all waiting, that one side must have to be the one that binds."""
FULL = 0.8
"""Of a batch or a pool: with less in use, whoever waits does not wait for room."""


class Verdict(StrEnum):
    IDLE = "idle"
    NEITHER = "neither"
    PREFILL = "prefill"
    DECODE = "decode"
    BOTH = "both"


class SideLoad(msgspec.Struct, frozen=True, kw_only=True):
    """How much each worker of a role has of something."""

    role: str
    what: str
    unit: str
    """share, of what there is; or number."""
    now: float
    with_one_more: float


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """Of prefill and decode."""

    verdict: Verdict
    why: str
    over_s: int
    num_requests: int
    """That had a first token, and on which the verdict rests."""
    num_prefill: int
    num_decode: int
    """Workers that take requests."""
    ttft_ms: float | None
    """Means per request, as the next two; None where there are no requests."""
    for_prefill_ms: float | None
    for_decode_ms: float | None
    loads: list[SideLoad]
    advice: list[str]


def recent(periods: Sequence[Period], at_s: float) -> list[Period]:
    """Those that `balance` is told of."""
    return [period for period in periods if period.at_s + PERIOD_S > at_s - OVER_S]


def balance(periods: Sequence[Period], workers: Sequence[WorkerStatus]) -> Balance:
    ready = {role: [each for each in workers if each.role == role and each.ready] for role in ("prefill", "decode")}
    num_requests = sum(period.num_answered for period in periods)
    means = {
        name: sum(getattr(period, name) for period in periods) / num_requests if num_requests else None
        for name in ("ttft_ms", "for_prefill_ms", "for_decode_ms")
    }
    loads = _loads(periods, ready["prefill"], ready["decode"])
    verdict = Verdict.IDLE
    if num_requests:
        verdict = _verdict(*(mean or 0.0 for mean in means.values()))
    return Balance(
        verdict=verdict,
        why=_why(verdict, has_prefill=bool(ready["prefill"])),
        over_s=OVER_S,
        num_requests=num_requests,
        num_prefill=len(ready["prefill"]),
        num_decode=len(ready["decode"]),
        **{name: None if mean is None else round(mean, 3) for name, mean in means.items()},
        loads=loads,
        advice=_advice(verdict, periods, has_room=all(load.now < FULL for load in loads if load.unit == "share")),
    )


def _verdict(ttft_ms: float, for_prefill_ms: float, for_decode_ms: float) -> Verdict:
    waiting_ms = for_prefill_ms + for_decode_ms
    # The wait for the step that joins it comes after the first token.
    if waiting_ms < NEGLIGIBLE * (ttft_ms + for_decode_ms):
        return Verdict.NEITHER
    if for_prefill_ms >= CLEAR * waiting_ms:
        return Verdict.PREFILL
    return Verdict.DECODE if for_decode_ms >= CLEAR * waiting_ms else Verdict.BOTH


def _why(verdict: Verdict, *, has_prefill: bool) -> str:
    match verdict:
        case Verdict.IDLE:
            return "No request has had a first token lately, so nothing can be said."
        case Verdict.NEITHER:
            return "Requests hardly wait for a worker: their time is spent on work."
        case Verdict.PREFILL:
            return "Most of the waiting is for prefill workers to begin with a prompt."
        case Verdict.DECODE if has_prefill:
            return "Most of the waiting is for room on decode workers, or for a step of theirs."
        case Verdict.DECODE:
            return "Requests wait for decode workers, which compute the prompts, too."
        case Verdict.BOTH:
            return "Requests wait for both sides, and for neither much more than for the other."


def _loads(
    periods: Sequence[Period], prefill: Sequence[WorkerStatus], decode: Sequence[WorkerStatus]
) -> list[SideLoad]:
    loads = []
    if prefill:
        computing = sum(period.computing_ms for period in periods) / 1e3 / OVER_S
        loads.append(_shared("prefill", "prompts being computed", "number", computing, len(prefill)))
        waiting = sum(worker.queued for worker in prefill)
        loads.append(_shared("prefill", "prompts that wait now", "number", waiting, len(prefill)))
    if decode:
        batch, places = sum(w.running for w in decode), sum(w.max_sequences for w in decode)
        loads.append(_shared("decode", "streams now", "number", batch, len(decode)))
        if places:
            loads.append(_share("batch in use", batch / places, len(decode)))
        if any(w.num_blocks for w in decode):
            loads.append(_share("KV pool in use", pool_share(decode), len(decode)))
    return loads


def _shared(role: str, what: str, unit: str, total: float, number: int) -> SideLoad:
    each, less = round(total / number, 4), round(total / (number + 1), 4)
    return SideLoad(role=role, what=f"{what}, per worker", unit=unit, now=each, with_one_more=less)


def _share(what: str, share: float, number: int) -> SideLoad:
    less = share * number / (number + 1)
    return SideLoad(role="decode", what=what, unit="share", now=round(share, 4), with_one_more=round(less, 4))


def _advice(verdict: Verdict, periods: Sequence[Period], *, has_room: bool) -> list[str]:
    match verdict:
        case Verdict.IDLE:
            return []
        case Verdict.PREFILL:
            return ["one more prefill worker (--prefill), or one decode worker less", BY_NAME["prefill_queue"].remedy]
        case Verdict.DECODE if has_room:
            remedy = BY_NAME["decode_step"].remedy
            return [f"batches and KV pools have room now, so it is steps that are waited for: {remedy}"]
        case Verdict.DECODE:
            return ["one more decode worker (--decode), or one prefill worker less", BY_NAME["grant"].remedy]
        case Verdict.BOTH:
            return ["one more of each, or fewer requests (--ttft-slo refuses what would be late)"]
        case Verdict.NEITHER:
            sums: Counter[str] = Counter()
            for period in periods:
                sums.update(period.ttft_segments)
            largest, _ = sums.most_common(1)[0]
            return [f"the largest segment is {largest} ({BY_NAME[largest].meaning}): {BY_NAME[largest].remedy}"]
