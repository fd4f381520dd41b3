"""Which decode worker gets a request, and whether a prefill worker computes its prompt. Pure.

Decode is chosen by room after what is promised, by how busy it is, and by the prefix it holds. Then the two ways to the
first token are compared, by the costs that the workers measured (`engine.cost`):

    local    the step under way, prompts that wait there, and the request's own chunks, each in one step with the tokens
             of those who stream; to which is added what these lose: for each stream and step, the time beyond
             `itl_tolerance` times their step
    remote   the step under way (decode grants between steps), waiting and computing on the best prefill worker, the
             hop, and the part of the transfer that computing does not hide

Each worker's speed counts as it is now: two roles that share cores or memory are measured while they do. Where the two
ways are about equal the prompt goes to a prefill worker, so that decode stays free for whoever comes next. Until there
is a measurement it goes there too.
"""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from engine.cost import Costs, StepWork, chunks
from engine.sequence import BlockHash

UNMEASURED = Costs.flat(1_000.0)
"""Stands in for costs not measured yet when prefill workers are compared with one another."""
ABOUT_EQUAL = 1.02
"""How much longer than local the remote way may take and still be chosen."""


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
    """As of now; None until something was measured."""
    hashes: AbstractSet[BlockHash] = field(default_factory=frozenset)
    draining: bool = False
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

    def cached_tokens(self, hashes: Sequence[BlockHash]) -> int:
        """Leading prompt tokens whose KV this worker holds."""
        count = 0
        for block_hash in hashes:
            if block_hash not in self.hashes:
                break
            count += 1
        return count * self.block_tokens

    @property
    def queue_s(self) -> float:
        """Predicted wait before a prompt sent now is computed."""
        costs = self.costs or UNMEASURED
        return costs.prefill_s(self.waiting_tokens + self.sent_tokens, 0, self.max_step_tokens)

    @property
    def streams(self) -> int:
        """Those who get a token every step, or soon will."""
        return self.running + self.sent_legs

    @property
    def context_tokens(self) -> int:
        """Positions that a decode step reads, about."""
        return max(self.num_blocks - self.free_blocks - self.promised_blocks, 0) * self.block_tokens


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
    local_s: float = 0.0
    """Predicted time to the first token, prefilled locally; 0 where it was not estimated."""
    remote_s: float = 0.0
    stall_s: float = 0.0
    """What local prefill takes from those who stream, beyond what is tolerated, over all of them."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's word on local prefill."""

    local_prefill_tokens: int = 0
    """Goes before the estimate, as does `always_remote`."""
    always_remote: bool = False
    itl_tolerance: float = 1.5
    """A local prefill's steps may take so many times the streams' own before the excess counts against it."""


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
    usable = ((_prefill_s(view, need), view) for view in able if not view.full)
    prefill_s, prefill = min(usable, key=lambda pair: pair[0], default=(0.0, None))
    if prefill is None:
        return None if able and policy.always_remote else Placement(decode, None, cached)
    uncached = need.num_tokens - cached
    if uncached <= policy.local_prefill_tokens:
        return Placement(decode, None, cached)
    under_way_s = _under_way_s(decode)
    remote_s = under_way_s + prefill_s + hop_s + _transfer_s(prefill, decode, need, cached)
    local_s, stall_s = _local_s(decode, prefill, uncached, cached, policy.itl_tolerance)
    measured = decode.costs is not None or prefill.costs is not None
    remote = policy.always_remote or not measured or remote_s <= ABOUT_EQUAL * (under_way_s + local_s + stall_s)
    return Placement(decode, prefill if remote else None, cached, under_way_s + local_s, remote_s, stall_s)


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
    return view.queue_s + _compute_s(view, need.num_tokens - cached, cached)


def _compute_s(view: WorkerView, uncached: int, cached: int) -> float:
    return (view.costs or UNMEASURED).prefill_s(uncached, cached, view.max_step_tokens)


def _under_way_s(decode: WorkerView) -> float:
    """What is left, on average, of the step that runs now: the worker takes nobody in before it ends."""
    costs = decode.costs or UNMEASURED
    return costs.decode_step_s(decode.streams, decode.context_tokens) / 2


def _local_s(
    decode: WorkerView, prefill: WorkerView, uncached: int, cached: int, itl_tolerance: float
) -> tuple[float, float]:
    """Waiting and computing on the decode worker; and what that takes from all who stream there.

    A decode worker of which nothing is known is taken to be like the prefill worker.
    """
    costs = decode.costs or prefill.costs or UNMEASURED
    streams, context = decode.streams, decode.context_tokens
    tolerated_s = itl_tolerance * costs.decode_step_s(streams, context)
    compute_s = stall_s = 0.0
    for num_tokens, before in chunks(uncached, cached, max(decode.max_step_tokens - streams, 1)):
        step_s = costs.step_s(StepWork(num_tokens, before, streams, context))
        compute_s += step_s
        stall_s += streams * max(step_s - tolerated_s, 0.0)
    return decode.queue_s + compute_s, stall_s


def _transfer_s(prefill: WorkerView, decode: WorkerView, need: Need, cached: int) -> float:
    """What moving the KV that decode lacks delays token two by: blocks move while the next chunk is computed."""
    if not prefill.transfer_bytes_per_s:
        return 0.0
    per_token_s = decode.block_bytes / decode.block_tokens / prefill.transfer_bytes_per_s
    missing = need.num_tokens - cached
    last = min(missing, prefill.max_step_tokens)
    hidden_s = _compute_s(prefill, missing, cached) - _compute_s(prefill, last, need.num_tokens - last)
    return max(missing * per_token_s - hidden_s, last * per_token_s)
