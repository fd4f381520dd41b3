"""What long prompts do to the streams of the same GPU: computed by the worker that has the streams, in chunks between
their tokens, or by another process, as a prefill worker is one.

The other process computes, and moves no KV: what a copy of a prompt's blocks costs is among the kernels.
"""

import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from bench.gpu_parts.bench import Bench
from bench.gpu_parts.engine import Engine, blocks_of
from bench.gpu_parts.report import Row
from bench.gpu_parts.streams import Streams

READY, PROMPT_TOKENS = "ready", 8192
_CONTEXT, _MOST_STREAMS, _MOST_STEPS = 1024, 32, 1500
_CHUNK_TOKENS = 2048
"""Of a step with prompts: the default of `--max-step-tokens` is smaller, and takes longer for a prompt."""
_NUM_PROMPTS, _EVERY_S, _QUIET_STEPS = 10, 0.5, 200


@dataclass(slots=True)
class _Heard:
    """Of one run."""

    gaps_s: list[float] = field(default_factory=list)
    """Between two tokens of a stream"""
    waits_s: list[float] = field(default_factory=list)
    """From a prompt to its first token"""

    def gap_ms(self, quantile: float) -> float:
        ordered = sorted(self.gaps_s)
        return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))] * 1e3

    def note(self, quiet_ms: float) -> str:
        waits = f"prompts wait {statistics.median(self.waits_s) * 1e3:.0f} ms" if self.waits_s else "no prompt was over"
        return f"p99 {self.gap_ms(0.99):.1f} ms, quiet p50 {quiet_ms:.1f} ms; {waits}"


def compare(bench: Bench, engine: Engine) -> None:
    """Two rows, of which the second should be the better one."""
    num_tokens = bench.size(PROMPT_TOKENS, 16)
    count = min(
        bench.size(_MOST_STREAMS, 1),
        engine.room.sequences - 1,
        (engine.room.blocks - 2 * blocks_of(num_tokens)) // blocks_of(_context(bench) + _steps(bench)) - 1,
    )
    if count < 1:
        bench.emit(Row(bench.task, "skipped: there is no room for a stream beside a prompt"))
        return

    def streams() -> Streams:
        return Streams(engine, count, _context(bench), step_tokens=bench.size(_CHUNK_TOKENS, 8))

    quiet = _run(bench, streams(), None)
    quiet_ms = quiet.gap_ms(0.5)
    one = _run(bench, alone := streams(), lambda number: alone.ask(f"prompt {number}", num_tokens))
    ratio = one.gap_ms(0.99) / quiet_ms
    what = f"8B, {count} streams beside prompts of {num_tokens}: "
    bench.emit(Row(f"{what}one worker, in chunks", ratio, "x quiet", note=one.note(quiet_ms)))
    if not bench.is_dry and bench.free_bytes() < engine.shape.weight_bytes + (8 << 30):
        bench.emit(Row(f"{what}two processes", "skipped: no memory for another model"))
        return
    with _other_process(bench) as other:
        if not other.is_ready():
            bench.emit(Row(f"{what}two processes", "failed", note="the other one did not start", is_failure=True))
            return
        two = _run(bench, streams(), other.ask, other.over)
    found = two.gap_ms(0.99) / quiet_ms
    note = two.note(quiet_ms)
    bench.emit(Row(f"{what}two processes", found, "x quiet", ratio, found / ratio, most_share=1.0, note=note))


def _context(bench: Bench) -> int:
    return bench.size(_CONTEXT, 8)


def _steps(bench: Bench) -> int:
    return bench.size(_MOST_STEPS, 12)


def _run(
    bench: Bench,
    streams: Streams,
    ask: Callable[[int], bool] | None,
    over: Callable[[], int] | None = None,
) -> _Heard:
    """Steps until every prompt is over, or there is no room for more. `ask` is called when one comes, and again if it
    could not be taken; `over` says how many have ended elsewhere."""
    heard, num_prompts = _Heard(), bench.size(_NUM_PROMPTS, 1) if ask else 0
    came_s: list[float] = []
    ended = 0
    for _ in range(3):  # the first has no step before it
        streams.step()
    began = last = time.perf_counter()
    for _ in range(_steps(bench) if ask else bench.size(_QUIET_STEPS, 2)):
        due_s = began + len(came_s) * bench.size(1, 0) * _EVERY_S
        if ask is not None and len(came_s) < num_prompts and last >= due_s and ask(len(came_s)):
            came_s.append(due_s)
        num_over = len(streams.step())
        now = time.perf_counter()
        heard.gaps_s.append(now - last)
        last = now
        num_over = over() - ended if over else num_over
        heard.waits_s += [now - came for came in came_s[ended : ended + num_over]]
        ended += num_over
        if num_prompts and ended == num_prompts:
            break
    streams.settle()
    return heard


class _Other:
    """A process that computes prompts."""

    def __init__(self, process: "subprocess.Popen[str]", orders: IO[str], answers: IO[str]) -> None:
        self._process, self._orders, self._answers = process, orders, answers
        self._num_over = 0
        self._listener = threading.Thread(target=self._listen, daemon=True)

    def is_ready(self) -> bool:
        """Wait until it is, or is no more."""
        is_ready = self._answers.readline().strip() == READY
        self._listener.start()
        return is_ready

    def ask(self, number: int) -> bool:
        self._orders.write(f"{number}\n")
        self._orders.flush()
        return True

    def over(self) -> int:
        return self._num_over

    def _listen(self) -> None:
        for _ in self._answers:
            self._num_over += 1


@contextmanager
def _other_process(bench: Bench) -> Iterator[_Other]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, sys.argv[0], "--child", "prompts", "--file", str(Path(folder, "prompts"))]
        command += ["--seconds", str(max(1.0, bench.deadline - time.monotonic()))]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command + (["--dry-run"] if bench.is_dry else []), stdin=pipe, stdout=pipe, text=True, bufsize=1
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield _Other(process, process.stdin, process.stdout)
        finally:
            process.kill()
            process.wait()
