"""A whole Tandem within the test's process: real gRPC streams and real ZeroMQ between real workers, tiny models.

What separate processes add (start, signals, kill -9) is tested in `tests/e2e`.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from decode.__main__ import run as run_decode
from engine.config import WorkerConfig
from engine.device import OpenModel, open_model
from engine.telemetry import Telemetry
from frontend.admission import Admission
from frontend.attempt import Attempts
from frontend.catalogue import Catalogue
from frontend.events import Delta, Finished, PromptLogprobs, PromptToken, Started
from frontend.fleet import Fleet
from frontend.inference import FleetInference
from frontend.metrics import FrontendMetrics
from frontend.model import LoadedModel
from frontend.observer import Observer
from frontend.request import GenerateRequest
from frontend.router import Policy
from frontend.served import Served
from prefill.__main__ import run as run_prefill
from protos import worker_pb2 as pb
from tests.proxy import Proxy, proxy


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer."""

    started: Started
    token_ids: list[int]
    text: str
    deltas: list[Delta]
    finished: Finished
    prompt: tuple[PromptToken, ...] = ()
    """How likely its tokens are, where that was asked for."""


@dataclass(slots=True)
class Cluster:
    inference: FleetInference
    fleet: Fleet
    metrics: FrontendMetrics
    stops: dict[str, asyncio.Event]
    tasks: dict[str, "asyncio.Task[None]"]
    proxies: dict[str, Proxy]
    """Between the frontend and each worker, by the worker's name."""

    async def complete(self, request: GenerateRequest) -> Completion:
        events = [event async for event in self.inference.generate(request)]
        told = [event for event in events if isinstance(event, PromptLogprobs)]
        started, *deltas, finished = [event for event in events if not isinstance(event, PromptLogprobs)]
        assert len(told) == (request.prompt_logprobs is not None), "said twice, or not at all"
        assert not told or events[1] is told[0]
        assert isinstance(started, Started)
        assert isinstance(finished, Finished)
        assert all(isinstance(delta, Delta) for delta in deltas)
        made = [delta for delta in deltas if isinstance(delta, Delta)]
        tokens = [token for delta in made for token in delta.token_ids]
        indices = [delta.first_index for delta in made]
        lengths = [len(delta.token_ids) for delta in made]
        assert indices == [sum(lengths[:i]) for i in range(len(lengths))], "a gap or a repeat"
        prompt = told[0].tokens if told else ()
        return Completion(started, tokens, "".join(delta.text for delta in made), made, finished, prompt)

    async def until_idle(self) -> None:
        """Wait until nobody holds a block; fails with the report when that does not come."""
        links = [link for _, link in self.fleet.all_links]
        for _ in range(200):
            reports = await self.inference.custody()
            if all(report.get("holders") == [] for report in reports) and not any(link.num_legs for link in links):
                break
            await asyncio.sleep(0.05)
        assert all(report["holders"] == [] and report["leaked_blocks"] == 0 for report in reports), reports
        assert [link.num_legs for link in links] == [0] * len(links)

    def loads(self, role: "pb.Role") -> list[pb.Load]:
        return [link.load for link in self.fleet.links(role)]


@asynccontextmanager
async def cluster(
    model: Path,
    *beside: Path,
    prefill: int = 1,
    decode: int = 1,
    transport: str = "shm",
    policy: Policy | None = None,
    worker: Mapping[str, object] | None = None,
    chat_template: Path | None = None,
    tracing: Telemetry | None = None,
    open_worker: "Callable[[WorkerConfig, pb.Role], OpenModel]" = open_model,
) -> AsyncIterator[Cluster]:
    """Start workers and a frontend's core; everything is idle and stopped at the end, or the test fails.

    Every model has as many workers; those of the first, which is the default, come first.
    """
    models = (model, *beside)
    tracing = tracing or Telemetry()
    stops: dict[str, asyncio.Event] = {}
    tasks: dict[str, asyncio.Task[None]] = {}
    proxies: dict[str, Proxy] = {}
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tandem-"))

        async def start(name: str, model: Path) -> str:
            listen = f"unix:{folder}/{name}.sock"
            config = WorkerConfig(
                **{
                    "model": str(model),
                    "worker_id": name,
                    "listen": listen,
                    "kv_listen": f"ipc://{folder}/{name}.kv" if transport != "tcp" else "tcp://127.0.0.1:0",
                    "shared_memory": "auto" if transport == "shm" else "off",
                    "kv_groups": "gloo" if transport == "gloo" else "off",
                    "threads": 1,
                    "kv_memory_mb": 16,
                    "profile_s": 0,
                    "stall_limit_s": 2.0,
                    "debug_custody": True,
                    **(worker or {}),
                }  # type: ignore[arg-type]
            )
            role, run = (pb.ROLE_PREFILL, run_prefill) if "prefill" in name else (pb.ROLE_DECODE, run_decode)
            stops[name] = asyncio.Event()
            tasks[name] = asyncio.create_task(run(config, open_worker(config, role), tracing, stops[name]))
            target = f"{folder}/{name}.proxy"
            proxies[name] = await stack.enter_async_context(proxy(target, f"{folder}/{name}.sock"))
            return f"unix:{target}"

        prefills = [await start(f"prefill-{i}", models[i // prefill]) for i in range(prefill * len(models))]
        decodes = [await start(f"decode-{i}", models[i // decode]) for i in range(decode * len(models))]
        fleet = Fleet(tuple(prefills), tuple(decodes))
        streams = asyncio.create_task(fleet.run())
        while len(fleet.links(pb.ROLE_PREFILL)) < len(prefills) or len(fleet.links(pb.ROLE_DECODE)) < len(decodes):
            await fleet.pulse.wait()

        def serve(path: Path) -> Served:
            attempts = Attempts(fleet, Admission(1000, 1_000_000), policy or Policy(always_remote=True), 30.0)
            return Served(LoadedModel.load(path, path.name, chat_template), attempts, max_attempts=5)

        metrics = FrontendMetrics(CollectorRegistry())
        inference = FleetInference(Catalogue(list(map(serve, models))), fleet, Observer(tracing, metrics))
        try:
            made = Cluster(inference, fleet, metrics, stops, tasks, proxies)
            yield made
            await made.until_idle()
        finally:
            for stop in stops.values():
                stop.set()
            await asyncio.gather(*tasks.values())
            streams.cancel()
            await asyncio.gather(streams, return_exceptions=True)
