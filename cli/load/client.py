"""What a client of a server promises, and what it learns of the model."""

from dataclasses import dataclass, field
from typing import Protocol

from cli.load.config import DEFAULT_VOCAB
from cli.load.measure import Reply
from cli.load.prompts import Job
from engine.errors import ConfigError


class RequestFailed(Exception):
    """The server or the way to it ended a request; the message is `KIND: DETAILS`."""


@dataclass(slots=True)
class Tape:
    """What arrived of one answer, each piece with its time.perf_counter()."""

    pieces: list[tuple[float, bytes]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ServedModel:
    name: str
    vocab: int | None = None
    max_context: int | None = None


class Client(Protocol):
    async def served_model(self) -> ServedModel:
        """The model that is asked from now on. Raises ConfigError."""

    async def send(self, job: Job, tape: Tape) -> None:
        """Fill the tape until the answer's end; raise RequestFailed if there is none."""

    def read(self, tape: Tape) -> Reply:
        """Make sense of a tape, whole or not."""

    def explain(self, tape: Tape) -> str:
        """What a server said with a refusal, as far as the tape knows."""

    async def aclose(self) -> None: ...


def vocabulary(asked: int | None, model: ServedModel) -> tuple[int, str]:
    """How many token ids prompts draw from, and a note on why."""
    if asked is not None:
        if model.vocab is not None and asked > model.vocab:
            raise ConfigError(f"the model's vocabulary is {model.vocab}", field="--vocab")
        return asked, f"token ids below {asked} (--vocab)"
    if model.vocab is not None:
        return model.vocab, f"token ids below {model.vocab} (told by the server)"
    return DEFAULT_VOCAB, f"token ids below {DEFAULT_VOCAB} (assumed: the server does not tell; see --vocab)"
