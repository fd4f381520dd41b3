"""What workers count, over all their starts: each begins at zero, and what is watched must not go back."""

from dataclasses import dataclass, field

from protos import worker_pb2 as pb


@dataclass(frozen=True, slots=True)
class Counts:
    """What one or several workers have counted."""

    preemptions: int = 0
    """Sequences that gave up their KV blocks and were computed again later."""
    fenced_writes: int = 0
    """Writes of KV that were dropped because their fence was stale."""

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.preemptions + other.preemptions, self.fenced_writes + other.fenced_writes)


@dataclass(slots=True)
class Tally:
    """Of whoever was started at one address."""

    incarnation: str = ""
    """The latest that said anything."""
    _latest: Counts = field(default_factory=Counts)
    """What it said last."""
    _ended: Counts = field(default_factory=Counts)
    """Of those before it."""

    def take(self, incarnation: str, load: pb.Load) -> None:
        """Note what this start of the worker has counted by now."""
        if incarnation != self.incarnation:
            self.incarnation, self._ended = incarnation, self.total
        self._latest = Counts(load.preemptions, load.fenced_writes)

    @property
    def total(self) -> Counts:
        return self._ended + self._latest
