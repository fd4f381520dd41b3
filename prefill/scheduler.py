"""Which prompts are computed next, in which chunks, and who holds blocks until they are sent. Pure.

A prompt is `queued`, then `prefilling`, then `sending` until its transfer is closed. One that is given up while its
blocks may still be read by the transport is `draining`: computed no further, freed when the transfer is closed.
"""

from collections import OrderedDict
from collections.abc import Iterable
from collections.abc import Sequence as Many
from dataclasses import dataclass
from enum import StrEnum

from engine.batch import Chunk
from engine.blocks import BlockPool
from engine.custody import Holder, Moves, check_holders
from engine.prefix import PrefixCache
from engine.sequence import FinishReason, Sequence, SequenceId


class State(StrEnum):
    QUEUED = "queued"
    PREFILLING = "prefilling"
    SENDING = "sending"
    DRAINING = "draining"


MOVES: Moves = {
    State.QUEUED: frozenset({State.PREFILLING}),
    State.PREFILLING: frozenset({State.SENDING, State.DRAINING}),
    State.SENDING: frozenset({State.DRAINING}),
    State.DRAINING: frozenset(),
}
"""From state to state, only forward; from each of them a prompt may also leave for good. It comes as QUEUED."""


@dataclass(slots=True)
class Prompt:
    """A sequence in this scheduler."""

    sequence: Sequence
    state: State = State.QUEUED
    num_cached: int = 0
    """Leading tokens that the prefix cache held."""
    num_chunks: int = 0
    num_ready: int = 0
    """Leading blocks that were reported as ready to be sent."""


@dataclass(frozen=True, slots=True)
class BlocksReady:
    """Blocks `first`, `first + 1`, ... of the prompt hold their keys and values for good."""

    id: SequenceId
    first: int
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PromptDone:
    """The prompt is computed and its first token sampled. `finish` says that this token ends the answer."""

    id: SequenceId
    token: int
    index: int
    finish: FinishReason | None
    num_cached: int
    num_chunks: int


@dataclass(frozen=True, slots=True)
class Freed:
    """Nothing is held for this sequence any more."""

    id: SequenceId


Event = BlocksReady | PromptDone


class PrefillScheduler:
    """First come, first served; short prompts share a step, long ones take several."""

    def __init__(
        self, num_blocks: int, block_tokens: int, *, max_step_tokens: int, max_sequences: int, max_queued_tokens: int
    ) -> None:
        self.pool = BlockPool[SequenceId](num_blocks)
        self.cache = PrefixCache(self.pool, block_tokens)
        self.max_step_tokens = max_step_tokens
        self.max_sequences = max_sequences
        self.max_queued_tokens = max_queued_tokens
        self.queued_tokens = 0
        self._prompts: dict[SequenceId, Prompt] = {}
        self._queue: OrderedDict[SequenceId, Prompt] = OrderedDict()  # a dict's head is far when many have left it
        self._active: dict[SequenceId, Prompt] = {}

    def fits(self, num_tokens: int) -> bool:
        """Whether a prompt of this length can ever be computed here."""
        return self.cache.num_blocks(num_tokens) <= self.pool.num_blocks

    def has_room(self, num_tokens: int) -> bool:
        """Whether a prompt of this length may join the queue now; an empty queue takes any."""
        return not self._queue or self.queued_tokens + num_tokens <= self.max_queued_tokens

    def admit(self, sequence: Sequence) -> None:
        assert sequence.id not in self._prompts, f"{sequence.id} is here already"
        prompt = Prompt(sequence)
        self._prompts[sequence.id] = self._queue[sequence.id] = prompt
        self.queued_tokens += len(sequence.tokens)

    def abort(self, sequence_id: SequenceId) -> list[Freed]:
        """Compute this prompt no further. Its blocks are freed now if none was ever handed to a transfer."""
        prompt = self._prompts.get(sequence_id)
        if prompt is None or prompt.state is State.DRAINING:
            return []
        if self._queue.pop(sequence_id, None):
            self.queued_tokens -= len(prompt.sequence.tokens)
        self._active.pop(sequence_id, None)
        prompt.state = State.DRAINING
        return [] if prompt.num_ready else self.close(sequence_id)

    def close(self, sequence_id: SequenceId) -> list[Freed]:
        """The transfer of this prompt is over: nobody reads its blocks any more."""
        prompt = self._prompts.get(sequence_id)
        if prompt is None:
            return []
        assert prompt.state in (State.SENDING, State.DRAINING), f"{sequence_id} is {prompt.state}"
        del self._prompts[sequence_id]
        self.cache.release(prompt.sequence)
        return [Freed(sequence_id)]

    def plan(self) -> list[Chunk]:
        """The chunks of one step: up to `max_step_tokens`, oldest prompts first."""
        budget = self.max_step_tokens
        chunks: list[Chunk] = []
        for prompt in self._active.values():
            if not budget:
                break
            budget -= self._add(chunks, prompt, budget)
        while budget and self._queue and len(self._active) < self.max_sequences:
            prompt = next(iter(self._queue.values()))
            if not self.cache.take(prompt.sequence):
                break  # whoever holds the blocks is being sent, and frees them
            del self._queue[prompt.sequence.id]
            self.queued_tokens -= len(prompt.sequence.tokens)
            prompt.state = State.PREFILLING
            prompt.num_cached = prompt.sequence.num_computed
            self._active[prompt.sequence.id] = prompt
            budget -= self._add(chunks, prompt, budget)
        return chunks

    def commit(self, chunks: Many[Chunk], sampled: Iterable[tuple[Sequence, int]]) -> list[Event]:
        """Take in a computed step: what may be sent, and which prompts are done."""
        events: list[Event] = []
        for chunk in chunks:
            prompt = self._prompts[chunk.sequence.id]
            self.cache.advance(chunk.sequence, chunk.end)
            prompt.num_chunks += 1
            if ready := self._ready(prompt):
                events.append(ready)
        for sequence, token in sampled:
            prompt = self._prompts[sequence.id]
            index = sequence.num_output
            finish = sequence.append(token)
            del self._active[sequence.id]
            prompt.state = State.SENDING
            events.append(PromptDone(sequence.id, token, index, finish, prompt.num_cached, prompt.num_chunks))
        return events

    def has_work(self) -> bool:
        """Whether `plan` would give chunks: false while the queue's head waits for blocks."""
        if self._active:
            return True
        head = next(iter(self._queue.values()), None)
        return head is not None and self.cache.can_take(head.sequence)

    def holders(self) -> list[Holder]:
        """Everybody here, in what state, and the blocks they hold."""
        return [Holder(p.sequence.id, p.state, tuple(p.sequence.blocks), _reason(p)) for p in self._prompts.values()]

    def check(self) -> None:
        """Assert that blocks, states and sums agree."""
        check_holders(self.pool, self.holders())
        prompts = self._prompts.values()
        for state, kept in ((State.QUEUED, self._queue), (State.PREFILLING, self._active)):
            found = {prompt.sequence.id for prompt in prompts if prompt.state is state}
            assert set(kept) == found, f"{found} are {state}, and {set(kept)} are kept as such"
        assert not any(p.sequence.blocks for p in self._queue.values()), "who waits has blocks already"
        queued = sum(len(p.sequence.tokens) for p in self._queue.values())
        assert self.queued_tokens == queued, f"{self.queued_tokens} tokens wait, by their prompts {queued}"
        for prompt in prompts:
            assert prompt.num_ready <= len(prompt.sequence.blocks), f"{prompt.sequence.id} sends what it lacks"

    @property
    def num_queued(self) -> int:
        return len(self._queue)

    @property
    def waiting_tokens(self) -> int:
        """Prompt tokens still to be computed here."""
        return self.queued_tokens + sum(prompt.sequence.num_uncomputed for prompt in self._active.values())

    @property
    def num_running(self) -> int:
        return len(self._prompts) - len(self._queue)

    def _add(self, chunks: list[Chunk], prompt: Prompt, budget: int) -> int:
        start = prompt.sequence.num_computed
        end = min(start + budget, len(prompt.sequence.tokens))
        chunks.append(Chunk(prompt.sequence, start, end))
        return end - start

    def _ready(self, prompt: Prompt) -> BlocksReady | None:
        sequence = prompt.sequence
        done = sequence.num_computed == len(sequence.tokens)
        num_ready = len(sequence.blocks) if done else sequence.num_computed // self.cache.block_tokens
        if num_ready == prompt.num_ready:
            return None
        first, prompt.num_ready = prompt.num_ready, num_ready
        return BlocksReady(sequence.id, first, tuple(sequence.blocks[first:num_ready]))


def _reason(prompt: Prompt) -> str:
    sequence = prompt.sequence
    match prompt.state:
        case State.QUEUED:
            return f"{len(sequence.tokens)} tokens wait to be computed"
        case State.PREFILLING:
            return f"{sequence.num_computed} of {len(sequence.tokens)} tokens are computed"
        case State.SENDING:
            return "all is computed; a decode worker takes the blocks"
        case State.DRAINING:
            return "nobody wants it; the transport has not let go of the blocks yet"
