"""What is asked: requests whose answers do not depend on chance, and clients of different patience. Pure."""

import random
from dataclasses import dataclass
from enum import StrEnum

LONG_TOKENS = 600
"""Of a long prompt, where the model's context is large enough."""
SHORTEST_CONTEXT = 64
SENTENCE = (
    "once there was a little light that everybody in the town had seen from the bridge before it went to the river and "
    "told the old keeper how many blocks of memory a patient reader needs until the last word is written"
)
WORDS = tuple(SENTENCE.split(" "))
QUESTIONS = (
    "What is a KV cache?",
    "What is prefill?",
    "What happens to a request in Tandem?",
    "Explain paged attention.",
    "How can I reduce TTFT?",
    "Tell me a story about a light.",
)
STOPS = ((" the", "\n\n"), (". ",), ("e", "zzz"), ("cache",))


class Kind(StrEnum):
    """What a request exercises."""

    GREEDY = "greedy"
    LONG = "long prompt"
    SEEDED = "seeded"
    STOP = "stop strings"
    LOGPROBS = "logprobs"
    PENALTIES = "penalties"


class Dialect(StrEnum):
    COMPLETIONS = "completions"
    CHAT = "chat"
    GRPC = "grpc"


@dataclass(frozen=True, slots=True)
class Served:
    """The model that is asked, as ListModels tells it."""

    name: str
    max_context: int
    vocab: int
    has_chat: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request. The same ask has the same answer, whoever computes it."""

    number: int
    kind: Kind
    dialect: Dialect
    stream: bool
    prompt: str | tuple[int, ...]
    fields: dict[str, object]
    """Sampling, stopping and output, as /v1/completions calls them."""


@dataclass(frozen=True, slots=True)
class Behavior:
    """How long a client listens; None is to the end."""

    max_pieces: int | None = None
    """It hangs up after so many pieces of the answer."""
    hang_up_s: float | None = None
    """It hangs up after so many seconds, whatever came."""
    deadline_s: float | None = None
    """It told the server so."""


PATIENT = Behavior()


def make_asks(seed: int, count: int, served: Served) -> tuple[Ask, ...]:
    """`count` different asks, of all kinds; the same for the same arguments."""
    rng = random.Random(f"asks {seed}")
    kinds = [kind for kind in Kind for _ in range(3 if kind is Kind.LONG else 1)]
    return tuple(_ask(rng, number, kinds[number % len(kinds)], served) for number in range(count))


def choose_behavior(rng: random.Random, ask: Ask) -> Behavior:
    """Three of five listen to the end."""
    match rng.randrange(5):
        case 0 if ask.stream:
            return Behavior(max_pieces=rng.randrange(1, 60))
        case 0 | 1 if ask.dialect is Dialect.GRPC:
            return Behavior(deadline_s=rng.uniform(0.02, 1.5))
        case 0 | 1:
            return Behavior(hang_up_s=rng.uniform(0.0, 1.0))
        case _:
            return PATIENT


def _ask(rng: random.Random, number: int, kind: Kind, served: Served) -> Ask:
    dialect = rng.choice([dialect for dialect in Dialect if dialect is not Dialect.CHAT or served.has_chat])
    room = served.max_context
    fields: dict[str, object] = {"max_tokens": min(rng.randrange(24, 200), room // 4), "temperature": 0.0}
    if rng.random() < 0.7:
        fields["ignore_eos"] = True
    fields |= _fields_of(rng, kind)
    return Ask(
        number=number,
        kind=kind,
        dialect=dialect,
        stream=dialect is Dialect.GRPC or rng.random() < 0.8,
        prompt=_prompt(rng, kind, dialect, served),
        fields=fields,
    )


def _fields_of(rng: random.Random, kind: Kind) -> dict[str, object]:
    sampled: dict[str, object] = {"temperature": rng.choice([0.7, 1.0]), "top_p": 0.95, "seed": rng.randrange(1 << 30)}
    match kind:
        case Kind.SEEDED:
            return sampled
        case Kind.STOP:
            return {"stop": list(rng.choice(STOPS)), **(sampled if rng.random() < 0.5 else {})}
        case Kind.LOGPROBS:
            return {"logprobs": rng.randrange(1, 6), **(sampled if rng.random() < 0.5 else {})}
        case Kind.PENALTIES:
            penalties = {"presence_penalty": 0.5, "frequency_penalty": 0.3, "repetition_penalty": 1.1}
            return {**penalties, **(sampled if rng.random() < 0.5 else {})}
        case _:
            return {}


def _prompt(rng: random.Random, kind: Kind, dialect: Dialect, served: Served) -> str | tuple[int, ...]:
    if kind is Kind.LONG:
        length = min(rng.randrange(LONG_TOKENS // 3, LONG_TOKENS), served.max_context // 2)
        if dialect is Dialect.CHAT:
            # A word is seldom more than three tokens, and whole words are what a chat is made of.
            return " ".join(rng.choices(WORDS, k=max(4, length // 3)))
        return tuple(rng.randrange(3, served.vocab) for _ in range(length))
    if dialect is Dialect.CHAT:
        return rng.choice(QUESTIONS)
    return " ".join(rng.choices(WORDS, k=rng.randrange(2, 12)))
