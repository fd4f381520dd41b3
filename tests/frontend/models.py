"""A frontend with several models over workers that are the test itself."""

import asyncio
import math
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import cache

from prometheus_client import CollectorRegistry

from engine.hub import DEMO_MODEL
from engine.telemetry import Telemetry
from frontend.admission import Admission
from frontend.attempt import Attempts
from frontend.catalogue import Catalogue
from frontend.events import Event
from frontend.fleet import Fleet
from frontend.inference import FleetInference
from frontend.job import Job
from frontend.ledger import Ledger
from frontend.metrics import FrontendMetrics
from frontend.model import LoadedModel
from frontend.observer import Observer
from frontend.request import GenerateRequest
from frontend.router import Policy
from frontend.served import Served
from protos import worker_pb2 as pb
from tests.frontend.fake_worker import FakeWorker

LENGTH = pb.FINISH_REASON_LENGTH


@cache
def demo() -> LoadedModel:
    return LoadedModel.load(DEMO_MODEL, "demo", None)


class Several:
    """The demonstration model under several names, each with workers of its own: `decode["big"]`, `prefill["big"]`."""

    def __init__(
        self,
        *names: str,
        prefill: bool = False,
        max_queued: int = 100,
        changes: Mapping[str, LoadedModel] = {},  # noqa: B006
    ) -> None:
        """`changes` replaces models by name."""
        self.fleet = Fleet(tuple(f"prefill-{name}" for name in names if prefill), tuple(f"decode-{n}" for n in names))
        self.decode = {name: self._add(pb.ROLE_DECODE, name) for name in names}
        self.prefill = {name: self._add(pb.ROLE_PREFILL, name) for name in names if prefill}
        self.served = {name: self._served(changes.get(name, demo()), name, max_queued) for name in names}
        self.catalogue = Catalogue(list(self.served.values()))
        self.metrics = FrontendMetrics(CollectorRegistry())
        self.observer = Observer(Telemetry(), self.metrics)
        self.inference = FleetInference(self.catalogue, self.fleet, self.observer)
        self.metrics.watch(self.inference)

    def _add(self, role: "pb.Role", model: str) -> FakeWorker:
        worker = FakeWorker(
            role, self.fleet.pulse, f"{'prefill' if role == pb.ROLE_PREFILL else 'decode'}-{model}", model=model
        )
        self.fleet._links[worker.name] = worker.link
        self.fleet._roles[worker.name] = role
        return worker

    def _served(self, model: LoadedModel, name: str, max_queued: int) -> Served:
        attempts = Attempts(self.fleet, Admission(max_queued, 100_000), Policy(), 60.0)
        return Served(replace(model, name=name), attempts, max_attempts=3)

    async def ask(self, request: GenerateRequest, answers: str) -> list[Event]:
        """The answer of one token, which the decode worker of the model `answers` is to be asked for."""
        asked = asyncio.create_task(self.events(request))
        worker = self.decode[answers]
        for _ in range(50):
            if asked.done() or (admits := worker.admits()):
                break
            await asyncio.sleep(0)
        if not asked.done():
            assert admits, f"{worker.name} was not asked"
            worker.grant(admits[0].leg, cached_tokens=0)
            worker.tokens(admits[0].leg, 0, 70, finish=LENGTH)
        return await asyncio.wait_for(asked, 5)

    async def job(self, request: GenerateRequest) -> Job:
        """What comes of the request before any worker hears of it."""
        served, ledger = self.catalogue.named(request.model), Ledger()
        with self.observer.watch(request, served.name, ledger) as watched:
            return await served.job(request, math.inf, ledger, watched)

    async def events(self, request: GenerateRequest) -> list[Event]:
        async with aclosing(self.inference.generate(request)) as events:
            return [event async for event in events]


def request(model: str | None, **fields: object) -> GenerateRequest:
    return GenerateRequest(prompt="hi", model=model, max_tokens=1, **fields)  # type: ignore[arg-type]
