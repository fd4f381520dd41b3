"""Streams on an `Engine`, step by step as the decode worker has it, scheduler and all, but for commands and messages:
the next step is launched before the host has heard this one's tokens.
"""

import time
from dataclasses import dataclass

from bench.gpu_parts.bench import Bench
from bench.gpu_parts.engine import BLOCK_TOKENS, Engine
from decode.scheduler import DecodeScheduler, Token
from engine.batch import Batch, Chunk
from engine.sequence import SequenceId
from engine.steps import Pending

_SETTLING = 4
"""Steps before those that count."""
_ALONE = 12
"""Steps that are timed on the device alone."""


@dataclass(frozen=True, slots=True)
class _Flight:
    """A step that was launched and not taken in yet."""

    chunks: list[Chunk]
    batch: Batch
    pending: Pending


@dataclass(frozen=True, slots=True)
class Pace:
    """Of steps one after another."""

    step_ms: float
    """From one step's tokens to the next one's, on the host"""
    device_ms: float
    """What the device takes for a step, when it never waits for the host"""

    @property
    def gap_share(self) -> float:
        """Of the time, in which the device waits for the host."""
        return max(0.0, 1 - self.device_ms / self.step_ms)


class Streams:
    """Sequences whose prompts' KV is in the pool, and prompts that come beside them."""

    def __init__(self, engine: Engine, num_streams: int, context: int, *, step_tokens: int = 1) -> None:
        """Each has `context` positions and its first token. `step_tokens` is the budget of a step with prompts."""
        self.engine = engine
        most = engine.room.sequences
        self._scheduler = DecodeScheduler(
            engine.room.blocks, BLOCK_TOKENS, max_step_tokens=step_tokens, max_sequences=most
        )
        self._sequences = [engine.sequence(f"stream {number}", context) for number in range(num_streams)]
        for sequence in self._sequences:
            assert self._scheduler.admit(sequence, local=False), "the pool is too small"
            self._scheduler.arrive(sequence.id, 0)
        self._flight: _Flight | None = None

    def ask(self, name: str, num_tokens: int) -> bool:
        """A prompt comes, of whose answer one token is wanted; False if there is no room for it now."""
        prompt = self.engine.sequence(name, num_tokens, answers=1)
        return self._scheduler.admit(prompt, local=True) is not None

    def step(self) -> set[SequenceId]:
        """Launch a step and take in the one before; who has ended with it."""
        before, self._flight = self._flight, None
        over: set[SequenceId] = set()
        if before is not None:
            self._flight = self._take_off(self._scheduler.plan_ahead(), before)
            over = self._land(before)
        if self._flight is None:
            self._flight = self._take_off(self._scheduler.plan(), None)
        return over

    def settle(self) -> None:
        """Take in what is launched, and launch nothing."""
        if self._flight is not None:
            self._land(self._flight)
            self._flight = None

    def pace(self, bench: Bench, num_steps: int) -> Pace:
        """Of so many steps."""
        for _ in range(_SETTLING):
            self.step()
        began = time.perf_counter()
        for _ in range(num_steps):
            self.step()
        step_ms = (time.perf_counter() - began) * 1e3 / num_steps
        self.settle()
        batch = Batch.build(self._scheduler.plan(), BLOCK_TOKENS)
        return Pace(step_ms, bench.alone_ms(lambda: self.engine.launch(batch, None), bench.size(_ALONE, 1)))

    def _take_off(self, chunks: list[Chunk], before: _Flight | None) -> _Flight | None:
        if not chunks:
            return None
        batch = Batch.build(chunks, BLOCK_TOKENS, before.batch.sampled if before else ())
        pending = self.engine.launch(batch, before.pending if before else None)
        self._scheduler.launched(chunks)
        return _Flight(chunks, batch, pending)

    def _land(self, flight: _Flight) -> set[SequenceId]:
        drawn = flight.pending.collect().drawn(flight.batch.sampled)
        events = self._scheduler.commit(flight.chunks, drawn)
        return {event.id for event in events if isinstance(event, Token) and event.finish is not None}
