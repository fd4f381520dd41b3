"""The cost model: what it says at and between measurements, and that no more work ever takes less time."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cost import Costs, Slowdown, StepWork, chunks, work_of
from protos import worker_pb2 as pb

COSTS = Costs((1, 16, 64, 256), (0.03, 0.04, 0.08, 0.24), 5e-7, 0.03, 1e-3, 3e-6)

seconds = st.floats(1e-6, 1e3)
counts = st.integers(0, 100_000)


@st.composite
def costs(draw: st.DrawFn) -> Costs:
    sizes = sorted(draw(st.sets(st.integers(1, 5000), min_size=1, max_size=6)))
    # A table that a machine can give: more tokens take longer, and never longer a token.
    times = [draw(seconds)]
    for size, before in zip(sizes[1:], sizes, strict=False):
        times.append(times[-1] * draw(st.floats(1, size / before)))
    return Costs(tuple(sizes), tuple(times), *(draw(st.floats(0, 1e-2)) for _ in range(4)))


def test_measured_points_are_met_and_others_lie_between() -> None:
    assert [COSTS.table_s(n) for n in (0, 1, 16, 64, 256)] == [0, 0.03, 0.04, 0.08, 0.24]
    assert COSTS.table_s(40) == pytest.approx(0.06)
    assert COSTS.table_s(512) == pytest.approx(0.48), "beyond the table: in proportion to its end"
    assert replace(COSTS, chunk_tokens=(16, 64), chunk_s=(0.04, 0.08)).table_s(2) == 0.04, "no step reads fewer weights"


def test_a_decode_step_is_linear_in_sequences_and_context() -> None:
    assert COSTS.decode_step_s(8, 8 * 512) == pytest.approx(0.03 + 0.008 + 8 * 512 * 3e-6)
    assert COSTS.decode_step_s(0, 0) == 0


def test_a_step_that_does_both_reads_the_weights_once() -> None:
    both = COSTS.step_s(StepWork(64, 100, 8, 4096))
    assert both == pytest.approx(COSTS.prompt_step_s(64, 100) + COSTS.decode_step_s(8, 4096) - 0.03)
    assert COSTS.step_s(StepWork(64, 100)) == COSTS.prompt_step_s(64, 100)
    assert COSTS.step_s(StepWork(num_sequences=8, context_tokens=4096)) == COSTS.decode_step_s(8, 4096)


@given(costs(), counts, counts)
def test_more_tokens_never_take_less(costs: Costs, a: int, b: int) -> None:
    few, many = sorted((a, b))
    assert costs.table_s(few) <= costs.table_s(many) * (1 + 1e-9)
    assert costs.prompt_step_s(few, 10) <= costs.prompt_step_s(many, 10) * (1 + 1e-9)


@given(costs(), st.integers(1, 3000), st.integers(0, 3000), st.integers(1, 600))
def test_a_prompt_takes_the_sum_of_its_steps(costs: Costs, num_tokens: int, context: int, step_tokens: int) -> None:
    steps = list(chunks(num_tokens, context, step_tokens))
    assert sum(tokens for tokens, _ in steps) == num_tokens
    assert [before for _, before in steps] == [context + i * step_tokens for i in range(len(steps))]
    summed = sum(costs.prompt_step_s(tokens, before) for tokens, before in steps)
    assert costs.prefill_s(num_tokens, context, step_tokens) == pytest.approx(summed)


@given(costs(), st.floats(0.1, 10), st.integers(1, 1000), st.integers(0, 100))
def test_slower_is_slower_everywhere_alike(costs: Costs, times: float, tokens: int, sequences: int) -> None:
    work = StepWork(tokens, 5.0, sequences, sequences * 10)
    assert costs.slower(times).step_s(work) == pytest.approx(costs.step_s(work) * times)


@given(costs())
def test_it_survives_the_wire(costs: Costs) -> None:
    assert Costs.from_proto(pb.Profile.FromString(costs.to_proto().SerializeToString())) == costs


@pytest.mark.parametrize(
    "profile",
    [
        pb.Profile(),
        pb.Profile(chunk_tokens=[1, 2], chunk_s=[1.0]),
        pb.Profile(chunk_tokens=[2, 1], chunk_s=[1.0, 2.0]),
        pb.Profile(chunk_tokens=[1, 2], chunk_s=[2.0, 1.0]),
        pb.Profile(chunk_tokens=[0], chunk_s=[1.0]),
        pb.Profile(chunk_tokens=[1], chunk_s=[0.0]),
        pb.Profile(chunk_tokens=[1], chunk_s=[float("nan")]),
        pb.Profile(chunk_tokens=[1, 2, 3], chunk_s=[1.0, float("nan"), 2.0]),
        pb.Profile(chunk_tokens=[1], chunk_s=[1.0], decode_s=-1.0),
        pb.Profile(chunk_tokens=[1], chunk_s=[1.0], chunk_context_s=float("inf")),
    ],
)
def test_a_profile_that_makes_no_sense_is_none(profile: pb.Profile) -> None:
    assert Costs.from_proto(profile) is None


def test_speeds_alone_are_costs_too() -> None:
    flat = Costs.flat(1000.0, 0.02)
    assert flat.prefill_s(1500, 300, 512) == pytest.approx(1.5)
    assert flat.decode_step_s(7, 1000) == 0.02


def test_slowdown_follows_what_steps_take() -> None:
    slowdown, work = Slowdown(COSTS, half_life_s=0.1), StepWork(64)
    assert slowdown.times == 0
    slowdown.add(work, 0.16)
    assert slowdown.times == pytest.approx(2)
    slowdown.add(work, 100.0)
    assert slowdown.times <= 4, "an interruption is no speed"
    for _ in range(50):
        slowdown.add(work, 0.04)
    assert slowdown.times == pytest.approx(0.5, rel=1e-3)


def test_steps_without_borrowed_cpus_are_compared_with_what_they_take_then() -> None:
    slowdown, work = Slowdown(COSTS, COSTS.slower(2)), StepWork(64)
    slowdown.add(work, 0.08)
    slowdown.alone = True
    slowdown.add(work, 0.16)
    assert slowdown.times == pytest.approx(1)


def test_without_a_profile_nothing_is_compared() -> None:
    slowdown = Slowdown(None)
    slowdown.add(StepWork(64), 1.0)
    assert slowdown.times == 0


def test_the_work_of_a_step_follows_from_its_chunks() -> None:
    assert work_of([(9, 10), (4, 5), (0, 10), (30, 60)]) == StepWork(40, 22.5, 2, 15)
    assert work_of([(9, 10)]) == StepWork(num_sequences=1, context_tokens=10)
