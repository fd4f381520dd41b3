"""A request on its way, over all its attempts."""

import asyncio
import math
import time
from dataclasses import dataclass, field

from engine.hashes import block_hashes
from engine.pooling import Pooling
from engine.sequence import BlockHash, SamplingParams
from engine.wire import pooling_to, sampling_to
from frontend.callers import Caller, salted
from frontend.forecast import Demand, Forecast
from frontend.ledger import Ledger
from frontend.leg_events import Start
from frontend.router import Need, Placement
from frontend.scores import PromptScores
from protos import worker_pb2 as pb


@dataclass(slots=True)
class Job:
    """What was asked, complete; what came of it so far; and where its time went."""

    request_id: str
    model: str
    tokens: list[int]
    """Prompt and output so far."""
    num_prompt: int
    params: SamplingParams
    caller: Caller
    hashes: list[BlockHash]
    """Of the prompt's full blocks, as the model's first worker cuts them."""
    traceparent: str
    ledger: Ledger
    block_tokens: int = 16
    """Of a block that `hashes` are of."""
    deadline: float = math.inf
    """On the event loop's clock; nobody wants the answer after it."""
    cached_tokens: int = 0
    attempt: int = 0
    failures: int = 0
    """Attempts in a row that brought no token."""
    lost_with: list[Start] = field(default_factory=list)
    """Workers that were lost with it in a row."""
    tried_alone: bool = False
    """Whether the latest attempt was the only one of a suspect."""
    placement: Placement | None = None
    placed_ns: int = 0
    """When that was decided."""
    forecast: Forecast | None = None
    """When it came, if anything depended on that."""
    grammar: str = ""
    """What the answer must match, as workers read it; empty: any text will do."""
    pooling: Pooling | None = None
    """None: the prompt is not wanted as a vector."""
    cache_salt: str | None = None
    prompt_logprobs: int | None = None
    """None: how likely the prompt is, nobody wants to know; else with so many tokens in each place."""
    scores: PromptScores | None = None
    """What is known of that."""

    @property
    def hash_root(self) -> BlockHash:
        """Parent of the first of `hashes`; empty keeps it out of the prefix cache."""
        # Of a block that is cached nobody computes hidden states.
        if self.pooling is Pooling.MEAN or self.prompt_logprobs is not None:
            return BlockHash(b"")
        root = self.caller.hash_root
        return root if self.cache_salt is None else salted(root, self.cache_salt)

    @property
    def single_token(self) -> bool:
        """Whether the answer is its first token."""
        return self.params.max_tokens == 1

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    def place(self, placement: Placement) -> Placement:
        """The router has decided."""
        self.placement, self.placed_ns = placement, time.monotonic_ns()
        return placement

    def left_s(self) -> float:
        """Until the deadline."""
        return self.deadline - asyncio.get_running_loop().time() if self.deadline < math.inf else math.inf

    def demand(self) -> Demand:
        return Demand(len(self.tokens), self.params.max_tokens)

    def first_token_due_s(self) -> float:
        """Until the first token, as the router predicted it; 0 once it is there, or where nothing was predicted."""
        predicted_s = self.placement.first_token_s if self.placement is not None and not self.num_output else None
        if not predicted_s:
            return 0.0
        now_ns = time.monotonic_ns()
        return max(predicted_s - (now_ns - (self.ledger.granted_ns or now_ns)) / 1e9, 0.0)

    def streamed_s(self) -> float:
        """Since the first token."""
        return (time.monotonic_ns() - self.ledger.first_token_ns) / 1e9

    def note_granted(self, granted: pb.Granted) -> None:
        """A decode worker has promised room to this attempt."""
        if not self.num_output:
            self.cached_tokens = granted.cached_tokens
            self.ledger.granted()
        if not self.ledger.second_token_ns:
            self.ledger.commit_ns = 0  # of an earlier attempt

    def need(self) -> Need:
        longest = self.num_prompt + self.params.max_tokens
        return Need(self.model, len(self.tokens), longest, tuple(self.hashes), self.single_token)

    def admit(self, block_tokens: int, num_tokens: int | None = None) -> pb.Admit:
        """For a leg that takes up all tokens so far, or only so many, on a worker with blocks of so many."""
        hashes = self.hashes
        if block_tokens != self.block_tokens and self.hash_root:  # workers change while requests wait
            hashes = block_hashes(self.tokens[: self.num_prompt], block_tokens, self.hash_root)
        return pb.Admit(
            request_id=self.request_id,
            attempt=self.attempt,
            token_ids=self.tokens[:num_tokens],
            num_prompt=self.num_prompt,
            block_hashes=b"".join(hashes),
            hash_root=self.hash_root,
            sampling=sampling_to(self.params),
            traceparent=self.traceparent,
            grammar=self.grammar,
            pooling=pooling_to(self.pooling),
            prompt_logprobs=None if self.num_output else self.prompt_logprobs,
        )
