"""What the frontend knows of one worker: what the worker said of itself, and what was sent to it since. No choices."""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field

from engine.cost import Costs
from engine.sequence import BlockHash


@dataclass(slots=True)
class WorkerView:
    """What the router knows of one worker: its last `Load`, and what was sent to it since."""

    worker_id: str
    model: str
    layout: str
    num_blocks: int
    block_tokens: int
    block_bytes: int
    max_context: int
    max_sequences: int
    max_step_tokens: int = 512
    costs: Costs | None = None
    """As of now, with every CPU it may borrow; None until something was measured."""
    own_costs: Costs | None = None
    """With its own CPUs alone; None of a worker that borrows none."""
    cpu_board: str = ""
    """Workers of one board lend their CPUs to one another."""
    hashes: AbstractSet[BlockHash] = field(default_factory=frozenset)
    draining: bool = False
    stalled: str = ""
    """Why it gets nowhere."""
    unready: str = ""
    """Why it should get nothing new, although it gets on."""
    full: bool = False
    """Whether it has refused somebody since its last `Load`."""
    free_blocks: int = 0
    promised_blocks: int = 0
    running: int = 0
    """Those that wait are among them."""
    waiting: int = 0
    waiting_tokens: int = 0
    transfer_bytes_per_s: float = 0.0
    sent_legs: int = 0
    """Legs sent that the last `Load` does not count."""
    sent_blocks: int = 0
    sent_tokens: int = 0
    coming_tokens: int = 0
    """Of prompts that will be sent to it as soon as a decode worker has promised room for their KV."""

    @contextmanager
    def expecting(self, num_tokens: int) -> Iterator[None]:
        """Count so many tokens as coming."""
        self.coming_tokens += num_tokens
        try:
            yield
        finally:
            self.coming_tokens -= num_tokens

    @property
    def takes_requests(self) -> bool:
        return not self.draining and not self.stalled

    @property
    def hindered(self) -> str:
        """Why it is not ready, if it is not that it drains."""
        return self.stalled or self.unready

    def cached_tokens(self, hashes: Sequence[BlockHash]) -> int:
        """Leading prompt tokens whose KV this worker holds."""
        count = 0
        for block_hash in hashes:
            if block_hash not in self.hashes:
                break
            count += 1
        return count * self.block_tokens

    @property
    def token_s(self) -> float:
        """Of a decode worker, between two tokens of an answer; 0 while unknown."""
        return self.costs.decode_step_s(max(self.streams, 1), self.context_tokens) if self.costs else 0.0

    @property
    def streams(self) -> int:
        """Those who get a token every step, or soon will."""
        return self.running + self.sent_legs

    def costs_beside(self, other: "WorkerView", *, busy: bool) -> Costs | None:
        """As of now, while `other` is `busy` or has no work."""
        return self.own_costs if busy and self.borrows_from(other) else self.costs

    def borrows_from(self, other: "WorkerView") -> bool:
        return self.own_costs is not None and self.cpu_board == other.cpu_board

    @property
    def context_tokens(self) -> int:
        """Positions that a decode step reads, about."""
        return max(self.num_blocks - self.free_blocks - self.promised_blocks, 0) * self.block_tokens
