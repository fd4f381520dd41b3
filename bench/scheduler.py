"""What scheduling costs a step, by how many wait: 256 sequences run, none, 1,000 or 10,000 wait.

    python -m bench.scheduler [--running 256] [--waiting 0 1000 10000] [--step-ms 60] [--out FILE]

A step of decode is `plan`, `commit` and what the loop and the report of load ask (`has_work`, sums); those who wait are
reserved (their KV is on the way), prefilling (behind others' chunks) or preempted, each kind by itself. A step of
prefill takes chunks of the oldest prompts of its queue. Medians over steps, the numbers waiting interleaved; the share
is of a step of `--step-ms`, which is what 32 streams of the 160m shape take on two cores: 256 take several times that.
"""

import argparse
import json
import random
import statistics
import time
from array import array
from collections.abc import Callable
from pathlib import Path

from decode.scheduler import DecodeScheduler
from engine.batch import Chunk
from engine.sequence import BlockHash, SamplingParams, Sequence, SequenceId
from prefill.scheduler import PrefillScheduler

BLOCK_TOKENS = 16
PROMPT_TOKENS = 64
STEP_TOKENS = 512
STEPS = 200
WARM_UP = 5
KINDS = ("reserved", "prefilling", "preempted")
Row = dict[str, str | float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--running", type=int, default=256)
    parser.add_argument("--waiting", type=int, nargs="+", default=[0, 1_000, 10_000])
    parser.add_argument("--step-ms", type=float, default=60.0)
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    args = parser.parse_args()
    steps: dict[str, Callable[[], None]] = {}
    for kind in KINDS:
        for waiting in args.waiting:
            steps[f"decode, {args.running} running, {waiting} {kind}"] = decode_step(args.running, waiting, kind)
    for waiting in args.waiting:
        steps[f"prefill, {waiting} queued"] = prefill_step(waiting)
    rows = [row(name, times, args.step_ms) for name, times in timed(steps).items()]
    for each in rows:
        print(f"{each['measure']:<72} {each['median']:>10.3f} {each['unit']:<6} {each['note']}")
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))


def timed(steps: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    """Milliseconds of each step, over and over, the steps in turn."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(-WARM_UP, STEPS):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if number >= 0:
                times[name].append((time.perf_counter() - began) * 1e3)
    return times


def row(name: str, times: list[float], step_ms: float) -> Row:
    median = statistics.median(times)
    note = f"p99 {statistics.quantiles(times, n=100)[98]:.3f}; {median / step_ms:.2%} of a step of {step_ms:g} ms"
    return {"measure": f"scheduler per step: {name}", "median": median, "unit": "ms", "note": note}


def decode_step(running: int, waiting: int, kind: str) -> Callable[[], None]:
    """A step of a scheduler in which `running` decode and `waiting` are of this kind."""
    block_tokens = 512 if kind == "preempted" else BLOCK_TOKENS
    most = -(-(PROMPT_TOKENS + WARM_UP + STEPS + 2) // block_tokens)
    num_blocks = (running + waiting) * (most + 1)  # one more is kept free for everybody at admission
    scheduler = DecodeScheduler(num_blocks, block_tokens, max_step_tokens=running + 1, max_sequences=running + waiting)
    for number in range(running + waiting):
        runs = number < running or kind == "preempted"
        assert scheduler.admit(_sequence(number), local=not runs and kind == "prefilling")
        if runs:
            assert scheduler.arrive(SequenceId(str(number)), 5)
    if kind == "preempted":
        _preempt(scheduler, waiting)

    def step() -> None:
        chunks = scheduler.plan()
        scheduler.commit(chunks, _sampled(chunks))
        scheduler.has_work()
        _ = scheduler.num_promised_blocks + scheduler.waiting_tokens + scheduler.num_running + scheduler.num_preempted

    return step


def _preempt(scheduler: DecodeScheduler, waiting: int) -> None:
    """Preempt the newest, and let others hold what they held, so that nobody comes back. Who runs has room enough."""
    for resident in list(reversed(list(scheduler._running)))[:waiting]:
        scheduler._preempt(resident)
    scheduler.pool.take(SequenceId("others"), scheduler.pool.num_available)


def prefill_step(waiting: int) -> Callable[[], None]:
    """A step of a prefill worker whose queue is as long at every step: who is done is sent, and a new prompt comes."""
    blocks = (waiting + STEP_TOKENS) * PROMPT_TOKENS // BLOCK_TOKENS
    scheduler = PrefillScheduler(
        blocks, BLOCK_TOKENS, max_step_tokens=STEP_TOKENS, max_sequences=256, max_queued_tokens=1 << 40
    )
    numbers = iter(range(1 << 40))
    for _ in range(waiting + STEP_TOKENS // PROMPT_TOKENS):
        scheduler.admit(_sequence(next(numbers)))

    def step() -> None:
        chunks = scheduler.plan()
        scheduler.commit(chunks, _sampled(chunks))
        scheduler.has_work()
        _ = scheduler.waiting_tokens + scheduler.num_queued + scheduler.num_running
        for chunk in chunks:
            if chunk.sequence.num_computed >= PROMPT_TOKENS:
                scheduler.close(chunk.sequence.id)
                scheduler.admit(_sequence(next(numbers)))

    return step


def _sequence(number: int) -> Sequence:
    params = SamplingParams(max_tokens=100_000, seed=0, temperature=0.0)
    tokens = random.Random(number).choices(range(1000), k=PROMPT_TOKENS)
    return Sequence(SequenceId(str(number)), array("i", tokens), PROMPT_TOKENS, params, hash_root=BlockHash(bytes(16)))


def _sampled(chunks: list[Chunk]) -> list[tuple[Sequence, int]]:
    return [(chunk.sequence, 5) for chunk in chunks if chunk.samples]


if __name__ == "__main__":
    main()
