"""What watching costs: throughput with everything on, by that with everything off, and CPU time per span.

    python -m bench.observability [--model DIR] [--streams 16] [--seconds 15] [--rounds 7] [--out FILE]

Two servers of one decode worker and one frontend each, started side by side and measured in turns: one records every
trace and exports it to a process beside it, keeps records, writes its log as JSON, and is scraped every second; the
other does nothing of this (`bench.bare_frontend`). A round is so many seconds of a closed loop over gRPC; the figure is
the median of each round's ratio, so that what else happens on the machine falls on both. Without --model it is the 160m
shape with random weights; `--model engine/demo` is quick.

Then, in this process: CPU time of one span of a request's stage, recorded and exported to that process, not sampled,
and without an endpoint.
"""

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from bench.model import make_model
from cli.machine import take_ports
from engine import telemetry
from engine.telemetry import setup_tracing
from protos import generate_pb2 as pb
from protos import generate_pb2_grpc

PROMPT_TOKENS, OUTPUT_TOKENS = 64, 64
WARM_S = 3.0
READY_S = 180.0
SPANS = 2000
EXPORT = "opentelemetry.proto.collector.trace.v1.TraceService"

Row = dict[str, str | float]


@dataclass(frozen=True, slots=True)
class Server:
    name: str
    grpc: str
    http: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder; default: the 160m shape")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=15.0, help="of one round of one server")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--spans", type=int, default=SPANS, help="of one run of spans")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    parser.add_argument("--sink", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.sink:
        sink()
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tandem-bench-")))
        model = args.model.resolve() if args.model else make_model(folder / "model", "160m")
        endpoint = stack.enter_context(_sink())
        with _servers(model, folder, endpoint) as (watched, bare):
            rows = [asyncio.run(throughput(watched, bare, args.streams, args.seconds, args.rounds))]
        rows += spans(endpoint, args.spans, args.rounds)
    for each in rows:
        print(f"{each['measure']:<64} {each['median']:>9.3f} {each['unit']:<6} {each['note']}")
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))


async def throughput(watched: Server, bare: Server, streams: int, seconds: float, rounds: int) -> Row:
    rates: dict[str, list[float]] = {watched.name: [], bare.name: []}
    for server in (watched, bare):
        await tokens_per_s(server, streams, WARM_S)
    for number in range(rounds):
        for server in (watched, bare) if number % 2 == 0 else (bare, watched):
            with _scraped(server) if server is watched else contextlib.nullcontext():
                rates[server.name].append(await tokens_per_s(server, streams, seconds))
    ratios = [on / off for on, off in zip(rates[watched.name], rates[bare.name], strict=True)]
    on, off = (statistics.median(rates[server.name]) for server in (watched, bare))
    note = f"{min(ratios):.3f} to {max(ratios):.3f} of {rounds} rounds; {on:.0f} and {off:.0f} tok/s"
    measure = f"throughput, everything on by everything off, {streams} streams"
    return {"measure": measure, "median": statistics.median(ratios), "unit": "", "note": note}


async def tokens_per_s(server: Server, streams: int, seconds: float) -> float:
    """Of a closed loop: whoever has his answer asks again."""
    num_tokens, ends_s = 0, time.monotonic() + seconds

    async with grpc.aio.insecure_channel(server.grpc) as channel:
        stub = generate_pb2_grpc.InferenceStub(channel)

        async def ask(number: int) -> None:
            nonlocal num_tokens
            first = number
            while time.monotonic() < ends_s:
                first = (first + streams) % 1900
                ids = [10 + (first + i * 7) % 1900 for i in range(PROMPT_TOKENS)]
                request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids))
                request.stopping.max_tokens, request.stopping.ignore_eos = OUTPUT_TOKENS, True
                async for response in stub.Generate(request):
                    if time.monotonic() < ends_s:
                        num_tokens += len(response.delta.token_ids)

        await asyncio.gather(*map(ask, range(streams)))
    return num_tokens / seconds


def spans(endpoint: str, count: int, runs: int) -> list[Row]:
    """CPU time of this process, all threads of it: the exporter's are among them."""
    kinds = {
        "sampled and exported": (endpoint, 1.0),
        "not sampled": (endpoint, 0.0),
        "without an endpoint": ("", 1.0),
    }
    rows: list[Row] = []
    for name, (where, ratio) in kinds.items():
        values = [_span_us(where, ratio, count) for _ in range(runs)]
        note = f"{min(values):.1f} to {max(values):.1f} of {runs} runs of {count} spans"
        rows.append(
            {
                "measure": f"CPU of a stage's span, {name}",
                "median": statistics.median(values),
                "unit": "us",
                "note": note,
            }
        )
    return rows


def _span_us(endpoint: str, ratio: float, count: int) -> float:
    tracing = setup_tracing("bench", endpoint, sample_ratio=ratio)
    sampled = "01" if ratio else "00"
    parent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-{sampled}"
    attributes: dict[str, telemetry.AttributeValue | None] = {
        telemetry.TANDEM_WORKER_ID: "decode-0",
        telemetry.TANDEM_REQUEST_ID: "req-000000000000000000000000",
        telemetry.TANDEM_ATTEMPT: 1,
        telemetry.TANDEM_CACHED_TOKENS: 256,
        telemetry.GEN_AI_USAGE_INPUT_TOKENS: 812,
    }
    now_ns = time.time_ns()
    began_s = time.process_time()
    for _ in range(count):
        tracing.record("decode", parent=parent, start_ns=now_ns, end_ns=now_ns + 1000, attributes=attributes)
    tracing.shutdown(30.0)  # what is waiting is exported
    return (time.process_time() - began_s) / count * 1e6


@contextmanager
def _servers(model: Path, folder: Path, endpoint: str) -> Iterator[tuple[Server, Server]]:
    on = ["--otlp-endpoint", endpoint, "--log-level", "info", "--log-format", "json"]
    with ExitStack() as stack:
        made = [
            stack.enter_context(_server("watched", "frontend", model, folder, on)),
            stack.enter_context(_server("bare", "bench.bare_frontend", model, folder, ["--log-level", "error"])),
        ]
        yield made[0], made[1]


@contextmanager
def _server(name: str, frontend: str, model: Path, folder: Path, options: list[str]) -> Iterator[Server]:
    """One decode worker and one frontend; both write their logs to a file."""
    ports = take_ports("127.0.0.1", {"http": 0, "grpc": 0})
    worker = f"unix:{folder}/{name}.sock"
    common = ["--model", str(model), "--served-model-name", "bench", *options]
    with ExitStack() as stack:
        log = stack.enter_context((folder / f"{name}.log").open("wb"))
        decode = ["--listen", worker, "--kv-listen", f"ipc://{folder}/{name}.kv", "--kv-memory-mb", "256"]
        stack.enter_context(_process("decode", [*decode, "--profile-s", "0", *common], log.fileno()))
        serve = ["--decode", worker, "--http-port", str(ports["http"]), "--grpc-port", str(ports["grpc"])]
        stack.enter_context(_process(frontend, [*serve, *common], log.fileno()))
        server = Server(name, f"127.0.0.1:{ports['grpc']}", f"http://127.0.0.1:{ports['http']}")
        deadline = time.monotonic() + READY_S
        while not _is_ready(server):
            if time.monotonic() > deadline:
                raise SystemExit(f"{name} is not ready:\n{(folder / f'{name}.log').read_text()[-4000:]}")
            time.sleep(0.2)
        yield server


def _is_ready(server: Server) -> bool:
    try:
        return bool(_read(f"{server.http}/ready"))
    except OSError:
        return False


def _read(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as response:
        return bytes(response.read())


@contextmanager
def _scraped(server: Server) -> Iterator[None]:
    """As Prometheus does it, once a second, here as often as it is measured."""
    ended = threading.Event()

    def scrape() -> None:
        while not ended.wait(1.0):
            _read(f"{server.http}/metrics")

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _sink() -> Iterator[str]:
    """A process that takes spans and throws them away; its address."""
    command = [sys.executable, "-m", "bench.observability", "--sink"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def sink() -> None:
    server = grpc.server(ThreadPoolExecutor(2))
    take = grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(EXPORT, {"Export": take}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"http://127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


@contextmanager
def _process(module: str, options: list[str], log: int) -> Iterator[None]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
    process = subprocess.Popen([sys.executable, "-m", module, *options], stdout=log, stderr=log, env=environment)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
