"""The draw against its twin and, token for token, against the CPU's."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernels import sample as cpu
from engine.kernels.gpu.candidates import Scratch
from engine.kernels.gpu.sample import sample, sample_reference

V = 300
FILTERS = {
    "temperature": st.sampled_from([0.0, 0.1, 0.7, 1.0, 2.0]),
    "top_k": st.sampled_from([0, 1, 2, 7, 49, V, 10_000]),
    "top_p": st.sampled_from([0.0, 1e-6, 0.1, 0.5, 0.9, 0.99, 1.0]),
    "min_p": st.sampled_from([0.0, 0.02, 0.5, 1.0]),
}


def scratch_of(max_rows: int, size: int) -> Scratch:
    """With what no kernel left there."""
    scratch = Scratch.of(max_rows, size, torch.empty(0).device)
    for field in dataclasses.fields(scratch):
        tensor = getattr(scratch, field.name)
        tensor.fill_(float("nan") if tensor.is_floating_point() else -(1 << 20))
    return scratch


def tokens(
    logits: np.ndarray,
    seeds: np.ndarray,
    indices: np.ndarray,
    filters: list[dict[str, float]],
    scratch: Scratch | None = None,
) -> list[int]:
    def column(name: str, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([row[name] for row in filters], dtype=dtype)

    out = torch.full((len(logits),), -1)
    sample(
        torch.tensor(logits),
        column("temperature", torch.float64),
        column("top_k", torch.int64),
        column("top_p", torch.float64),
        column("min_p", torch.float64),
        torch.tensor(seeds.view(np.int64)),
        torch.tensor(indices.view(np.int64)),
        scratch or scratch_of(len(logits) + 1, logits.shape[1]),
        out,
    )
    return out.tolist()


def tokens_of_cpu(
    logits: np.ndarray, seeds: np.ndarray, indices: np.ndarray, filters: list[dict[str, float]]
) -> list[int]:
    def column(name: str, dtype: type) -> np.ndarray:
        return np.array([row[name] for row in filters], dtype)

    drawn: list[int] = cpu.sample(
        logits,
        column("temperature", np.float64),
        column("top_k", np.int64),
        column("top_p", np.float64),
        column("min_p", np.float64),
        seeds,
        indices,
    ).tolist()
    return drawn


def rows(generator: np.random.Generator, size: int, scales: list[float]) -> np.ndarray:
    return (generator.normal(size=(len(scales), size)) * np.array(scales)[:, None]).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(
    logits_seed=st.integers(0, 1000),
    size=st.sampled_from([1, 2, 50, V, 4096, 9000]),
    scale=st.sampled_from([0.0, 0.5, 3.0, 30.0]),
    seed=st.integers(0, 2**64 - 1),
    index=st.integers(0, 2**64 - 1),
    filters=st.fixed_dictionaries(FILTERS),
)
def test_a_draw_is_that_of_the_cpu_and_of_the_twin(
    logits_seed: int, size: int, scale: float, seed: int, index: int, filters: dict[str, float]
) -> None:
    logits = rows(np.random.default_rng(logits_seed), size, [scale])
    if size > 2 and logits_seed % 2:
        logits[:, ::3] = -np.inf
    seeds, indices = np.array([seed], np.uint64), np.array([index], np.uint64)

    (token,) = tokens(logits, seeds, indices, [filters])

    assert [token] == tokens_of_cpu(logits, seeds, indices, [filters])
    # Of float32 weights: a draw within rounding of a boundary may fall on either side.
    uniforms = [cpu.philox_twin(seed, index) + error for error in (-1e-6, 0.0, 1e-6)]
    assert token in [sample_reference(torch.tensor(logits[0]), **filters, uniform=uniform) for uniform in uniforms]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_batch_of_all_kinds_is_that_of_the_cpu(dtype: type) -> None:
    generator = np.random.default_rng(1)
    filters = [
        {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        for temperature, top_k, top_p, min_p in [
            (0.0, 0, 1.0, 0.0),
            (1.0, 0, 1.0, 0.0),
            (1.5, 3000, 0.999, 0.0),
            (1.0, 0, 0.95, 0.0),
            (0.7, 40, 0.9, 0.05),
            (1.0, 1, 1.0, 0.0),
            (0.0, 40, 0.9, 0.05),
            (0.7, 0, 1.0, 0.05),
            (1.0, 30, 1.0, 0.0),
            (1.0, 0, 0.5, 0.0),
        ]
    ]
    logits = rows(generator, 13_001, [2.0, 2.0, 0.1, 0.01, 4.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    logits[6:] = np.round(logits[6:])  # equal ones in several parts
    logits = logits.astype(dtype)
    seeds, indices = generator.integers(0, 2**64, len(logits), np.uint64), np.arange(len(logits), dtype=np.uint64)

    assert tokens(logits, seeds, indices, filters) == tokens_of_cpu(logits.astype(np.float32), seeds, indices, filters)


def test_equal_logits_give_the_lowest_id_and_forbidden_ones_are_never_drawn() -> None:
    logits = np.full((2, 4000), -np.inf, np.float32)
    logits[0, [7, 3999]] = 5.0
    logits[1, 3000] = 5.0
    filters = [{"temperature": t, "top_k": 5, "top_p": 0.5, "min_p": 0.0} for t in (0.0, 1.0)]

    assert tokens(logits, np.zeros(2, np.uint64), np.zeros(2, np.uint64), filters) == [7, 3000]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_rows_from_which_nothing_can_be_drawn_give_ids_of_the_vocabulary(value: float) -> None:
    filters = [
        {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": 0.0}
        for temperature, top_k, top_p in [(0.0, 0, 1.0), (1.0, 0, 1.0), (1.0, 5, 1.0), (1.0, 0, 0.9)]
    ]
    logits = np.full((4, 5000), value, np.float32)

    with np.errstate(invalid="ignore"):
        drawn = tokens(logits, np.zeros(4, np.uint64), np.zeros(4, np.uint64), filters)

    assert all(0 <= token < 5000 for token in drawn)


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # NumPy's, of what a GPU makes 0
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_with_logits_that_are_no_numbers_draws_another_and_disturbs_nobody(temperature: float) -> None:
    logits = rows(np.random.default_rng(5), 5000, [2.0] * 3)
    alone = {"temperature": temperature, "top_k": 0, "top_p": 0.9, "min_p": 0.0}
    seeds, indices = np.arange(3, dtype=np.uint64), np.zeros(3, np.uint64)
    expected = tokens(logits, seeds, indices, [alone] * 3)
    logits[1, 1::2] = np.nan

    drawn = tokens(logits, seeds, indices, [alone, {**alone, "top_k": 9}, alone])

    assert [drawn[0], drawn[2]] == [expected[0], expected[2]]
    assert np.isfinite(logits[1, drawn[1]])


def test_scratch_serves_batches_of_any_size_one_after_another() -> None:
    generator = np.random.default_rng(2)
    filters = [
        {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": 0.0}
        for temperature, top_k, top_p in [(1.0, 0, 0.9), (0.0, 0, 1.0), (0.7, 9, 1.0), (1.0, 0, 1.0), (1.0, 20, 0.8)]
    ]
    logits, seeds = rows(generator, 5000, [3.0] * 5), generator.integers(0, 2**64, 5, np.uint64)
    indices = np.arange(5, dtype=np.uint64)
    scratch = scratch_of(5, 5000)

    for order in ([0, 1, 2, 3, 4], [3], [4, 2], [1, 4, 0, 3, 2]):
        batch = logits[order], seeds[order], indices[order], [filters[row] for row in order]
        assert tokens(*batch, scratch) == tokens_of_cpu(*batch)


def test_no_rows_are_no_tokens() -> None:
    assert tokens(np.zeros((0, 5), np.float32), np.zeros(0, np.uint64), np.zeros(0, np.uint64), []) == []
