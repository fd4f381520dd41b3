"""Two real frontends over the same workers, behind real proxies: what one of them held when it was killed is freed."""

import asyncio
import json
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.deployment import Deployment
from cli.machine import runtime_folder
from cli.process import ProcessSpec
from engine.hub import DEMO_MODEL
from engine.leash import leashed
from frontend.notes import CANCELLED
from tests.deploy.tools import free_ports
from tests.edge.proxies import Frontend, Start, envoy, until
from tests.otlp_receiver import Spans, otlp_receiver

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

READY_S = 240.0
"""The first start on a machine compiles."""
PATIENCE_S = 120.0
DRAIN_S = 30.0
NAME = "demo"
ENDLESS = {"model": NAME, "prompt": "A ticket is", "max_tokens": 3000, "stream": True, "ignore_eos": True}
SHORT = {"model": NAME, "prompt": "A ticket is", "max_tokens": 8, "temperature": 0}
CHILDREN = {"admission", "route", "prefill", "kv.transfer", "decode"}


@dataclass(slots=True)
class Process:
    """A frontend of the fleet."""

    at: Frontend
    process: "subprocess.Popen[bytes]"

    def http(self) -> httpx.AsyncClient:
        url = f"http://127.0.0.1:{self.at.http_port}"
        return httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, trust_env=False)

    async def status(self) -> dict[str, Any]:
        async with self.http() as http:
            told: dict[str, Any] = (await http.get("/debug/status")).json()
            return told

    async def records(self) -> list[dict[str, Any]]:
        """Of requests that have ended."""
        async with self.http() as http:
            told: list[dict[str, Any]] = (await http.get("/debug/requests")).json()["requests"]
            return told

    async def holders(self) -> list[dict[str, Any]]:
        """Of KV blocks, on all workers."""
        async with self.http() as http:
            reports = (await http.get("/debug/custody")).json()
        assert [report["leaked_blocks"] for report in reports] == [0] * len(reports)
        return [holder for report in reports for holder in report["holders"]]


@asynccontextmanager
async def fleet(logs: Path, otlp_endpoint: str | None = None) -> AsyncIterator[list[Process]]:
    """Two frontends over one prefill and one decode worker, each a process."""
    ports = free_ports(4)
    at = [Frontend(ports[0], ports[1]), Frontend(ports[2], ports[3])]
    deployments = [
        Deployment(
            http_port=each.http_port,
            grpc_port=each.grpc_port,
            shared={"model": str(DEMO_MODEL), "served_model_name": NAME, "otlp_endpoint": otlp_endpoint},
            frontend={"always_remote": True},
            worker={"threads": 1, "profile_s": 0},  # where KV goes is decided already
            drain_timeout_s=5.0,
        )
        for each in at
    ]
    with ExitStack() as stack:
        folder = stack.enter_context(runtime_folder(deployments[0].socket_names()))
        *workers, first = deployments[0].processes(folder)
        second = deployments[1].processes(folder)[-1]
        specs = [*workers, first, second]
        started = [stack.enter_context(_started(spec, logs / f"{n}.log")) for n, spec in enumerate(specs)]
        async with asyncio.timeout(READY_S):
            await asyncio.gather(*(spec.until_ready(lambda _: None) for spec in specs))
        yield [Process(each, process) for each, process in zip(at, started[-2:], strict=True)]


@contextmanager
def _started(spec: ProcessSpec, log: Path) -> "Iterator[subprocess.Popen[bytes]]":
    with log.open("wb") as output:
        process = subprocess.Popen(
            leashed(*spec.command), env=spec.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield process
    except BaseException:
        sys.stderr.write(f"{spec.name}:\n{log.read_text()[-5_000:]}\n")
        raise
    finally:
        process.terminate()
        try:
            process.wait(DRAIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def test_what_a_killed_frontend_held_is_freed_and_the_other_goes_on(proxied: Start, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        one, two = await stack.enter_async_context(fleet(tmp_path))
        proxy = await stack.enter_async_context(proxied([one.at, two.at]))
        http = await stack.enter_async_context(proxy.http())

        async def stream() -> tuple[bool, int]:
            """Whether it ended as it should, and how many parts came."""
            num_parts, ended = 0, False
            try:
                async with http.stream("POST", "/v1/completions", json=ENDLESS) as response:
                    assert response.status_code == 200
                    async for line in response.aiter_lines():
                        num_parts += line.startswith("data: {")
                        ended = ended or line == "data: [DONE]"
            except httpx.RemoteProtocolError:
                assert not ended
            return ended, num_parts

        streams = [asyncio.create_task(stream()) for _ in range(6)]

        async def both_stream() -> bool:
            assert not any(each.done() for each in streams), "they ended before both had some"
            told = [await each.status() for each in (one, two)]
            running = sum(worker["running"] for worker in told[0]["workers"])
            return all(each["in_flight"] for each in told) and running == len(streams)

        await until(both_stream)
        assert len(await two.holders()) >= len(streams)
        one.process.kill()
        outcomes = await asyncio.wait_for(asyncio.gather(*streams), PATIENCE_S)
        ended = [outcome for outcome in outcomes if outcome[0]]
        assert 0 < len(ended) < len(streams)
        assert all(num_parts for _, num_parts in outcomes)

        for _ in range(6):
            answered = await http.post("/v1/completions", json=SHORT)
            assert answered.status_code == 200, answered.text

        async def nothing_is_held() -> bool:
            return await two.holders() == []

        await until(nothing_is_held)


async def test_a_client_that_goes_away_behind_a_proxy_frees_its_blocks(proxied: Start, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        one, two = await stack.enter_async_context(fleet(tmp_path))
        proxy = await stack.enter_async_context(proxied([one.at, two.at]))
        http = await stack.enter_async_context(proxy.http())
        async with http.stream("POST", "/v1/completions", json=ENDLESS) as response:
            await anext(response.aiter_lines())
            assert await one.holders()

        async def nothing_is_held() -> bool:
            return await one.holders() == []

        await until(nothing_is_held)
        (record,) = [*await one.records(), *await two.records()]
        assert record["outcome"] == CANCELLED
        assert record["output_tokens"] < ENDLESS["max_tokens"] / 2  # type: ignore[operator]


async def test_envoys_spans_stand_between_the_callers_and_ours(tmp_path: Path) -> None:
    trace_id, parent_id = secrets.token_hex(16), secrets.token_hex(8)
    with otlp_receiver() as spans:
        async with AsyncExitStack() as stack:
            one, two = await stack.enter_async_context(fleet(tmp_path, spans.endpoint))
            port = int(spans.endpoint.rpartition(":")[2])
            proxy = await stack.enter_async_context(envoy(tmp_path, [one.at, two.at], {}, port))
            http = await stack.enter_async_context(proxy.http())
            headers = {"traceparent": f"00-{trace_id}-{parent_id}-01"}
            answered = await http.post("/v1/completions", json=SHORT, headers=headers)
            assert answered.status_code == 200, answered.text
            trace = await asyncio.to_thread(_traced, spans, trace_id)
        drawn = trace.tree()
        root = trace.named(f"text_completion {NAME}")
        of_envoy = [each for each in trace.received if each.service == "envoy"]
        (edge,) = [each for each in of_envoy if each.span.kind == each.span.SPAN_KIND_SERVER]
        assert edge.span.parent_span_id.hex() == parent_id, drawn
        by_id = {each.span.span_id: each for each in trace.received}
        above = by_id[root.span.parent_span_id]
        assert above.service == "envoy", drawn
        assert above is edge or above.span.parent_span_id == edge.span.span_id, drawn
        children = [each for each in trace.received if each.span.parent_span_id == root.span.span_id]
        assert {each.name for each in children} == CHILDREN, drawn
        assert edge.attributes["http.status_code"] == "200", json.dumps(edge.attributes, default=str)
        assert edge.span.start_time_unix_nano <= root.span.start_time_unix_nano
        assert root.span.end_time_unix_nano <= edge.span.end_time_unix_nano


def _traced(spans: Spans, trace_id: str) -> Spans:
    """One trace, once Envoy's part and ours have come."""
    trace = Spans(spans.endpoint)

    def complete() -> bool:
        trace.received = [each for each in spans.received if each.span.trace_id.hex() == trace_id]
        names = {each.name for each in trace.received}
        return names >= CHILDREN and any(each.service == "envoy" for each in trace.received)

    spans.wait_until(complete, f"all spans of trace {trace_id}", 60.0)
    return trace
