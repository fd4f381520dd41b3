"""Which decode worker gets a request, and whether a prefill worker computes its prompt. Pure.

Decode is chosen by room after what is promised, by how busy it is, and by the prefix it holds. Then the two ways to the
first token are compared, each as the delay it causes to everybody:

    local    the request's own TTFT on the decode worker, and the same compute time once more for each stream there that
             stalls meanwhile (one at least: the stream that may start next)
    remote   waiting and computing on the best prefill worker, the hop, and the transfer that delays token two

All speeds are measured (`Load`). Until there is a measurement the prompt goes to a prefill worker.
"""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from engine.sequence import BlockHash

DEFAULT_PREFILL_TOKENS_PER_S = 1_000.0
"""Stands in for a speed not measured yet when prefill workers are compared with one another."""


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
    hashes: AbstractSet[BlockHash] = field(default_factory=frozenset)
    draining: bool = False
    full: bool = False
    """Whether it has refused somebody since its last `Load`."""
    free_blocks: int = 0
    running: int = 0
    """Those that wait are among them."""
    waiting: int = 0
    waiting_tokens: int = 0
    prefill_tokens_per_s: float = 0.0
    transfer_bytes_per_s: float = 0.0
    sent_legs: int = 0
    """Legs sent that the last `Load` does not count."""
    sent_blocks: int = 0
    sent_tokens: int = 0

    def cached_tokens(self, hashes: Sequence[BlockHash]) -> int:
        """Leading prompt tokens whose KV this worker holds."""
        count = 0
        for block_hash in hashes:
            if block_hash not in self.hashes:
                break
            count += 1
        return count * self.block_tokens

    @property
    def speed(self) -> float:
        return self.prefill_tokens_per_s or DEFAULT_PREFILL_TOKENS_PER_S

    @property
    def queue_s(self) -> float:
        """Predicted wait before a prompt sent now is computed."""
        return (self.waiting_tokens + self.sent_tokens) / self.speed


@dataclass(frozen=True, slots=True)
class Need:
    """What a request needs of workers."""

    model: str
    num_tokens: int
    """Prompt, and output so far for a request that is continued."""
    max_tokens: int
    """Longest that prompt and answer can get."""
    hashes: tuple[BlockHash, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """The decision and its estimate, as they stand on the span."""

    decode: WorkerView
    prefill: WorkerView | None
    """None: the decode worker prefills."""
    cached_tokens: int
    local_s: float
    """Predicted delay to everybody, prefilled locally; 0 where it was not estimated."""
    remote_s: float


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's word on local prefill, which goes before the estimate."""

    local_prefill_tokens: int = 0
    always_remote: bool = False


def place(
    need: Need, decodes: Iterable[WorkerView], prefills: Iterable[WorkerView], policy: Policy, hop_s: float
) -> Placement | None:
    """Choose workers for a request; None when there is no room now. `hop_s` is the measured cost of a hop."""
    decode = min(
        (view for view in decodes if _has_room(view, need)), key=lambda view: _decode_cost(view, need), default=None
    )
    if decode is None:
        return None
    cached = min(decode.cached_tokens(need.hashes), need.num_tokens - 1)
    able = [view for view in prefills if _can_prefill(view, need, decode)]
    prefill = min((view for view in able if not view.full), key=lambda view: _prefill_s(view, need), default=None)
    if prefill is None:
        return None if able and policy.always_remote else Placement(decode, None, cached, 0.0, 0.0)
    uncached = need.num_tokens - cached
    if uncached <= policy.local_prefill_tokens:
        return Placement(decode, None, cached, 0.0, 0.0)
    local_s = _local_s(decode, uncached)
    remote_s = _prefill_s(prefill, need) + hop_s + _transfer_s(prefill, decode, uncached)
    measured = decode.prefill_tokens_per_s > 0 or prefill.prefill_tokens_per_s > 0
    remote = policy.always_remote or not measured or remote_s <= local_s
    return Placement(decode, prefill if remote else None, cached, local_s, remote_s)


def can_ever_serve(need: Need, decodes: Iterable[WorkerView]) -> bool:
    """Whether some decode worker could hold the request if it were idle."""
    return any(_serves(view, need) and need.max_tokens <= view.max_context for view in decodes)


def _serves(view: WorkerView, need: Need) -> bool:
    return view.model == need.model and not view.draining


def _has_room(view: WorkerView, need: Need) -> bool:
    """As the worker itself decides: who was preempted comes first, and who runs may need a block more."""
    if not _serves(view, need) or need.max_tokens > view.max_context or view.full or view.waiting:
        return False
    legs = view.running + view.sent_legs
    blocks = -(-need.num_tokens // view.block_tokens)
    return legs < view.max_sequences and view.free_blocks - view.sent_blocks - blocks >= legs


def _decode_cost(view: WorkerView, need: Need) -> tuple[float, int]:
    """How full and busy the worker is, less the share of the prompt it holds already."""
    legs = view.running + view.sent_legs
    used = 1 - (view.free_blocks - view.sent_blocks) / view.num_blocks
    cached = view.cached_tokens(need.hashes) / need.num_tokens
    return max(used, legs / view.max_sequences) - cached, legs


def _can_prefill(view: WorkerView, need: Need, decode: WorkerView) -> bool:
    fits = need.num_tokens <= min(view.max_context, view.num_blocks * view.block_tokens)
    return _serves(view, need) and view.layout == decode.layout and fits


def _prefill_s(view: WorkerView, need: Need) -> float:
    cached = min(view.cached_tokens(need.hashes), need.num_tokens - 1)
    return view.queue_s + (need.num_tokens - cached) / view.speed


def _local_s(decode: WorkerView, uncached: int) -> float:
    """A decode worker that never prefilled is taken to be as fast as an average one."""
    stall_s = uncached / decode.speed
    return decode.queue_s + stall_s + stall_s * max(1, decode.running + decode.sent_legs)


def _transfer_s(prefill: WorkerView, decode: WorkerView, uncached: int) -> float:
    if not prefill.transfer_bytes_per_s:
        return 0.0
    return uncached / decode.block_tokens * decode.block_bytes / prefill.transfer_bytes_per_s
