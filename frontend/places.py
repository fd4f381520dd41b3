"""The router over the workers that are there: which of them could take a request now."""

import time
from dataclasses import dataclass, field

from engine.errors import ContextOverflow, Unavailable
from frontend.fleet import Fleet
from frontend.job import Job
from frontend.ledger import Ledger
from frontend.router import Placement, Policy, can_ever_serve, place, place_prefill, place_single
from frontend.worker_view import WorkerView
from protos import worker_pb2 as pb

AVOID_S = 5.0


@dataclass(slots=True)
class Places:
    """Finds workers for jobs, by what they last said and what hops were measured to cost."""

    fleet: Fleet
    policy: Policy
    hop_s: float = 0.002
    """What a leg on a prefill worker costs beside waiting and computing there."""
    _cut: list[tuple[WorkerView, WorkerView, float]] = field(default_factory=list)
    """Prefill and decode workers between which a transfer failed, and when (`time.monotonic()`). A worker that was
    started anew has another view: what its last start could not receive says nothing of this one."""

    def views(self) -> tuple[list[WorkerView], list[WorkerView]]:
        """Decode and prefill workers that are there. One that should get nothing new is asked where nobody else can do
        its work: a decode worker beside no other of its model."""
        decodes, prefills = (
            [link.view for link in self.fleet.links(role) if link.view is not None]
            for role in (pb.ROLE_DECODE, pb.ROLE_PREFILL)
        )
        ready = {view.model for view in decodes if view.takes_requests and not view.unready}
        decodes = [view for view in decodes if not view.unready or view.model not in ready]
        return decodes, [view for view in prefills if not view.unready]

    def find(self, job: Job) -> Placement | None:
        """Workers that have room now, as far as they have said. Raises what waiting cannot mend."""
        decodes, prefills = self.views()
        check_servable(job, decodes)
        return place(job.need(), decodes, prefills, self.policy, self.hop_s, self._cut_now())

    def find_prefill(self, job: Job, decode: WorkerView) -> Placement | None:
        """Who computes the prompt of a job that has room on a decode worker; None when nobody may now."""
        _, prefills = self.views()
        return place_prefill(job.need(), decode, prefills, self.policy, self.hop_s, self._cut_now())

    def find_single(self, job: Job) -> Placement | None:
        """Who gives an answer of a single token without a place on a decode worker; None when nobody may now."""
        _, prefills = self.views()
        return place_single(job.need(), prefills, self.hop_s)

    def note_failed_transfer(self, placement: Placement) -> None:
        """For a while KV goes other ways: a link that swallows packets is found out by a time limit, each time."""
        if placement.prefill is not None:
            self._cut.append((placement.prefill, placement.decode, time.monotonic()))

    def _cut_now(self) -> list[tuple[WorkerView, WorkerView]]:
        if self._cut:
            since = time.monotonic() - AVOID_S
            self._cut = [each for each in self._cut if each[2] > since]
        return [(prefill, decode) for prefill, decode, _ in self._cut]

    def note_hop(self, ledger: Ledger) -> None:
        """A first token came from a prefill worker: what took neither waiting nor computing there was the hop."""
        hop_ns = time.monotonic_ns() - ledger.granted_ns - ledger.queue_ns - ledger.compute_ns
        self.hop_s += 0.2 * (max(hop_ns, 0) / 1e9 - self.hop_s)


def check_servable(job: Job, decodes: list[WorkerView]) -> None:
    """Raises what waiting cannot mend. Who was interrupted waits for workers to come back."""
    serving = [view for view in decodes if view.model == job.model and view.takes_requests]
    if not serving and job.attempt == 1:
        raise Unavailable(f"no decode worker serves {job.model} now")
    if serving and not can_ever_serve(job.need(), serving):
        longest = max(view.max_context for view in serving)
        raise ContextOverflow(f"prompt and answer may get {job.need().max_tokens} tokens; workers hold {longest}")
