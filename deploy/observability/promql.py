"""PromQL over the frontend's metrics, as dashboards and rules share it.

`window` is a duration, or Grafana's word for one that fits the picture. Ratios of nothing are NaN, which no threshold
is below or above: without traffic there is no alert.
"""

from engine.errors import KEY_LIMITS as LIMITS
from frontend.history import SERVER_FAULTS as FAULTS

AUTO = "$__rate_interval"
"""Grafana's window: a few scrapes, more where the picture covers more time."""
SERVER_FAULTS = "|".join(sorted(reason.lower() for reason in FAULTS))
"""Outcomes that are not the caller's fault. Overload is among them; where it is a key's own limit, `faults` leaves it
out."""
KEY_LIMITS = "|".join(sorted(LIMITS))


def rate(metric: str, window: str = AUTO, *, by: str = "", where: str = "") -> str:
    """Per second, added up over everything that `by` does not name."""
    of_each = f" by ({by}) " if by else ""
    labels = f"{{{where}}}" if where else ""
    return f"sum{of_each}(rate({metric}{labels}[{window}]))"


def mean(histogram: str, window: str = AUTO, *, by: str = "", where: str = "") -> str:
    total, count = (rate(f"{histogram}_{part}", window, by=by, where=where) for part in ("sum", "count"))
    return f"{total} / {count}"


def quantile(share: float, histogram: str, window: str = AUTO, *, by: str = "", where: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', window, by=labels, where=where)})"


def or_zero(expression: str) -> str:
    """For what has no series until it first happens."""
    return f"({expression} or vector(0))"


def faults(window: str = AUTO) -> str:
    """Requests per second that ended without an answer, and not by their caller's doing."""
    all_of_them = rate("tandem_requests_total", window, where=f'outcome=~"{SERVER_FAULTS}"')
    of_keys = or_zero(rate("tandem_refusals_total", window, where=f'limit=~"{KEY_LIMITS}"'))
    return or_zero(f"{all_of_them} - {of_keys}")


def ttft_kept(limit: str, window: str = AUTO) -> str:
    """Share of requests with a first token within `limit`, a bucket's edge; who was let down had none."""
    within = rate("tandem_ttft_seconds_bucket", window, where=f'le="{limit}"')
    return f"{within} / ({rate('tandem_ttft_seconds_count', window)} + {faults(window)})"


def tpot_kept(limit: str, window: str = AUTO) -> str:
    """Share of answers whose tokens after the first took `limit` each at most."""
    histogram = "tandem_time_per_output_token_seconds"
    within = rate(f"{histogram}_bucket", window, where=f'le="{limit}"')
    return f"{within} / {rate(f'{histogram}_count', window)}"


def pool_used(by: str = "role") -> str:
    """Share of KV blocks that somebody owns; what only the prefix cache holds can be taken."""
    free, blocks = f"sum by ({by}) (tandem_worker_kv_blocks_free)", f"sum by ({by}) (tandem_worker_kv_blocks)"
    return f"1 - {free} / {blocks}"


def ready(role: str) -> str:
    return f'sum(tandem_worker_ready{{role="{role}"}})'


def per_request(segments: str, window: str = AUTO, *, where: str = "", by: str = "segment") -> str:
    """Mean seconds of a ledger's segments: `ttft` or `second_token`. Together they are the mean of what they are
    parts of."""
    requests = f"scalar({rate(f'tandem_{segments}_seconds_count', window)})"
    return f"{rate(f'tandem_{segments}_segment_seconds_sum', window, by=by, where=where)} / {requests}"
