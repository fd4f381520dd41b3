"""At which moments a worker is killed, in the order in which a request comes to them. Plain values: workers load this.

The moments themselves are in `bench.kills.traps`, under the same names.
"""

from dataclasses import dataclass
from enum import Enum


class Way(Enum):
    """Where prompts must be computed for a moment to come."""

    ANY = "any"
    REMOTE = "remote"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Phase:
    """One kind of moment."""

    role: str
    name: str
    last: int = 1
    """The worker is killed when it comes there for the n-th time, n from 1 to this."""
    way: Way = Way.REMOTE

    @property
    def by_abort(self) -> bool:
        """It comes when a client hangs up."""
        return self.name in ("Abort came", "given up, not told", "Released sent")

    @property
    def drains(self) -> bool:
        """The worker is told to stop first."""
        return self.name.startswith("drain")


DECODE = (
    Phase("decode", "Admit came", 3, Way.ANY),
    Phase("decode", "room reserved, not granted"),
    Phase("decode", "Granted not sent", 1, Way.ANY),
    Phase("decode", "Granted sent", 1, Way.ANY),
    Phase("decode", "KV frame came", 6),
    Phase("decode", "KV copied, not counted", 6),
    Phase("decode", "KV taken, no Ack", 6),
    Phase("decode", "COMMIT came"),
    Phase("decode", "COMMIT taken, no Ack"),
    Phase("decode", "COMMIT's Ack sent, not in the batch"),
    Phase("decode", "joined the batch"),
    Phase("decode", "prompt computed here, not told", 1, Way.LOCAL),
    Phase("decode", "amid a step", 40, Way.ANY),
    Phase("decode", "tokens not sent", 40, Way.ANY),
    Phase("decode", "tokens sent", 40, Way.ANY),
    Phase("decode", "last token not sent", 2, Way.ANY),
    Phase("decode", "last token sent", 2, Way.ANY),
    Phase("decode", "Abort came", 1, Way.ANY),
    Phase("decode", "given up, not told", 1, Way.ANY),
    Phase("decode", "Released sent", 1, Way.ANY),
    Phase("decode", "drain begins", 1, Way.ANY),
    Phase("decode", "draining, KV frame came"),
    Phase("decode", "draining, tokens not sent", 20, Way.ANY),
    Phase("decode", "draining, tokens sent", 20, Way.ANY),
    Phase("decode", "drained", 1, Way.ANY),
)
PREFILL = (
    Phase("prefill", "Admit came", 3),
    Phase("prefill", "queued, not granted"),
    Phase("prefill", "Granted sent"),
    Phase("prefill", "chunk planned", 5),
    Phase("prefill", "chunk computed", 5),
    Phase("prefill", "chunk sent, no Ack", 4),
    Phase("prefill", "chunk's Ack came, not taken", 4),
    Phase("prefill", "token 1 not sent"),
    Phase("prefill", "token 1 sent, no COMMIT"),
    Phase("prefill", "COMMIT sent, no Ack"),
    Phase("prefill", "COMMIT's Ack came, not taken"),
    Phase("prefill", "blocks let go, not told"),
    Phase("prefill", "Abort came"),
    Phase("prefill", "Released sent"),
    Phase("prefill", "drain begins"),
    Phase("prefill", "draining, chunk computed", 3),
    Phase("prefill", "draining, COMMIT sent, no Ack"),
    Phase("prefill", "drained"),
)
PHASES = (*DECODE, *PREFILL)
