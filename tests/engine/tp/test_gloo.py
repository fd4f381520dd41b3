"""What ranks add up and gather, as threads of this process."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist

from engine.tp.gloo import GlooRanks, meeting_place, store_in
from engine.tp.split import share

LIMIT_S = 30.0


class Group:
    """Some ranks, each on a thread."""

    def __init__(self, size: int, store: dist.Store) -> None:
        self.ranks = [GlooRanks(rank, size) for rank in range(size)]
        self._threads = ThreadPoolExecutor(size)
        for ranks in self.ranks:
            ranks.limit_s = LIMIT_S
        self.each(lambda ranks: ranks.join(store))

    def each(self, call: Callable[[GlooRanks], object]) -> list[object]:
        """What it gives on each rank."""
        return list(self._threads.map(call, self.ranks))

    def close(self) -> None:
        self._threads.shutdown()


@pytest.fixture(params=[2, 3, 4])
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    made = Group(request.param, dist.HashStore())
    yield made
    made.close()


@pytest.mark.parametrize("num_rows", [1, 7, 300])
def test_sums_are_made_in_the_order_of_ranks_on_every_one(group: Group, num_rows: int) -> None:
    size = len(group.ranks)
    partials = torch.randn(size, num_rows, 33, generator=torch.Generator().manual_seed(num_rows))
    expected = partials[0].clone()
    for partial in partials[1:]:
        expected += partial

    def summed(ranks: GlooRanks) -> torch.Tensor:
        with torch.inference_mode():
            return ranks.sum(partials[ranks.rank].clone())

    for total in group.each(summed):
        assert torch.equal(total, expected), "to the last bit, however many rows there are"


@pytest.mark.parametrize("num_columns", [8, 97, 105])
def test_columns_are_gathered_on_rank_0(group: Group, num_columns: int) -> None:
    whole = torch.arange(5.0 * num_columns).view(5, num_columns)

    def gathered(ranks: GlooRanks) -> torch.Tensor:
        with torch.inference_mode():
            part = share(num_columns, ranks.rank, ranks.size)
            empty = ranks.gather(whole[:0, part], num_columns)
            assert empty.shape == (0, num_columns)
            return ranks.gather(whole[:, part].contiguous(), num_columns)

    first, *_ = group.each(gathered)
    assert torch.equal(first, whole)


def test_a_sum_of_nothing_waits_for_everybody(group: Group) -> None:
    begun, arrived = threading.Event(), []

    def meet(ranks: GlooRanks) -> None:
        if ranks.rank:
            assert begun.wait(LIMIT_S)
            arrived.append(ranks.rank)
            ranks.sum(torch.empty(0, 33))
        else:
            begun.set()
            ranks.sum(torch.empty(0, 33))
            assert sorted(arrived) == list(range(1, ranks.size))

    group.each(meet)


def test_ranks_meet_in_memory_without_a_name() -> None:
    place = meeting_place()  # stays open: torch looks there again when it forgets the store
    group = Group(2, store_in(place, 2))
    totals = group.each(lambda ranks: ranks.sum(torch.ones(1)).item())
    assert totals == [2.0, 2.0]
    group.close()


def test_rank_0s_numbers_are_spread_and_the_least_is_found(group: Group) -> None:
    numbers = [torch.full((3,), 5 + ranks.rank, dtype=torch.int32) for ranks in group.ranks]

    group.each(lambda ranks: ranks.spread(numbers[ranks.rank]))

    assert [each.tolist() for each in numbers] == [[5, 5, 5]] * len(numbers)
    assert group.each(lambda ranks: ranks.least(9 - ranks.rank)) == [10 - len(numbers)] * len(numbers)
