"""What a sampler gives, whatever device it samples on."""

from collections.abc import Iterable
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

from engine.sequence import Sequence, TokenLogprobs


@dataclass(frozen=True, slots=True)
class Sampled:
    """The outcome of one step, a column each; row r belongs to the r-th sequence."""

    token_ids: list[int]
    logprobs: tuple[TokenLogprobs | None, ...] | None
    """None for rows that did not ask; None altogether when no row did"""
    dead_ends: dict[int, str] = field(default_factory=dict)
    """Rows in which no token could be drawn, and why; what the other columns say of them means nothing"""

    def drawn(self, sequences: Rows[Sequence]) -> Iterable[tuple[Sequence, int]]:
        """The sequences that have a token, each with it."""
        pairs = zip(sequences, self.token_ids, strict=True)
        if not self.dead_ends:
            return pairs
        return [pair for row, pair in enumerate(pairs) if row not in self.dead_ends]
