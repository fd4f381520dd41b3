"""A frontend that watches nothing: no spans, metrics, records or lines. What `bench.observability` compares with.

python -m bench.bare_frontend OPTIONS     of `python -m frontend`
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from engine.telemetry import Telemetry
from frontend import __main__ as frontend
from frontend.events import Finished
from frontend.job import Job
from frontend.keeper import Keeper
from frontend.ledger import Ledger
from frontend.leg_events import Row
from frontend.metrics import FrontendMetrics
from frontend.recorder import Recorder
from frontend.request import GenerateRequest, new_request_id


class Unwatched:
    """In the place of `frontend.observer.Watched`: an answer needs the times of its first two tokens, no more."""

    traceparent = ""

    def __init__(self, request_id: str, ledger: Ledger) -> None:
        self.request_id = request_id
        self._ledger = ledger

    def took(self, rows: Sequence[Row]) -> None:
        if rows and rows[0].index < 2:
            self._ledger.took(rows)

    def tokenized(self, job: Job) -> None: ...
    def taken(self, job: Job) -> None: ...
    def placed(self, job: Job) -> None: ...
    def retried(self, job: Job, reason: str) -> None: ...
    def finished(self, finished: Finished) -> None: ...


class Bare:
    """In the place of `frontend.observer.Observer`."""

    def __init__(self, tracing: Telemetry, metrics: FrontendMetrics, keeper: Keeper) -> None:
        self.recorder = Recorder()

    @contextmanager
    def watch(self, request: GenerateRequest, model: str, ledger: Ledger) -> Iterator[Unwatched]:
        yield Unwatched(request.request_id or new_request_id(), ledger)


if __name__ == "__main__":
    frontend.Observer = Bare  # type: ignore[attr-defined, assignment]
    sys.exit(frontend.main())
