"""Copies that are summed up: the bytes, and what the sums tell apart."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernels.gpu.copy_summed import copy_summed, copy_summed_reference

NUM_WORDS = 9000
"""More than two turns of the kernel's loop."""


def random_words(count: int = NUM_WORDS) -> torch.Tensor:
    return torch.randint(-(2**63), 2**63 - 1, (count,))


def sums_of(source: torch.Tensor, *runs: tuple[int, int, int], target: torch.Tensor | None = None) -> torch.Tensor:
    """Of runs of words: where each begins, where it goes, and how long it is."""
    sums = torch.zeros(len(runs), dtype=torch.int64)
    begins, starts, sizes = torch.tensor(runs, dtype=torch.int64).reshape(-1, 3).t().contiguous()
    copy_summed(source, begins, torch.empty_like(source) if target is None else target, starts, sizes, sums)
    return sums


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 3000) | st.sampled_from([1, 4095, 4096, 4097]), max_size=2),
    begin=st.integers(0, 700),
    start=st.integers(0, 700),
)
def test_words_and_sums_are_those_of_the_twin(sizes: list[int], begin: int, start: int) -> None:
    source, target = random_words(), random_words()
    runs = [(begin + sum(sizes[:i]), start + sum(sizes[:i]), size) for i, size in enumerate(sizes)]
    twin, expected = target.clone(), torch.zeros(len(runs), dtype=torch.int64)
    columns = torch.tensor(runs, dtype=torch.int64).reshape(-1, 3).t().contiguous()
    copy_summed_reference(source, columns[0], twin, columns[1], columns[2], expected)

    found = sums_of(source, *runs, target=target)

    assert torch.equal(target, twin)
    assert found.tolist() == expected.tolist()


def test_a_sum_is_that_of_the_words_and_their_order_wherever_they_lie() -> None:
    words = random_words(100)
    source = torch.cat([words, words])

    (first, second, shorter, later) = sums_of(source, (0, 50, 100), (100, 0, 100), (0, 0, 99), (1, 0, 99)).tolist()

    assert first == second
    assert len({first, shorter, later}) == 3


def test_no_change_of_a_few_bits_and_no_exchange_is_overlooked() -> None:
    words = random_words(64)
    altered = [words.clone() for _ in range(64 + 64 + 63)]
    for bit in range(64):
        altered[bit][17] ^= 1 << bit if bit < 63 else -(2**63)
        for place in (3, 40):  # the highest bits, which a plain sum would lose
            altered[64 + bit][place] ^= -(2**63) >> (bit % 4)
        altered[64 + bit][bit] ^= 1
    for i in range(63):
        altered[128 + i][[i, i + 1]] = words[[i + 1, i]]
    everything = torch.cat([words, *altered])

    sums = sums_of(everything, *((64 * i, 64 * i, 64) for i in range(len(altered) + 1))).tolist()

    assert sums[0] not in sums[1:]


def test_zeros_are_told_from_fewer_zeros() -> None:
    zeros = torch.zeros(200, dtype=torch.int64)

    assert len(set(sums_of(zeros, *((0, 0, size) for size in range(0, 200, 13))).tolist())) == 16
