"""What the frontend knows of one worker: what the worker said of itself, and what was sent to it since. No choices."""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field

from engine.cost import Costs
from engine.sequence import BlockHash
from protos import worker_pb2 as pb


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
    _profile: Costs | None = None
    """As of its start, with every CPU it may borrow."""
    _own_profile: Costs | None = None

    @classmethod
    def of(cls, hello: pb.Hello, hashes: AbstractSet[BlockHash]) -> "WorkerView":
        """A worker that says hello; `hashes` will be those of the blocks it holds."""
        profile, own_profile = Costs.from_proto(hello.profile), Costs.from_proto(hello.own_profile)
        return cls(
            worker_id=hello.worker_id,
            model=hello.model,
            layout=hello.layout,
            num_blocks=hello.num_blocks,
            block_tokens=hello.block_tokens,
            block_bytes=hello.block_bytes,
            max_context=hello.max_context,
            max_sequences=hello.max_sequences,
            max_step_tokens=hello.max_step_tokens or hello.max_context,
            costs=profile,
            own_costs=own_profile,
            cpu_board=hello.cpu_board,
            hashes=hashes,
            draining=hello.draining,
            free_blocks=hello.num_blocks,
            _profile=profile,
            _own_profile=own_profile,
        )

    def take(self, load: pb.Load) -> None:
        """What the worker reports; of what was sent to it, the caller knows what that does not count."""
        self.draining, self.stalled, self.unready = load.draining, load.stalled, load.unready
        self.full = False
        self.free_blocks = load.free_blocks
        self.running = load.running + load.waiting
        self.waiting = load.waiting
        self.waiting_tokens = load.waiting_tokens
        self.promised_blocks = load.promised_blocks
        self.costs = self._costs_now(load)
        self.own_costs = self._own_profile and self._own_profile.slower(load.slowdown or 1.0)
        self.transfer_bytes_per_s = load.transfer_bytes_per_s
        self.sent_legs = self.sent_blocks = self.sent_tokens = 0

    def _costs_now(self, load: pb.Load) -> Costs | None:
        """The profile as the worker's latest steps bear it out; without one, what is known of its speed."""
        if self._profile is not None:
            return self._profile.slower(load.slowdown) if load.slowdown > 0 else self._profile
        return Costs.flat(load.prefill_tokens_per_s, load.decode_step_s) if load.prefill_tokens_per_s > 0 else None

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
