"""What is said to the decode worker, and what it says: the messages between its streams and its step."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from decode.scheduler import Prefilled, Token
from engine.blocks import CacheChanges
from engine.custody import Inspect
from engine.histogram import Steps
from engine.scoring import PromptScores
from engine.sequence import Sequence as Answer
from engine.sequence import SequenceId, TokenLogprobs
from kvtransfer.transport import Arrived, Ticket


@dataclass(frozen=True, slots=True)
class Reserve:
    """Promise room for KV that a prefill worker will send; `attempt` goes into the ticket's fence."""

    sequence: Answer
    attempt: int


@dataclass(frozen=True, slots=True)
class PrefillHere:
    sequence: Answer


@dataclass(frozen=True, slots=True)
class Regrant:
    """Have the room of a reserved sequence filled another way: under a later `attempt`, or here if it is `local`.

    `heard` is the answer's next token, if its client has it.
    """

    id: SequenceId
    attempt: int
    local: bool
    heard: int | None = None


@dataclass(frozen=True, slots=True)
class GiveUp:
    id: SequenceId


Command = Reserve | PrefillHere | Arrived | Regrant | GiveUp | Inspect


@dataclass(frozen=True, slots=True)
class Granted:
    id: SequenceId
    ticket: Ticket | None
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Refused:
    id: SequenceId
    too_large: bool
    message: str


@dataclass(frozen=True, slots=True)
class Joined:
    """The KV of a reserved sequence has arrived and it runs from this step on."""

    id: SequenceId
    arrived: Arrived


@dataclass(frozen=True, slots=True)
class PromptDone:
    """A prompt was computed here. Times are `time.monotonic_ns()`."""

    prefilled: Prefilled
    queued_ns: int
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Freed:
    """Nothing is held any more for a sequence that was given up."""

    id: SequenceId


@dataclass(frozen=True, slots=True)
class DeadEnd:
    """Nothing may follow in the answer, and it is not complete: it was given up."""

    id: SequenceId
    message: str


@dataclass(frozen=True, slots=True)
class Scored:
    """How likely some tokens of a prompt are that is computed here, for who asked; all come before its first token."""

    id: SequenceId
    scores: PromptScores


@dataclass(frozen=True, slots=True)
class Stepped:
    """One step's tokens, with the log-probabilities of the rows that asked. Times are `time.monotonic_ns()`."""

    tokens: list[Token]
    logprobs: dict[SequenceId, TokenLogprobs]
    start_ns: int
    end_ns: int
    vectors: Mapping[SequenceId, bytes] = field(default_factory=dict)
    """Prompts as vectors, of those whose first token came and who asked."""


Event = Granted | Refused | Joined | PromptDone | DeadEnd | Freed | Scored | Stepped | CacheChanges


@dataclass(frozen=True, slots=True)
class Load:
    """What the worker is busy with, after its latest step."""

    free_blocks: int
    cached_blocks: int
    leaked_blocks: int
    promised_blocks: int
    running: int
    waiting: int
    waiting_tokens: int
    prefill_tokens_per_s: float
    step_s: float
    slowdown: float
    """Of steps against the worker's profile; 0 while unknown."""
    preemptions: int
    steps: Steps
