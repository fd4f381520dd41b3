"""What a frontend pays per streamed token: its process's CPU time, with fake workers behind it and clients before it.

    python -m bench.frontend [--streams 64] [--tick-ms 20 0] [--runs 5] [--out FILE]

Three processes: `bench.fake_worker` says a token of every stream per tick (20 ms is how a decode worker does it; 0 is
flat out), the frontend as it is served, and `bench.stream_client`, which counts what arrives. A figure is the user and
system time of all the frontend's threads over a run, by the tokens that clients got in it.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

Row = dict[str, str | float]
KINDS = ("sse", "grpc")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tick-ms", type=float, nargs="+", default=[20.0, 0.0], help="of the fake worker")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one run")
    parser.add_argument("--cpus", default="", help="the frontend is pinned to, like 1 or 0-1; empty: to none")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    args = parser.parse_args()
    rows = []
    for tick_ms in args.tick_ms:
        with serving(tick_ms, args.cpus) as (pid, addresses):
            for kind in args.kinds:
                options = ["--streams", args.streams, "--runs", args.runs, "--seconds", args.seconds]
                rows.append(row(kind, args.streams, tick_ms, streamed(kind, addresses[kind], pid, options)))
    for each in rows:
        print(f"{each['measure']:<72} {each['median']:>10.3f} {each['unit']:<6} {each['note']}")
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))


def row(kind: str, streams: int, tick_ms: float, runs: list[dict[str, float]]) -> Row:
    values = [run["cpu_s"] / run["tokens"] * 1e6 for run in runs]
    rates = [run["tokens"] / run["wall_s"] for run in runs]
    per_message = sum(run["tokens"] for run in runs) / sum(run["messages"] for run in runs)
    rhythm = f"a token each {tick_ms:g} ms" if tick_ms else "flat out"
    note = (
        f"{min(values):.1f} to {max(values):.1f}; {statistics.median(rates):.0f} tok/s, {per_message:.1f} per message"
    )
    name = f"frontend CPU per token, {kind.upper()}, {streams} streams, {rhythm}"
    return {"measure": name, "median": statistics.median(values), "unit": "us", "note": note}


@contextmanager
def serving(tick_ms: float, cpus: str) -> Iterator[tuple[int, dict[str, str]]]:
    """A frontend before a fake worker; yields its process id, and its address for each kind of client."""
    with _started("bench.fake_worker", "--tick-ms", str(tick_ms), stream="stdout") as (worker, said):
        address = next(line for line in said if line.startswith("ready")).split()[1]
        options = ["--decode", address, "--served-model-name", "bench", "--http-port", "0", "--grpc-port", "0"]
        options += ["--cpus", cpus] if cpus else []
        with _started("frontend", *options, stream="stderr") as (frontend, log):
            serves = next(line for line in log if "http://" in line)
            next(line for line in log if "is there" in line)
            http, grpc = (word.partition("://")[2].strip('"') for word in serves.split() if "://" in word)
            yield frontend.pid, {"sse": http, "grpc": grpc}


def streamed(kind: str, address: str, pid: int, options: list[object]) -> list[dict[str, float]]:
    """What the client counted, run by run."""
    command = [sys.executable, "-m", "bench.stream_client", kind, address, "--pid", str(pid), *map(str, options)]
    runs: list[dict[str, float]] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return runs


@contextmanager
def _started(module: str, *arguments: str, stream: str) -> Iterator[tuple["subprocess.Popen[str]", Iterator[str]]]:
    """A process, and the lines that it says on `stream` while it starts."""
    streams = {stream: subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], text=True, **streams)  # type: ignore[call-overload]
    try:
        yield process, iter(getattr(process, stream))
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
