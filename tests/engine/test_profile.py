"""The profile of a worker: which steps are timed, how they are fitted, and that nothing is left behind."""

import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.config import WorkerConfig
from engine.cost import Costs
from engine.device import open_model
from engine.profile import Kind, Limits, Times, fit, plan, residual, time_kinds
from protos import worker_pb2 as pb
from tests.shared_data import shared_data

TRUE = Costs((1, 16, 64, 256, 512), (0.0402, 0.05, 0.08, 0.24, 0.5), 5e-7, 0.04, 1e-3, 3e-6)


def true_s(kind: Kind) -> float:
    if kind.num_tokens == 1:
        return TRUE.decode_step_s(kind.num_sequences, kind.num_sequences * (kind.context + 1))
    return TRUE.prompt_step_s(kind.num_tokens, kind.context)


def test_a_worker_that_is_linear_is_found_out() -> None:
    times = {kind: true_s(kind) for kind in plan(Limits(4096, 512, 64), 20_000, 16)}
    costs = fit(times)
    assert residual(costs, times) < 1e-6
    assert costs.decode_s == pytest.approx(TRUE.decode_s)
    assert costs.decode_sequence_s == pytest.approx(TRUE.decode_sequence_s)
    assert costs.decode_context_s == pytest.approx(TRUE.decode_context_s)
    assert costs.chunk_context_s == pytest.approx(TRUE.chunk_context_s)
    assert costs.table_s(300) == pytest.approx(TRUE.table_s(300))


def test_noise_gives_no_negative_cost_and_no_table_that_falls() -> None:
    times = {Kind(1, 15): 0.5, Kind(16, 0): 0.4, Kind(1, 15, 8): 0.3, Kind(64, 0): 0.6, Kind(1, 511, 8): 0.2}
    costs = fit(times)
    assert min(costs.decode_s, costs.decode_sequence_s, costs.decode_context_s) >= 0
    assert costs.chunk_s == (0.5, 0.5, 0.6)
    assert Costs.from_proto(costs.to_proto()) == costs


@given(st.integers(2, 5000), st.integers(1, 600), st.integers(1, 64), st.integers(1, 400), st.integers(1, 32))
def test_every_step_is_one_that_the_worker_may_run(
    max_context: int, max_step_tokens: int, max_sequences: int, num_blocks: int, block_tokens: int
) -> None:
    capacity = num_blocks * block_tokens
    limits = Limits(max(min(max_context, capacity), 1), max_step_tokens, max_sequences)
    kinds = plan(limits, capacity, block_tokens)
    assert kinds
    assert kinds[0].num_tokens == 1
    for kind in kinds:
        assert kind.num_sequences * kind.num_blocks(block_tokens) <= num_blocks
        assert kind.context + kind.num_tokens <= limits.max_context
        assert kind.num_tokens <= max_step_tokens
        assert kind.num_sequences <= max_sequences
    assert fit(dict.fromkeys(kinds, 1.0)).decode_s > 0


def test_when_the_time_is_over_one_step_is_enough() -> None:
    ran: list[Kind] = []
    times: Times = time_kinds(plan(Limits(4096, 512, 64), 20_000, 16), lambda kind: ran.append(kind) or 1.0, 0.0)
    assert len(ran) == len(times) == 1
    costs = fit(times)
    assert costs.decode_step_s(1, 1) == costs.table_s(1) == 1.0


def test_of_each_kind_the_fastest_run_counts() -> None:
    runs = iter([3.0, 1.0, 2.0, 5.0, 4.0])
    assert time_kinds([Kind(1, 0)], lambda _: next(runs), float("inf")) == {Kind(1, 0): 1.0}


def test_a_worker_measures_itself_and_leaves_no_trace() -> None:
    opened = open_model(
        WorkerConfig(model=str(shared_data("models", "stories260K")), kv_memory_mb=4, threads=1, profile_s=0.2),
        pb.ROLE_DECODE,
    )
    assert not opened.cache.array.any()
    hello = opened.who.hello(())
    assert Costs.from_proto(hello.profile) == opened.who.costs is not None
    assert hello.max_step_tokens == 512


def test_a_worker_that_is_told_not_to_measure_publishes_no_profile() -> None:
    opened = open_model(
        WorkerConfig(model=str(shared_data("models", "stories260K")), kv_memory_mb=4, threads=1, profile_s=0),
        pb.ROLE_DECODE,
    )
    assert not opened.who.hello(()).HasField("profile")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_a_worker_that_borrows_measures_itself_with_and_without(tmp_path: Path) -> None:
    own, other = sorted(os.sched_getaffinity(0))[:2]
    board = tmp_path / "cpus"
    model = str(shared_data("models", "stories260K"))
    lends = {"cpus": str(own), "borrow_cpus": str(other), "cpu_board": str(board)}
    config = WorkerConfig(model=model, kv_memory_mb=4, profile_s=0.1, **lends)  # type: ignore[arg-type]
    before = os.sched_getaffinity(0), torch.get_num_threads()
    try:
        hello = open_model(config, pb.ROLE_DECODE).who.hello(())
    finally:
        for thread in os.listdir("/proc/self/task"):
            with suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread), before[0])
        torch.set_num_threads(before[1])
    assert Costs.from_proto(hello.profile)
    assert Costs.from_proto(hello.own_profile)
    assert hello.cpu_board.endswith(f":{board}")
