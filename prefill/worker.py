"""The prefill worker's step: commands in, one batch of prompt chunks computed, events out.

A prompt's life on this thread:
 1. `Compute` puts it into the scheduler's queue.
 2. `plan` gives it blocks, those of a cached prefix first, and chunks of the next steps.
 3. After each chunk, full blocks are reported (`BlocksReady`): the service pushes them while the next chunk runs; and
    how likely its tokens are (`Scored`), where that was asked for.
 4. After the last chunk the first token is sampled (`FirstToken`).
 5. `Close` says that the transfer is over, well or not, or that there was none; the blocks go to the prefix cache
    (`Freed`).
`GiveUp` may come at any moment; memory that a transfer may read is freed by the `Close` that follows it.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.batch import Batch
from engine.blocks import CacheChanges
from engine.cost import Slowdown, work_of
from engine.custody import Custody, Holder, Inspect, Moves
from engine.histogram import StepMeter, Steps
from engine.meter import Rate
from engine.scoring import PromptScores
from engine.sequence import Sequence as Prompt
from engine.sequence import SequenceId, TokenLogprobs
from engine.steps import StepRunner, StepSampler
from prefill.scheduler import MOVES, BlocksReady, Freed, PrefillScheduler, PromptDone


@dataclass(frozen=True, slots=True)
class Compute:
    sequence: Prompt


@dataclass(frozen=True, slots=True)
class GiveUp:
    id: SequenceId


@dataclass(frozen=True, slots=True)
class Close:
    """Nobody reads this prompt's blocks any more."""

    id: SequenceId


Command = Compute | GiveUp | Close | Inspect


@dataclass(frozen=True, slots=True)
class Queued:
    """The prompt was taken into the queue."""

    id: SequenceId


@dataclass(frozen=True, slots=True)
class Refused:
    """The queue is full, or the prompt can never fit."""

    id: SequenceId
    too_large: bool
    message: str


@dataclass(frozen=True, slots=True)
class ChunkTime:
    """When the step that computed one chunk began, by `time.monotonic_ns()`."""

    start_ns: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class FirstToken:
    """A prompt is done. Times are `time.monotonic_ns()`: when it came, and when its last chunk was computed."""

    done: PromptDone
    logprobs: TokenLogprobs | None
    vector: bytes
    """The prompt as a vector (`engine.pooling`); empty where nobody asked for it."""
    queued_ns: int
    chunks: tuple[ChunkTime, ...]
    end_ns: int


@dataclass(frozen=True, slots=True)
class Scored:
    """How likely some tokens of a prompt are, for who asked; all of them come before its first token."""

    id: SequenceId
    scores: PromptScores


@dataclass(frozen=True, slots=True)
class DeadEnd:
    """No token may follow the prompt: it was given up."""

    id: SequenceId
    message: str


Event = Queued | BlocksReady | Scored | FirstToken | DeadEnd | Freed | Refused | CacheChanges


@dataclass(frozen=True, slots=True)
class Load:
    """What the worker is busy with, after its latest step."""

    free_blocks: int
    cached_blocks: int
    leaked_blocks: int
    running: int
    waiting: int
    waiting_tokens: int
    tokens_per_s: float
    slowdown: float
    """Of steps against the worker's profile; 0 while unknown."""
    steps: Steps


class PrefillWorker:
    """Owns the device: scheduler, model and sampler."""

    moves: Moves = MOVES

    def __init__(
        self,
        scheduler: PrefillScheduler,
        runner: StepRunner,
        sampler: StepSampler,
        slowdown: Slowdown | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self.sampler = sampler
        self._speed = Rate()
        self._slowdown = slowdown or Slowdown(None)
        self._steps = StepMeter()
        self._queued_ns: dict[SequenceId, int] = {}
        self._chunks: dict[SequenceId, list[ChunkTime]] = {}
        self.load = self._load()
        """Replaced when something happened; may be read by any thread."""

    def apply(self, commands: Sequence[Command]) -> list[Event]:
        events = [event for command in commands for event in self._apply(command)]
        self.load = self._load()
        return events

    def step(self) -> list[Event]:
        events: list[Event] = []
        if chunks := self.scheduler.plan():
            start_ns = time.monotonic_ns()
            for chunk in chunks:
                self._chunks[chunk.sequence.id].append(ChunkTime(start_ns, chunk.num_tokens))
            batch = Batch.build(chunks, self.scheduler.cache.block_tokens)
            sampled = self.sampler(self.runner(batch), batch.sampled)
            end_ns = time.monotonic_ns()
            seconds = (end_ns - start_ns) / 1e9
            self._speed.add(len(batch.token_ids), seconds)
            self._steps.add(seconds, len(chunks), len(batch.token_ids))
            if not batch.scored:  # which is work that the profile knows nothing of
                self._slowdown.add(work_of((chunk.start, chunk.end) for chunk in chunks), seconds)
            events.extend(Scored(rows.id, scores) for rows in batch.scored for scores in rows.scoring.drain())
            done = self.scheduler.commit(chunks, sampled.drawn(batch.sampled))
            logprobs = {s.id: p for s, p in zip(batch.sampled, sampled.logprobs or (), strict=False)}
            vectors = {s.id: s.pooled.vector() for s in batch.sampled if s.pooled is not None}
            events.extend(self._timed(event, logprobs, vectors, end_ns) for event in done)
            for row, message in sampled.dead_ends.items():
                sequence_id = batch.sampled[row].id
                events += [DeadEnd(sequence_id, message), *self._forget(self.scheduler.abort(sequence_id))]
        changes = self.scheduler.pool.take_changes()
        if changes.stored or changes.evicted:
            events.append(changes)
        self.load = self._load()
        return events

    def has_work(self) -> bool:
        return self.scheduler.has_work()

    def holders(self) -> list[Holder]:
        return self.scheduler.holders()

    def check(self) -> None:
        """Assert that the books agree: those of the scheduler, and who is timed with who is here."""
        self.scheduler.check()
        here = {holder.id for holder in self.holders()}
        assert set(self._queued_ns) == set(self._chunks) == here, "who is timed is not who is here"

    def _apply(self, command: Command) -> list[Event]:
        match command:
            case Compute(sequence):
                return self._admit(sequence)
            case GiveUp(sequence_id):
                return self._forget(self.scheduler.abort(sequence_id))
            case Close(sequence_id):
                return self._forget(self.scheduler.close(sequence_id))
            case Inspect(reply):
                reply(Custody.of(self.scheduler.pool, self.holders()))
                return []

    def _admit(self, sequence: Prompt) -> list[Event]:
        num_tokens = len(sequence.tokens)
        if not self.scheduler.fits(num_tokens):
            return [Refused(sequence.id, True, f"a prompt of {num_tokens} tokens does not fit this worker's KV pool")]
        if not self.scheduler.has_room(num_tokens):
            waiting = self.scheduler.queued_tokens
            return [Refused(sequence.id, False, f"{waiting} prompt tokens are waiting")]
        self._queued_ns[sequence.id] = time.monotonic_ns()
        self._chunks[sequence.id] = []
        self.scheduler.admit(sequence)
        return [Queued(sequence.id)]

    def _forget(self, events: Sequence[Freed]) -> list[Event]:
        for event in events:
            self._queued_ns.pop(event.id, None)
            self._chunks.pop(event.id, None)
        return list(events)

    def _timed(
        self,
        event: BlocksReady | PromptDone,
        logprobs: Mapping[SequenceId, TokenLogprobs | None],
        vectors: Mapping[SequenceId, bytes],
        end_ns: int,
    ) -> Event:
        if not isinstance(event, PromptDone):
            return event
        chunks = tuple(self._chunks[event.id])
        vector = vectors.get(event.id, b"")
        return FirstToken(event, logprobs.get(event.id), vector, self._queued_ns[event.id], chunks, end_ns)

    def _load(self) -> Load:
        scheduler = self.scheduler
        return Load(
            free_blocks=scheduler.pool.num_available,
            cached_blocks=scheduler.pool.num_cached,
            leaked_blocks=scheduler.pool.num_leaked_when_idle,
            running=scheduler.num_running,
            waiting=scheduler.num_queued,
            waiting_tokens=scheduler.waiting_tokens,
            tokens_per_s=self._speed.per_s,
            slowdown=self._slowdown.times,
            steps=self._steps.now,
        )
