"""What ranks with a pool each copy for rank 0, in the same process and over a socket."""

import socket
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from engine.tp.channel import Channel
from engine.tp.copies import STAGING_BYTES, Copies, TeamCopies, serve_copies, staging_of
from engine.tp.ranks import RankFailed

RUNS = [np.array([[3, 10, 5], [40, 15, 60]]), np.array([[0, 0, 1]])]
"""Of rank 0 and of rank 1: first byte in the pool, first in the memory, how many."""


class Team:
    """Two ranks; the other one serves what comes once it is told to."""

    def __init__(self) -> None:
        self.memory = memoryview(bytearray(2 * STAGING_BYTES))
        self.pools = [torch.arange(100, dtype=torch.uint8) + 100 * rank for rank in range(2)]
        ours, self._theirs = (Channel(end) for end in socket.socketpair())
        self.channel = ours
        own = Copies(self.pools[0], staging_of(self.memory, 0))
        self.copies = TeamCopies(own, [ours], self.memory)

    def serve(self) -> None:
        other = Copies(self.pools[1], staging_of(self.memory, 1))
        threading.Thread(target=serve_copies, args=(self._theirs, other), daemon=True).start()

    def end(self) -> None:
        self._theirs.close()


@pytest.fixture
def team() -> Iterator[Team]:
    team = Team()
    yield team
    team.channel.close()


def test_each_rank_copies_its_runs_out(team: Team) -> None:
    team.serve()
    team.copies(RUNS, is_out=True)

    first, second = team.copies.staging
    assert first[10:75].tolist() == [*range(3, 8), *range(40, 100)]
    assert (second[0], second[1]) == (100, 0)
    assert not first[:10].any()
    assert not first[75:].any()


def test_each_rank_copies_its_runs_in(team: Team) -> None:
    team.serve()
    for memory in team.copies.staging:
        memory[:80] = 77
    team.copies(RUNS, is_out=False)

    changed = [(pool == 77).nonzero()[:, 0].tolist() for pool in team.pools]
    assert changed == [[*range(3, 8), *range(40, 100)], [0]]


def test_a_rank_that_ends_is_found_out(team: Team) -> None:
    team.end()
    with pytest.raises(RankFailed):
        team.copies(RUNS, is_out=True)


def test_a_rank_that_hangs_is_waited_for_once(team: Team) -> None:
    team.channel.limit(0.05)
    for _ in range(2):
        with pytest.raises(RankFailed, match="a rank does not answer"):
            team.copies(RUNS, is_out=True)
