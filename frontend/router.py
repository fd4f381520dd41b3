"""Which decode worker gets a request, and whether a prefill worker computes its prompt. Pure.

Decode is chosen by room after what is promised, by how busy it is, and by the prefix it holds. Then the two ways to the
first token are compared, by the costs that the workers measured (`engine.cost`):

    local    the step under way, prompts that wait there, and the request's own chunks, each in one step with the tokens
             of those who stream
    remote   the step under way (decode grants between steps), waiting and computing on the best prefill worker, the
             hop, and the part of the transfer that computing does not hide

To each is added what it takes from those who stream: locally every chunk's step is longer than theirs, and what it
takes beyond `itl_tolerance` times that counts more, for a stall is worse than the same time in small pieces; remotely
they lose the CPUs that the prefill worker lends while it is idle (`engine.lending`), for as long as it computes.

An answer of a single token, like that to a prompt of which only the vector is wanted, needs nobody who decodes: it has
no place on a decode worker unless its prompt is computed there, and nothing is transferred.

Each worker's speed counts as it is now: two roles that share cores or memory are measured while they do. Where the two
ways are about equal the prompt goes to a prefill worker, so that decode stays free for whoever comes next; unless the
two lend CPUs to each other, for then it is not free. Until there is a measurement the prompt goes there too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from engine.cost import Costs, StepWork, chunks
from engine.sequence import BlockHash
from frontend.worker_view import WorkerView

UNMEASURED = Costs.flat(1_000.0)
"""Stands in for costs not measured yet when prefill workers are compared with one another."""
ABOUT_EQUAL = 1.02
"""How much longer than local the remote way may take and still be chosen."""
WORTH_SHARING = 0.75
"""The same between workers that lend CPUs to each other. Work that they share out takes longer than its parts: a step
under way loses a CPU in its middle, both read memory, decode runs with few streams while prompts wait. (Measured on 2
cores, 128-token prompts, 16 streams: a fifth fewer tokens a second than with all of it on the decode worker.)"""
STALL_WEIGHT = 2.0
"""What a second of a stall beyond the tolerance counts in addition to itself."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a request needs of workers."""

    model: str
    num_tokens: int
    """Prompt, and output so far for a request that is continued."""
    max_tokens: int
    """Longest that prompt and answer can get."""
    hashes: tuple[BlockHash, ...]
    single_token: bool = False
    """Whether that is all of the answer."""


class Why(StrEnum):
    """What decided who computes a prompt."""

    NO_PREFILL = "no prefill worker can take it"
    FULL = "prefill workers are full"
    SHORT = "it is short enough to stay local"
    ALWAYS_REMOTE = "prompts are always sent away"
    UNMEASURED = "no worker's speed is known"
    ESTIMATE = "by the estimates"
    SINGLE_TOKEN = "a single token needs no decode worker"


@dataclass(frozen=True, slots=True)
class Placement:
    """The decision and its estimate, as they stand on the span."""

    decode: WorkerView
    """Who has the answer: the prefill worker itself where nobody has to decode."""
    prefill: WorkerView | None
    """None: the decode worker prefills."""
    cached_tokens: int
    why: Why
    local_s: float = 0.0
    """Predicted time to the first token, prefilled locally; 0 where it was not estimated."""
    remote_s: float = 0.0
    local_loss_s: float = 0.0
    """What that takes from those who stream, over all of them."""
    remote_loss_s: float = 0.0

    @property
    def decodes(self) -> bool:
        """Whether a decode worker has a part in it."""
        return self.decode is not self.prefill

    @property
    def is_estimated(self) -> bool:
        """Whether there were two ways, of which both were estimated; the operator may have decided all the same."""
        return self.why in (Why.ESTIMATE, Why.ALWAYS_REMOTE) and self.first_token_s is not None

    @property
    def first_token_s(self) -> float | None:
        """Predicted, the way that was chosen; None where it was not estimated."""
        known = self.decode.costs is not None or (self.prefill is not None and self.prefill.costs is not None)
        return ((self.local_s if self.prefill is None else self.remote_s) if known else 0.0) or None


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's word on local prefill."""

    local_prefill_tokens: int = 0
    """Goes before the estimate, as does `always_remote`."""
    always_remote: bool = False
    itl_tolerance: float = 4.0
    """A local prefill's steps may take so many times the streams' own before the excess counts more."""


def place(
    need: Need,
    decodes: Iterable[WorkerView],
    prefills: Iterable[WorkerView],
    policy: Policy,
    hop_s: float,
    cut: Sequence[tuple[WorkerView, WorkerView]] = (),
) -> Placement | None:
    """Choose workers for a request; None when there is no room now.

    `hop_s` is the measured cost of a hop; `cut` are pairs of a prefill and a decode worker between which KV does not
    get through.
    """
    decode = min(
        (view for view in decodes if _num_places(view, need)), key=lambda view: _decode_cost(view, need), default=None
    )
    if decode is not None:
        return place_prefill(need, decode, prefills, policy, hop_s, cut)
    return place_single(need, prefills, hop_s) if need.single_token else None


def place_prefill(
    need: Need,
    decode: WorkerView,
    prefills: Iterable[WorkerView],
    policy: Policy,
    hop_s: float,
    cut: Sequence[tuple[WorkerView, WorkerView]] = (),
) -> Placement | None:
    """Choose who computes the prompt for a decode worker that has room; None when nobody may now."""
    cached = _cached(decode, need)
    able = [view for view in prefills if _can_prefill(view, need)]
    if not need.single_token:
        able = [view for view in able if _gets_through(view, decode, cut)]
    usable = ((_prefill_s(view, _prefill_costs(view, decode), need), view) for view in able if not view.full)
    (queue_s, compute_s), prefill = min(usable, key=lambda pair: sum(pair[0]), default=((0.0, 0.0), None))
    if prefill is None:
        return None if able and policy.always_remote else Placement(decode, None, cached, _why_local(able))
    uncached = need.num_tokens - cached
    if uncached <= policy.local_prefill_tokens:
        return Placement(decode, None, cached, Why.SHORT)
    under_way_s = _under_way_s(decode, prefill)
    kv_s = 0.0 if need.single_token else under_way_s + _transfer_s(prefill, decode, need, cached)
    remote_s = queue_s + compute_s + hop_s + kv_s
    remote_loss_s = _crowding_s(decode, prefill, compute_s)
    local_s, local_loss_s = _local_s(decode, prefill, uncached, cached, policy.itl_tolerance)
    local_s += under_way_s
    measured = decode.costs is not None or prefill.costs is not None
    enough = WORTH_SHARING if decode.borrows_from(prefill) else ABOUT_EQUAL
    better = remote_s + remote_loss_s <= enough * (local_s + local_loss_s)
    remote = policy.always_remote or not measured or better
    why = Why.ALWAYS_REMOTE if policy.always_remote else Why.ESTIMATE if measured else Why.UNMEASURED
    estimates = local_s, remote_s, local_loss_s, remote_loss_s
    if not remote:
        return Placement(decode, None, cached, why, *estimates)
    if need.single_token:
        return Placement(prefill, prefill, _cached(prefill, need), why, *estimates)
    return Placement(decode, prefill, cached, why, *estimates)


def place_single(need: Need, prefills: Iterable[WorkerView], hop_s: float) -> Placement | None:
    """Choose who gives an answer of a single token without asking decode workers; None when nobody may now."""
    able = [view for view in prefills if _can_prefill(view, need) and not view.full]
    predicted = ((sum(_prefill_s(view, view.costs or UNMEASURED, need)), view) for view in able)
    prefill_s, prefill = min(predicted, key=lambda pair: pair[0], default=(0.0, None))
    if prefill is None:
        return None
    return Placement(prefill, prefill, _cached(prefill, need), Why.SINGLE_TOKEN, remote_s=prefill_s + hop_s)


def _why_local(able: Sequence[WorkerView]) -> Why:
    """Where nobody of those who are `able` has room, or nobody is."""
    return Why.FULL if able else Why.NO_PREFILL


def first_token_s(
    need: Need, decodes: Iterable[WorkerView], prefills: Iterable[WorkerView], tokens_before: int = 0
) -> float:
    """Predicted time to the first token of a request that a worker takes now: the shortest of any; 0 while unknown.

    `tokens_before` of prompts that nobody has yet are shared among the workers, and go first.
    """
    views = [view for view in (*decodes, *prefills) if _serves(view, need) and view.costs is not None]
    before = tokens_before // len(views) if views else 0
    return min((sum(_prefill_s(view, view.costs, need, before)) for view in views if view.costs), default=0.0)


def num_places(need: Need, decodes: Iterable[WorkerView]) -> int:
    """How many requests like this one could begin now."""
    return sum(_num_places(view, need) for view in decodes)


def can_ever_serve(need: Need, decodes: Iterable[WorkerView]) -> bool:
    """Whether some decode worker could hold the request if it were idle."""
    return any(_serves(view, need) and need.max_tokens <= view.max_context for view in decodes)


def _serves(view: WorkerView, need: Need) -> bool:
    return view.model == need.model and view.takes_requests


def _num_places(view: WorkerView, need: Need) -> int:
    """As the worker itself decides: who was preempted comes first, and who runs may need a block more."""
    if not _serves(view, need) or need.max_tokens > view.max_context or view.full or view.waiting:
        return 0
    legs = view.running + view.sent_legs
    blocks = -(-need.num_tokens // view.block_tokens)
    each_with_its_spare = (view.free_blocks - view.sent_blocks - legs + 1) // (blocks + 1)
    return max(min(view.max_sequences - legs, each_with_its_spare), 0)


def _decode_cost(view: WorkerView, need: Need) -> tuple[float, int]:
    """How full and busy the worker is, less the share of the prompt it holds already."""
    legs = view.running + view.sent_legs
    used = 1 - (view.free_blocks - view.sent_blocks) / view.num_blocks
    cached = view.cached_tokens(need.hashes) / need.num_tokens
    return max(used, legs / view.max_sequences) - cached, legs


def _can_prefill(view: WorkerView, need: Need) -> bool:
    return _serves(view, need) and need.num_tokens <= min(view.max_context, view.num_blocks * view.block_tokens)


def _gets_through(prefill: WorkerView, decode: WorkerView, cut: Sequence[tuple[WorkerView, WorkerView]]) -> bool:
    """Whether KV does, as far as is known."""
    return prefill.layout == decode.layout and not any(p is prefill and d is decode for p, d in cut)


def _cached(view: WorkerView, need: Need) -> int:
    """Tokens of the prompt that need not be computed there; the last one has to be."""
    return min(view.cached_tokens(need.hashes), need.num_tokens - 1)


def _prefill_s(view: WorkerView, costs: Costs, need: Need, tokens_before: int = 0) -> tuple[float, float]:
    """Waiting and computing on a worker that does nothing else."""
    cached = _cached(view, need)
    return _queue_s(view, costs, tokens_before), costs.prefill_s(need.num_tokens - cached, cached, view.max_step_tokens)


def _prefill_costs(view: WorkerView, decode: WorkerView) -> Costs:
    return view.costs_beside(decode, busy=decode.streams > 0) or UNMEASURED


def _decode_costs(view: WorkerView, prefill: WorkerView, *, busy: bool) -> Costs:
    """Beside a prefill worker that is busy or has no work; taken to be like its where nothing is known."""
    return view.costs_beside(prefill, busy=busy) or prefill.costs or UNMEASURED


def _queue_s(view: WorkerView, costs: Costs, tokens_before: int = 0) -> float:
    """Predicted wait before a prompt sent now is computed."""
    before = view.waiting_tokens + view.sent_tokens + view.coming_tokens + tokens_before
    return costs.prefill_s(before, 0, view.max_step_tokens)


def _under_way_s(decode: WorkerView, prefill: WorkerView) -> float:
    """What is left, on average, of the step that runs now: the worker takes nobody in before it ends."""
    costs = _decode_costs(decode, prefill, busy=prefill.streams > 0)
    return costs.decode_step_s(decode.streams, decode.context_tokens) / 2


def _crowding_s(decode: WorkerView, prefill: WorkerView, compute_s: float) -> float:
    """What those who stream lose, all together, while the prefill worker needs the CPUs that it lent."""
    if decode.costs is None or not decode.streams:
        return 0.0
    lent, alone = decode.costs, decode.costs_beside(prefill, busy=True) or decode.costs
    lent_s, alone_s = (costs.decode_step_s(decode.streams, decode.context_tokens) for costs in (lent, alone))
    return decode.streams * compute_s * (1 - lent_s / alone_s) if lent_s < alone_s else 0.0


def _local_s(
    decode: WorkerView, prefill: WorkerView, uncached: int, cached: int, itl_tolerance: float
) -> tuple[float, float]:
    """Waiting and computing on the decode worker; and what that takes from all who stream there."""
    streams, context = decode.streams, decode.context_tokens
    step_tokens = max(decode.max_step_tokens - streams, 1)
    num_steps, rest = divmod(decode.waiting_tokens + decode.sent_tokens, step_tokens)
    pace = _Pace.of(decode, prefill)
    total_s = pace.spend(StepWork(step_tokens, 0, streams, context), num_steps)
    for num_tokens, start in chunks(rest + uncached, 0, step_tokens):  # prompts share steps
        total_s += pace.spend(StepWork(num_tokens, cached + max(start - rest, 0), streams, context))
    pace = _Pace.of(decode, prefill)
    loss_s = 0.0
    for num_tokens, before in chunks(uncached, cached, step_tokens):
        quiet_s = pace.steps_s(StepWork(0, 0, streams, context))
        step_s = pace.spend(StepWork(num_tokens, before, streams, context))
        stall_s = max(step_s - itl_tolerance * quiet_s, 0.0)
        loss_s += streams * (step_s - quiet_s + STALL_WEIGHT * stall_s)
    return total_s, loss_s


@dataclass(slots=True)
class _Pace:
    """How fast decode's steps are from now on: on its own CPUs until the prefill worker lends it others again."""

    costs: Costs
    own_costs: Costs
    crowded_s: float
    """Until then."""

    @classmethod
    def of(cls, decode: WorkerView, prefill: WorkerView) -> "_Pace":
        lent, own = (_decode_costs(decode, prefill, busy=busy) for busy in (False, True))
        return cls(lent, own, _queue_s(prefill, _prefill_costs(prefill, decode)))

    def steps_s(self, work: StepWork, num_steps: int = 1) -> float:
        """So many steps, one after the other, from now."""
        own_s, lent_s = num_steps * self.own_costs.step_s(work), num_steps * self.costs.step_s(work)
        if own_s <= self.crowded_s:
            return own_s
        return self.crowded_s + lent_s * (1 - self.crowded_s / own_s) if own_s else 0.0

    def spend(self, work: StepWork, num_steps: int = 1) -> float:
        """The same, and let them pass."""
        seconds = self.steps_s(work, num_steps)
        self.crowded_s = max(self.crowded_s - seconds, 0.0)
        return seconds


def _transfer_s(prefill: WorkerView, decode: WorkerView, need: Need, cached: int) -> float:
    """What moving the KV that decode lacks delays token two by: blocks move while the next chunk is computed."""
    if not prefill.transfer_bytes_per_s:
        return 0.0
    per_token_s = decode.block_bytes / decode.block_tokens / prefill.transfer_bytes_per_s
    missing = need.num_tokens - cached
    last = min(missing, prefill.max_step_tokens)
    costs, step_tokens = _prefill_costs(prefill, decode), prefill.max_step_tokens
    last_s = costs.prefill_s(last, need.num_tokens - last, step_tokens)
    hidden_s = costs.prefill_s(missing, cached, step_tokens) - last_s
    return max(missing * per_token_s - hidden_s, last * per_token_s)
