"""What a client asked of the sampler, and one request's running state on a worker. Standard library only.

Knows tokens, blocks held and positions computed. Does not know pools, tensors, schedulers or sockets.
"""

from array import array
from collections import Counter
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NewType, Protocol

from engine.pooling import Pooled
from engine.scoring import Scoring

SequenceId = NewType("SequenceId", str)
"""Names one request's state on one worker; unique over the worker's life."""

BlockHash = NewType("BlockHash", bytes)
"""Chained hash of a full block: it names every token from the start of the prompt to the block's end."""


class FinishReason(Enum):
    """Why a sequence ended on a worker. Stop strings are the frontend's affair and end in an abort."""

    STOP = auto()
    """A token of `SamplingParams.stop_token_ids` was sampled; it is the last output token."""
    LENGTH = auto()
    """`max_tokens` were sampled."""
    COMPLETE = auto()
    """Its constraint allows nothing more; the last token is part of the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are drawn from logits, complete: every default was applied by the frontend."""

    max_tokens: int
    """Output tokens at most, at least 1."""
    seed: int
    """Key of the counter-based generator, 0 <= seed < 2**64."""
    min_tokens: int = 0
    """`stop_token_ids` cannot be sampled before this many output tokens exist."""
    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    """Ids that end the answer; end-of-text ids are among them unless the client ignores them."""
    num_logprobs: int | None = None
    """Report the sampled token's log-probability and this many of the most likely ones; None reports nothing."""

    @property
    def has_penalties(self) -> bool:
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """How likely one sampled token was (natural logarithm, of the raw logits), and the most likely ones beside it."""

    logprob: float
    top_ids: tuple[int, ...]
    top_logprobs: tuple[float, ...]
    """Largest first, as long as `SamplingParams.num_logprobs` asks."""


class Constraint(Protocol):
    """What an answer may say: where it stands after the output tokens so far."""

    def take(self, token: int) -> bool:
        """Take in the next token of the answer; say whether nothing may follow it."""


@dataclass(slots=True, eq=False)
class Sequence:
    """The running state of one request on one worker.

    `tokens` is prompt plus output. `num_prompt` is where the output begins: a request that is continued on another
    worker arrives with output tokens already in it. `num_computed` counts the leading positions whose keys and values
    lie in `blocks`; the token at position `num_computed` is the next to be computed.
    """

    id: SequenceId
    tokens: "array[int]"
    num_prompt: int
    params: SamplingParams
    hashes: list[BlockHash] = field(default_factory=list)
    """Chained hashes of the full blocks of `tokens` as far as they are known."""
    hash_root: BlockHash | None = None
    """Parent of the first block's hash; None keeps the sequence out of the prefix cache."""
    blocks: "array[int]" = field(default_factory=lambda: array("i"))
    num_computed: int = 0
    output_counts: Counter[int] = field(default_factory=Counter)
    """How often each output token was sampled; kept only when `params.has_penalties`."""
    constraint: Constraint | None = None
    """None: the answer may say anything. It has taken in every output token of `tokens`."""
    pooled: Pooled | None = None
    """None: nobody wants the prompt as a vector. It is complete when the first token is sampled."""
    scoring: Scoring | None = None
    """None: nobody wants to know how likely the prompt is. It is complete when the first token is sampled."""

    @classmethod
    def of(
        cls,
        id: SequenceId,  # noqa: A002 - the field's own name
        tokens: Tokens[int],
        params: SamplingParams,
        num_prompt: int | None = None,
    ) -> "Sequence":
        num_prompt = len(tokens) if num_prompt is None else num_prompt
        sequence = cls(id, array("i", tokens), num_prompt, params)
        if params.has_penalties:
            sequence.output_counts.update(tokens[num_prompt:])
        return sequence

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def looks_back(self) -> bool:
        """Whether the host must know which tokens the answer has so far, for the next one to be drawn: where a grammar
        stands is found out here. Penalties are no reason, for whoever draws ahead of the host counts tokens itself."""
        return self.constraint is not None

    @property
    def num_uncomputed(self) -> int:
        return len(self.tokens) - self.num_computed

    def append(self, token: int) -> FinishReason | None:
        """Add a sampled token; say whether it ends the answer."""
        self.tokens.append(token)
        if self.params.has_penalties:
            self.output_counts[token] += 1
        complete = self.constraint is not None and self.constraint.take(token)
        if token in self.params.stop_token_ids and self.num_output > self.params.min_tokens:
            return FinishReason.STOP
        if complete:
            return FinishReason.COMPLETE
        if self.num_output >= self.params.max_tokens:
            return FinishReason.LENGTH
        return None
