"""Streams while hosts are cut off from one another: three hosts in network namespaces (Linux, root, `ip`).

    python -m bench.partitions --model DIR [--cuts 24]

One host has the frontend and the client; two have a prefill and a decode worker each, over tcp, with leases of three
seconds. While streams run, greedy ones whose tokens are known from an undisturbed run, one link is cut for some
seconds: both ways (a partition) or one way only, between the frontend and a host or between the two hosts, where KV
moves. Packets are swallowed, no connection is refused. Reported: wrong and lost streams, the longest time that any
stream was silent, and what is held at the end.
"""

import argparse
import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from bench.abandon import Stub, held_and_leaked, settled_s
from cli.probes import frontend_ready
from protos import generate_pb2 as pb

LEASE_S = 3.0
CUT_S = 8.0
STREAMS = 6
MAX_TOKENS = 380
FRONTEND = "10.213.77.1"
HOSTS = {"tandem-a": "10.213.77.11", "tandem-b": "10.213.77.12"}
BRIDGE = "tandem-br"
HTTP_PORT, GRPC_PORT, PREFILL_PORT, DECODE_PORT, KV_PORT = 18900, 18901, 18902, 18903, 18904
READY_S = 180.0


@dataclass(frozen=True, slots=True)
class Cut:
    """Packets from `source` (a namespace; None is the frontend's) to these addresses are swallowed."""

    name: str
    swallowed: tuple[tuple[str | None, str], ...]


def cuts() -> dict[str, list[Cut]]:
    (a, a_ip), (b, b_ip) = HOSTS.items()
    both, one_way = [], []
    for host, address in HOSTS.items():
        to_host, from_host = (None, address), (host, FRONTEND)
        both.append(Cut(f"frontend and {host}", (to_host, from_host)))
        one_way += [Cut(f"frontend to {host}", (to_host,)), Cut(f"{host} to frontend", (from_host,))]
    both.append(Cut("host and host", ((a, b_ip), (b, a_ip))))
    one_way += [Cut(f"{a} to {b}", ((a, b_ip),)), Cut(f"{b} to {a}", ((b, a_ip),))]
    return {"partitions": both, "one-way cuts": one_way}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--cuts", type=int, default=24, help="partitions, and as many one-way cuts")
    args = parser.parse_args()
    with ExitStack() as stack:
        stack.enter_context(hosts())
        stack.enter_context(processes(args.model))
        asyncio.run(run(args.cuts))


# -- hosts -----------------------------------------------------------------------------------------------------------


def ip(*arguments: str, inside: str | None = None) -> None:
    netns = ("ip", "netns", "exec", inside) if inside else ()
    subprocess.run([*netns, "ip", *arguments], check=True)


@contextmanager
def hosts() -> Iterator[None]:
    """A bridge, and a namespace on it for each host but the frontend's, which is this one."""
    ip("link", "add", BRIDGE, "type", "bridge")
    try:
        ip("addr", "add", f"{FRONTEND}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        for host, address in HOSTS.items():
            ip("netns", "add", host)
            ip("link", "add", f"{host}-o", "type", "veth", "peer", "name", "eth0", "netns", host)
            ip("link", "set", f"{host}-o", "master", BRIDGE, "up")
            ip("addr", "add", f"{address}/24", "dev", "eth0", inside=host)
            ip("link", "set", "eth0", "up", inside=host)
            ip("link", "set", "lo", "up", inside=host)
        yield
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "del", host], check=False)
        ip("link", "del", BRIDGE)


@contextmanager
def processes(model: Path) -> Iterator[None]:
    common = ["--model", str(model), "--log-level", "warning", "--insecure"]
    worker = ["--lease-s", str(LEASE_S), "--stall-limit-s", str(LEASE_S), "--threads", "1", "--shared-memory", "off"]
    commands = []
    for host, address in HOSTS.items():
        inside = ["ip", "netns", "exec", host, sys.executable, "-P", "-m"]
        prefill = ["prefill", "--listen", f"{address}:{PREFILL_PORT}", "--worker-id", f"prefill-{host}"]
        decode = ["decode", "--listen", f"{address}:{DECODE_PORT}", "--worker-id", f"decode-{host}"]
        kv = ["--kv-listen", f"tcp://{address}:{KV_PORT}"]
        commands += [[*inside, *prefill, *common, *worker], [*inside, *decode, *kv, *common, *worker]]
    lists = {
        role: ",".join(f"{ip}:{port}" for ip in HOSTS.values())
        for role, port in (("prefill", PREFILL_PORT), ("decode", DECODE_PORT))
    }
    frontend = [sys.executable, "-P", "-m", "frontend", "--host", "127.0.0.1", "--always-remote"]
    ports = ["--http-port", str(HTTP_PORT), "--grpc-port", str(GRPC_PORT)]
    commands.append([*frontend, *ports, "--prefill", lists["prefill"], "--decode", lists["decode"], *common])
    running = [subprocess.Popen(command) for command in commands]
    try:
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


@contextmanager
def swallowing(cut: Cut) -> Iterator[None]:
    for source, address in cut.swallowed:
        ip("route", "add", "blackhole", f"{address}/32", inside=source)
    try:
        yield
    finally:
        for source, address in cut.swallowed:
            ip("route", "del", "blackhole", f"{address}/32", inside=source)


# -- streams ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stream:
    tokens: list[int]
    longest_gap_s: float


async def stream(stub: Stub, prompt: list[int]) -> Stream | None:
    """None if it ends in an error."""
    stopping = pb.Stopping(max_tokens=MAX_TOKENS, ignore_eos=True)
    request = pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=prompt), sampling=pb.Sampling(temperature=0), stopping=stopping
    )
    tokens: list[int] = []
    heard, longest = time.monotonic(), 0.0
    try:
        async for message in stub.Generate(request):
            longest, heard = max(longest, time.monotonic() - heard), time.monotonic()
            tokens += message.delta.token_ids
    except grpc.aio.AioRpcError as error:
        print(f"a stream ended: {error.code().name}: {error.details()}")
        return None
    return Stream(tokens, longest)


async def run(num_cuts: int) -> None:
    rng = random.Random(0)
    prompts = [[1, *(rng.randrange(3, 250) for _ in range(120))] for _ in range(STREAMS)]
    http = f"http://127.0.0.1:{HTTP_PORT}"
    async with asyncio.timeout(READY_S):
        await frontend_ready("127.0.0.1", HTTP_PORT)(lambda _: None)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{GRPC_PORT}") as channel:
        stub = Stub(channel)
        quiet = await asyncio.gather(*(stream(stub, prompt) for prompt in prompts))
        expected = [each.tokens for each in quiet if each]
        assert len(expected) == STREAMS, "a stream failed on a network without faults"
        for kind, kinds in cuts().items():
            wrong = lost = num_streams = 0
            longest_s = 0.0
            for number in range(num_cuts):
                cut = kinds[number % len(kinds)]
                answers = await disturbed(stub, prompts, expected, cut)
                num_streams += len(answers)
                lost += sum(answer is None for answer, _ in answers)
                wrong += sum(answer is not None and answer.tokens != want for answer, want in answers)
                gap_s = max((answer.longest_gap_s for answer, _ in answers if answer), default=0.0)
                longest_s = max(longest_s, gap_s)
                print(f"  {cut.name}: longest gap {gap_s:.2f} s", flush=True)
            print(
                f"{num_cuts} {kind}: {num_streams} streams, {wrong} wrong, {lost} lost; longest gap {longest_s:.2f} s"
            )
        settle_s = await settled_s(http)
        held, leaked = held_and_leaked(http)
        print(f"KV blocks held {settle_s:.1f} s after the last stream: {held}; leaked: {leaked}")


async def disturbed(
    stub: Stub, prompts: list[list[int]], expected: list[list[int]], cut: Cut
) -> list[tuple[Stream | None, list[int]]]:
    """Streams begin again and again while the cut begins, lasts, and is mended; all end well after it."""
    answers: list[tuple[Stream | None, list[int]]] = []
    until = time.monotonic() + 1.0 + CUT_S

    async def again(prompt: list[int], want: list[int]) -> None:
        while time.monotonic() < until:
            answers.append((await stream(stub, prompt), want))

    streams = asyncio.gather(*(again(p, e) for p, e in zip(prompts, expected, strict=True)))
    await asyncio.sleep(1.0)
    with swallowing(cut):
        await asyncio.sleep(CUT_S)
    await streams
    return answers


if __name__ == "__main__":
    main()
