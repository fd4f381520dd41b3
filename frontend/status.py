"""What is told of the server now, and lists of requests that have ended, as JSON has them. Shapes alone."""

import msgspec

from frontend.api import ModelStatus, WorkerStatus
from frontend.history import LinkTraffic, Period
from frontend.minute import LastMinute
from frontend.recorder import LatestDecision
from frontend.records import RequestRecord


class RequestList(msgspec.Struct, frozen=True):
    """Requests that have ended: the latest first, or the slowest to their first token."""

    which: str = msgspec.field(name="list")
    requests: list[RequestRecord]


class ServerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The server now. Requests and decisions are those that this key may see."""

    version: str
    models: list[str]
    """By every name that they have."""
    at_s: float
    """Unix."""
    up_s: float
    ready: bool
    reason: str
    """Why it is not. The server is as ready as its default model."""
    in_flight: int
    """Requests that have come and not ended."""
    queued_requests: int
    """Those of them that wait for a worker."""
    max_queued_requests: int
    last_minute: LastMinute
    workers: list[WorkerStatus]
    slowest: list[RequestRecord]
    decisions: list[LatestDecision]
    """The router's, latest first."""
    pool_share: dict[str, float] = {}
    """By role, over all of its workers: KV blocks that cannot be taken."""
    served: list[ModelStatus] = []
    """Each model once; the default is the first."""
    trace_ui: str = ""
    """Where traces are looked at: ADDRESS/trace/TRACE_ID. Empty where nobody has said."""


class ServerHistory(msgspec.Struct, frozen=True, kw_only=True):
    """The last half hour, and who got requests in the last minute. The same for every key."""

    at_s: float
    """Unix, now."""
    period_s: int
    num_periods: int
    """That are kept."""
    ttft_limits_s: list[float]
    """Of each period's `ttft_within`."""
    tpot_limits_s: list[float]
    periods: list[Period]
    """Oldest first; those in which nothing ended are left out."""
    links_over_s: float
    links: list[LinkTraffic]
