"""What a request that comes now can expect, and refusing at once what would be late.

Late is what would have no first token within the operator's objective or the caller's deadline, what would wait for a
worker longer than anybody may, and what the queue has no room for. Each refusal says how long the wait would be, behind
how many, and when another try would be in time.
"""

import math
import time
from dataclasses import dataclass, field

from engine.errors import Limit, Overloaded
from frontend.admission import Admission
from frontend.forecast import Bias, Forecast, Margin, Pace, wait_s
from frontend.job import Job
from frontend.places import Places, check_servable
from frontend.router import first_token_s, num_places

SHORTEST_RETRY_S = 0.1
PROOF_S = 5.0
"""Forecasts that no first token has borne out for as long refuse nobody while nobody is served: refusing everybody
would keep them wrong."""


@dataclass(slots=True)
class Outlook:
    """Forecasts from who is served, who waits, and how answers have been."""

    places: Places
    admission: Admission
    queue_timeout_s: float
    ttft_slo_s: float = 0.0
    """0 refuses nothing for its predicted time to first token."""
    pace: Pace = field(default_factory=Pace)
    _at_once: Bias = field(default_factory=Bias)
    """Of forecasts for those who need not wait for a place; and for the others."""
    _waiting: Bias = field(default_factory=Bias)
    _margin: Margin = field(default_factory=Margin)
    _proved_s: float = -math.inf
    """When the latest first token came (`time.monotonic()`)."""
    _served: dict[str, Job] = field(default_factory=dict)
    """Jobs that have a place, by request id."""

    def taken(self, job: Job) -> None:
        """It has a place on a worker, as far as that has told what it has."""
        self._served[job.request_id] = job

    def left(self, job: Job) -> None:
        """Its place is free; harmless if it had none."""
        self._served.pop(job.request_id, None)

    def ended(self, job: Job) -> None:
        """Its answer is complete."""
        undisturbed = job.attempt == 1  # what a worker's loss costs says nothing of those who lose none
        self.pace.ended(job.num_output, job.params.max_tokens, job.streamed_s() if undisturbed else None)

    def timed_out(self, job: Job) -> Overloaded:
        """For what has waited as long as anybody may."""
        why = f"no worker took the request within {self.queue_timeout_s:g} s"
        forecast = self.forecast(job)
        return _overloaded("queue_timeout", why, forecast, self._next_place_s(forecast))

    def displaced(self, job: Job) -> Overloaded:
        """For what others go before, in a queue that is full."""
        forecast = self.forecast(job)
        why = "the queue is full, and requests of higher priority came"
        return _overloaded("queue", why, forecast, self._next_place_s(forecast))

    def forecast(self, job: Job) -> Forecast:
        """What is to be expected of a job that comes now."""
        now_s = time.monotonic()
        before, (decodes, prefills) = self.admission.before(job.caller), self.places.views()
        placement = None if before else self.places.find(job)
        num_free = num_places(job.need(), decodes) if before else 0
        first_s = placement.first_token_s if placement is not None else None
        if first_s is None:
            at_once = sum(demand.prompt_tokens for demand in before[:num_free])
            first_s = first_token_s(job.need(), decodes, prefills, at_once)
        if placement is not None:
            return self._corrected(self._at_once, 0, 0.0, first_s, now_s)
        # Whoever is taken later finds prompts before its own as one that is taken now would: others come as they go.
        token_s = self._token_s()
        held_s = [first_s + token_s * self.pace.tokens_left(0, demand.max_tokens) for demand in before]
        waits_s = wait_s([0.0] * num_free + self._left_s(), held_s)
        return self._corrected(self._waiting, len(before), waits_s, first_s, now_s)

    def _corrected(self, bias: Bias, position: int, waits_s: float, first_s: float, now_s: float) -> Forecast:
        likely, promise = bias.likely.times(now_s), self._margin.promise.times(now_s)
        return Forecast(position, waits_s, first_s, likely, promise, bias.grain_s)

    def first_token(self, job: Job) -> None:
        """It has come."""
        self._proved_s = now_s = time.monotonic()
        forecast = job.forecast
        if forecast is None or not forecast.computed_s or job.attempt > 1:
            return
        waited_s = (time.monotonic_ns() - job.ledger.tokenized_ns) / 1e9
        bias = self._waiting if forecast.queue_position else self._at_once
        bias.came_true(forecast.computed_s, waited_s, now_s)
        limit_s = min(self.ttft_slo_s or math.inf, waited_s + job.left_s())
        self._margin.came_true(forecast.ttft_s, waited_s, limit_s, now_s)

    def check(self, job: Job) -> None:
        """Raises Overloaded for what there is no room for in the queue, or what would wait there in vain."""
        full = self.admission.full(job.demand(), job.caller)
        promised = self.ttft_slo_s or job.left_s() < math.inf
        if not full and not promised and not self.admission.queued_requests:
            return  # workers' own queues are bounded
        check_servable(job, self.places.views()[0])
        forecast = job.forecast = self.forecast(job)
        if full:
            raise _overloaded("queue", full, forecast, self._next_place_s(forecast))
        idle = not self._served and not self.admission.queued_requests
        if idle and time.monotonic() - self._proved_s > PROOF_S:
            return
        if forecast.promised_wait_s > self.queue_timeout_s:
            why = f"requests wait for {self.queue_timeout_s:g} s at most"
            retry_after_s = forecast.likely * forecast.wait_s - self.queue_timeout_s / forecast.promise
            raise _overloaded("queue_timeout", why, forecast, retry_after_s)
        if self.ttft_slo_s and forecast.promised_s > self.ttft_slo_s:
            why = f"the objective is {self.ttft_slo_s:g} s"
            retry_after_s = forecast.until_promised_s(forecast.computed_s, self.ttft_slo_s)
            raise _overloaded("ttft_slo", why, forecast, retry_after_s)
        needed_s = forecast.computed_s + job.params.min_tokens * self._token_s()
        if forecast.promised(needed_s) > (left_s := job.left_s()):
            why = f"the deadline leaves {left_s:.3g} s"
            raise _overloaded("deadline", why, forecast, forecast.until_promised_s(needed_s, left_s))

    def _next_place_s(self, forecast: Forecast) -> float:
        """Until the next of those who are served will probably be done."""
        return forecast.likely * wait_s(self._left_s(), ())

    def _left_s(self) -> list[float]:
        """Of each job that workers have."""
        token_s, pace = self._token_s(), self.pace
        return [
            job.first_token_due_s() + token_s * pace.tokens_left(job.num_output, job.params.max_tokens)
            for job in self._served.values()
        ]

    def _token_s(self) -> float:
        """Between two tokens of an answer: as it was lately, or as workers say. 0 while nobody knows."""
        return self.pace.token_s or max((view.token_s for view in self.places.views()[0]), default=0.0)


def _overloaded(limit: Limit, why: str, forecast: Forecast, retry_after_s: float) -> Overloaded:
    before = forecast.queue_position
    queue = f" after {before} that {'wait' if before > 1 else 'waits'}" if before else ""
    first = f"the first token would come in about {forecast.ttft_s:.2g} s{queue}"
    if forecast.promise > 1:
        first += f", perhaps only in {forecast.promised_s:.2g} s"
    return Overloaded(
        f"{why}; {first}",
        retry_after_s=max(retry_after_s, SHORTEST_RETRY_S),
        limit=limit,
        queue_position=before,
        predicted_ttft_s=forecast.ttft_s,
    )
