"""Real workers whose clocks are wrong by seconds, drift, and jump while they work: their parts of a request stand where
they were all the same, as nearly as is told."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from engine.hub import DEMO_MODEL
from engine.leash import leashed
from engine.telemetry import setup_tracing
from frontend.admission import Admission
from frontend.api import WorkerStatus
from frontend.attempt import Attempts
from frontend.catalogue import Catalogue
from frontend.events import Delta, Finished, Timing
from frontend.fleet import Fleet
from frontend.inference import FleetInference
from frontend.metrics import FrontendMetrics
from frontend.model import LoadedModel
from frontend.observer import Observer
from frontend.request import GenerateRequest, TokenPrompt
from frontend.router import Policy
from frontend.served import Served
from protos import worker_pb2 as pb
from tests.e2e.clients import PATIENCE_S, until
from tests.e2e.server import ROOT
from tests.e2e.wrong_clock import WALL_JUMP_S
from tests.otlp_receiver import Received, Spans, otlp_receiver

pytestmark = pytest.mark.slow

READY_S = 240.0
"""The first start on a machine compiles."""
DRAIN_S = 30.0
AHEAD_S = {"prefill": 5000.0, "decode": 300_000.0}
WALL_AHEAD_S = {"prefill": 3.25, "decode": -2.5}
PPM = {"prefill": 80.0, "decode": -80.0}
OF_WORKERS = {"prefill": "prefill", "kv.transfer": "prefill", "decode": "decode"}
CHILDREN = {"admission", "route", *OF_WORKERS}
NUM_SPANS = len(CHILDREN) + 1
WITHIN, AHEAD = "tandem.clock.within_ms", "tandem.clock.ahead_ms"


@dataclass(slots=True)
class Scene:
    inference: FleetInference
    workers: "list[subprocess.Popen[bytes]]"
    spans: Spans

    async def until_known(self, num_jumps: int = 0) -> None:
        """Wait until every worker's wall clock is."""

        async def known() -> bool:
            return all(is_known(worker, num_jumps) for worker in self.inference.workers())

        await until(known, self.inference.workers())

    def jump(self) -> None:
        for worker in self.workers:
            worker.send_signal(signal.SIGUSR1)

    async def ask(self, first: int, *, jumps_at: int | None = None) -> Timing:
        """Answered by both; clocks jump before the token of this number."""
        prompt = TokenPrompt((first, *(11 + (first * 31 + i * 7) % 1900 for i in range(599))))
        request = GenerateRequest(prompt=prompt, max_tokens=6, temperature=0.0, ignore_eos=True)
        finished: Finished | None = None
        if jumps_at == 0:
            asyncio.get_running_loop().call_soon(self.jump)
        async for event in self.inference.generate(request):
            if isinstance(event, Delta) and jumps_at == event.first_index + len(event.token_ids):
                self.jump()
            if isinstance(event, Finished):
                finished = event
        assert finished is not None
        return checked(finished.timing)

    async def trace(self, number: int) -> list[Received]:
        """The spans of the so-manieth request, once all are there."""
        await asyncio.to_thread(self.spans.wait_for, NUM_SPANS * (number + 1), PATIENCE_S)
        roots = [each for each in self.spans.received if not each.span.parent_span_id]
        root = sorted(roots, key=lambda each: each.span.start_time_unix_nano)[number]
        return [each for each in self.spans.received if each.span.trace_id == root.span.trace_id]


def is_known(worker: WorkerStatus, num_jumps: int) -> bool:
    """Whether its wall clock is told as it is, as nearly as is told."""
    if worker.clock_ahead_s is None or worker.clock_within_s is None:
        return False
    truth_s = WALL_AHEAD_S[worker.role] + num_jumps * WALL_JUMP_S
    return abs(worker.clock_ahead_s - truth_s) <= worker.clock_within_s


def checked(timing: Timing) -> Timing:
    """Segments follow one another and add up, whatever the clocks did."""
    for whole_ms, segments in (
        (timing.ttft_ms, timing.ttft_segments),
        (timing.second_token_ms, timing.second_token_segments),
    ):
        assert sum(segments.values()) == pytest.approx(whole_ms, abs=1.0)
        assert all(ms >= 0 for ms in segments.values())
    assert 0 <= timing.way_ms <= timing.ttft_segments["egress"]
    return timing


@pytest.fixture
def spans() -> Iterator[Spans]:
    with otlp_receiver() as receiver:
        yield receiver


@contextmanager
def wrong(role: str, folder: Path, endpoint: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker whose clocks are."""
    clocks = (AHEAD_S[role], WALL_AHEAD_S[role], PPM[role])
    options = {
        "worker-id": role,
        "model": DEMO_MODEL,
        "listen": f"unix:{folder}/{role}",
        "kv-listen": f"ipc://{folder}/kv",
        "otlp-endpoint": endpoint,
        "threads": 1,
        "kv-memory-mb": 64,
        "profile-s": 0,
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    command = (sys.executable, "-m", "tests.e2e.wrong_clock", *map(str, clocks), role, *flags)
    log, inherited = folder / f"{role}.log", {n: v for n, v in os.environ.items() if not n.startswith("TANDEM_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            leashed(*command), cwd=ROOT, env=inherited, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield process
    except BaseException:
        sys.stderr.write(f"{role}:\n{log.read_text()[-5_000:]}\n")
        raise
    finally:
        process.terminate()
        try:
            process.wait(DRAIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@asynccontextmanager
async def scene(spans: Spans) -> AsyncIterator[Scene]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tandem-")))
        workers = [stack.enter_context(wrong(role, folder, spans.endpoint)) for role in ("prefill", "decode")]
        fleet = Fleet((f"unix:{folder}/prefill",), (f"unix:{folder}/decode",))
        streams = asyncio.create_task(fleet.run())
        tracing = setup_tracing("tandem-frontend", spans.endpoint)
        try:
            async with asyncio.timeout(READY_S):
                while not (fleet.links(pb.ROLE_PREFILL) and fleet.links(pb.ROLE_DECODE)):
                    await fleet.pulse.wait()
            attempts = Attempts(fleet, Admission(1000, 1_000_000), Policy(always_remote=True), 30.0)
            served = Served(LoadedModel.load(DEMO_MODEL, "demo", None), attempts, max_attempts=5)
            observer = Observer(tracing, FrontendMetrics(CollectorRegistry()))
            yield Scene(FleetInference(Catalogue([served]), fleet, observer), workers, spans)
        finally:
            streams.cancel()
            await asyncio.gather(streams, return_exceptions=True)
            await tracing.aclose()


async def test_wrong_clocks_are_known_and_tell_one_trace(spans: Spans) -> None:
    async with scene(spans) as running:
        await running.until_known()
        for number in range(20):  # a worker hears with the next question what the answers have told
            timing = await running.ask(20 + number)
            trace = {each.name: each for each in await running.trace(number)}
            if all(WITHIN in trace[name].attributes for name in OF_WORKERS):
                break
        assert timing.clock_within_ms is not None
        check_trace(trace)


def ms(span: Received, name: str) -> float:
    return float(str(span.attributes[name]))


def check_trace(trace: dict[str, Received]) -> None:
    """What workers did for a request was after it came and before it was answered, as nearly as they say."""
    root = trace.pop("text_completion demo")
    assert trace.keys() == CHILDREN
    assert ms(root, WITHIN) > 0
    for name, role in OF_WORKERS.items():
        child = trace[name]
        within_ns = ms(child, WITHIN) * 1e6
        assert ms(child, AHEAD) == pytest.approx(WALL_AHEAD_S[role] * 1e3, abs=ms(child, WITHIN) + 1)
        assert root.span.start_time_unix_nano <= child.span.start_time_unix_nano + within_ns
        assert child.span.start_time_unix_nano <= child.span.end_time_unix_nano
        if name != "kv.transfer":  # which is over when its worker has heard so
            assert child.span.end_time_unix_nano <= root.span.end_time_unix_nano + within_ns
    prefill, decode = trace["prefill"].span, trace["decode"].span
    assert prefill.start_time_unix_nano <= trace["kv.transfer"].span.start_time_unix_nano, "one clock"
    (arrived_ns,) = [event.time_unix_nano for event in decode.events if event.name == "kv_arrived"]
    within_ns = sum(ms(trace[role], WITHIN) for role in ("prefill", "decode")) * 1e6
    assert prefill.start_time_unix_nano <= arrived_ns + within_ns, "two clocks"


async def test_clocks_that_jump_while_a_request_is_under_way(spans: Spans) -> None:
    """Before its first token, and between its first and its second."""
    async with scene(spans) as running:
        await running.until_known()
        for jumps_at in (0, 1):
            await running.ask(30 + jumps_at, jumps_at=jumps_at)
            await running.until_known(jumps_at + 1)
        await running.ask(40)
        for worker in running.inference.workers():
            assert worker.ready
            assert worker.leaked_blocks == 0
