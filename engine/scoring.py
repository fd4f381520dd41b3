"""How likely a prompt's own tokens are, each given those before it. The first follows nothing: nothing is said of it.

Frontends import this too: arrays are named here, and not made.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class PromptScores:
    """Of some tokens of a prompt that follow each other."""

    first: int
    """Position of the first of them in the prompt, at least 1."""
    logprobs: "np.ndarray"
    """[n] float32, natural logarithms"""
    ranks: "np.ndarray"
    """[n] int32, 1 where no token is likelier"""
    top_ids: "np.ndarray"
    """[n, k] int32, the likeliest tokens in each place, likeliest first"""
    top_logprobs: "np.ndarray"
    """[n, k] float32"""

    def part(self, first: int, begin: int, end: int, num_top: int) -> "PromptScores":
        """Rows `begin` to `end`, with so many of the likeliest tokens, as those of positions from `first` on."""
        rows = slice(begin, end)
        top_ids, top_logprobs = self.top_ids[rows, :num_top], self.top_logprobs[rows, :num_top]
        return PromptScores(first, self.logprobs[rows], self.ranks[rows], top_ids, top_logprobs)


@dataclass(slots=True)
class Scoring:
    """What is wanted of one prompt, and what of it was computed and not told yet.

    It is told chunk by chunk, so that a long prompt's is never held at once.
    """

    num_top: int
    """Of the likeliest tokens in each place."""
    _made: list[PromptScores] = field(default_factory=list)

    def take(self, scores: PromptScores) -> None:
        self._made.append(scores)

    def drain(self) -> list[PromptScores]:
        """What was computed since the last call."""
        made, self._made = self._made, []
        return made
