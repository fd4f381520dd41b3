"""The ranks that compute one model together, as a decoder sees them."""

from typing import Protocol

import torch


class RankFailed(Exception):
    """A rank of this worker has ended, or does not answer: none of its steps can be computed any more."""


class Ranks(Protocol):
    """All ranks of a worker, seen from one of them; rank 0 leads.

    Every rank makes the same calls in the same order.
    """

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def sum(self, partial: torch.Tensor) -> torch.Tensor:
        """`partial` summed over all ranks, in its own memory. Returns after every rank has come here, even where there
        is nothing to sum: what they wrote into the pool before can then be read. Raises RankFailed."""
        ...

    def gather(self, part: torch.Tensor, num_columns: int) -> torch.Tensor:
        """On rank 0 the columns of all ranks, `[R, num_columns]`, each rank's as many as `share` gives it; elsewhere
        nothing that is of use. Raises RankFailed."""
        ...


class DeviceRanks(Ranks, Protocol):
    """Ranks of which each has a device of its own, and there the pool of its own heads.

    What a call does is work of the device's stream, and so in order with what comes before and behind it.
    """

    def spread(self, numbers: torch.Tensor) -> None:
        """Those of rank 0 to all, in their own memory. Raises RankFailed."""
        ...

    def least(self, number: int) -> int:
        """The smallest number that any rank gives, for all of them; waits for all. Raises RankFailed."""
        ...


class Alone:
    """A rank without others: the whole model is here."""

    rank = 0
    size = 1

    def sum(self, partial: torch.Tensor) -> torch.Tensor:
        return partial

    def gather(self, part: torch.Tensor, num_columns: int) -> torch.Tensor:
        return part

    def spread(self, numbers: torch.Tensor) -> None:
        pass

    def least(self, number: int) -> int:
        return number


ALONE = Alone()
