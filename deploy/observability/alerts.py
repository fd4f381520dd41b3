"""Prometheus's recording and alert rules. What is promised stands at the top; docs/operations.md says what to do."""

from collections.abc import Iterator

from deploy.observability.panels import Json
from deploy.observability.promql import faults, or_zero, pool_used, rate, tpot_kept, ttft_kept

OBJECTIVE = 0.95
"""Share of requests that keep each limit."""
TTFT_LIMIT, TPOT_LIMIT = "2.5", "0.1"
"""Seconds; edges of the histograms' buckets, as they are written there."""

WINDOWS = ("5m", "30m", "1h", "6h")
BURNS = (("Fast", "1h", "5m", 14.4, "2m", "page"), ("Slow", "6h", "30m", 6.0, "15m", "ticket"))
"""A month's budget is gone in two days, or in five. The short window ends the alert soon after its cause."""

SLOS = {"Ttft": ("slo_ttft", ttft_kept, TTFT_LIMIT), "Tpot": ("slo_tpot", tpot_kept, TPOT_LIMIT)}


def rules() -> Json:
    return {
        "groups": [
            {"name": "tandem-slo", "rules": list(_recorded())},
            {"name": "tandem-burn", "rules": list(_burns())},
            {"name": "tandem", "rules": list(_alerts())},
        ]
    }


def _recorded() -> Iterator[Json]:
    for name, kept, limit in SLOS.values():
        for window in WINDOWS:
            yield {"record": f"tandem:{name}_missed:ratio_rate{window}", "expr": f"1 - {kept(limit, window)}"}


def _burns() -> Iterator[Json]:
    for slo, (name, _, limit) in SLOS.items():
        for speed, long, short, times, wait, severity in BURNS:
            most = f"{times * (1 - OBJECTIVE):.4g}"
            missed = f"tandem:{name}_missed:ratio_rate"
            yield _alert(
                f"Tandem{slo}Burn{speed}",
                f"{missed}{long} > {most} and {missed}{short} > {most}",
                wait,
                severity,
                f"{{{{ $value | humanizePercentage }}}} of requests miss {limit} s of {slo.upper()}; "
                f"{1 - OBJECTIVE:.0%} may.",
            )


def _alerts() -> Iterator[Json]:
    requests = rate("tandem_requests_total", "5m")
    yield _alert(
        "TandemDown", 'up{job="tandem"} == 0', "1m", "page", "The frontend {{ $labels.instance }} does not answer."
    )
    yield _alert(
        "TandemRoleGone",
        "sum by (role) (tandem_worker_ready) == 0",
        "1m",
        "page",
        "No {{ $labels.role }} worker takes requests.",
    )
    yield _alert(
        "TandemWorkerNotReady",
        "tandem_worker_ready == 0",
        "3m",
        "ticket",
        "The {{ $labels.role }} worker {{ $labels.worker }} is away, stalled, or drains without an end.",
    )
    yield _alert(
        "TandemStalled",
        f"sum(tandem_requests_in_flight) > 0 and {or_zero('sum(increase(tandem_requests_total[10m]))')} == 0",
        "5m",
        "page",
        "{{ $value }} requests are under way, and none has ended for ten minutes.",
    )
    yield _alert(
        "TandemKvBlocksLeaked",
        "sum(max_over_time(tandem_kv_blocks_leaked[5m])) > 0",
        "1m",
        "ticket",
        "{{ $value }} KV blocks are owned by nobody and cannot be taken.",
    )
    yield _alert(
        "TandemPoolFull",
        f"{pool_used('worker, role')} > 0.95",
        "10m",
        "ticket",
        "The KV pool of the {{ $labels.role }} worker {{ $labels.worker }} is {{ $value | humanizePercentage }} full.",
    )
    yield _alert(
        "TandemPreempting",
        f"{rate('tandem_preemptions_total', '5m')} / {requests} > 0.1",
        "10m",
        "ticket",
        '{{ printf "%.2f" $value }} preemptions per request: prompts are computed again and again.',
    )
    yield _alert(
        "TandemQueueFilling",
        "sum by (model) (tandem_model_queued_requests) / sum by (model) (tandem_model_max_queued_requests) > 0.5",
        "2m",
        "ticket",
        "The queue for {{ $labels.model }} is {{ $value | humanizePercentage }} full; beyond it requests are refused.",
    )
    yield _alert(
        "TandemRefusing",
        f"{faults('5m')} / {requests} > 0.05",
        "5m",
        "page",
        "{{ $value | humanizePercentage }} of requests get no answer, not by their callers' doing.",
    )
    yield _alert(
        "TandemTransfersFail",
        "sum by (worker, role) (increase(tandem_worker_fenced_writes_total[15m])) > 0",
        "1m",
        "ticket",
        "The {{ $labels.role }} worker {{ $labels.worker }} dropped late writes: transfers to it were given up.",
    )
    failures = 'tandem_link_failures_total{reason=~"lost|stalled"}'  # others went another way, or nobody wanted them
    yield _alert(
        "TandemLinkFails",
        f"sum by (prefill, decode, transport) (increase({failures}[15m])) > 0",
        "1m",
        "ticket",
        "KV does not get from {{ $labels.prefill }} to {{ $labels.decode }} over {{ $labels.transport }}.",
    )
    yield _alert(
        "TandemRetrying",
        f"{rate('tandem_retries_total', '5m')} / {requests} > 0.05",
        "5m",
        "ticket",
        '{{ printf "%.2f" $value }} further attempts per request: workers are lost, or transfers fail.',
    )


def _alert(name: str, expression: str, wait: str, severity: str, summary: str) -> Json:
    return {
        "alert": name,
        "expr": expression,
        "for": wait,
        "labels": {"severity": severity},
        "annotations": {"summary": summary},
    }
