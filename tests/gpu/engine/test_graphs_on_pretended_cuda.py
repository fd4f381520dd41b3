"""Which way to compute a step a bucket keeps, where ways can be captured and timed."""

import pytest
import torch

from engine.gpu.graphs import DecodeGraphs, Step
from tests.gpu.pretend.install import pretended
from tests.gpu.pretend.tensors import DEVICE


def refuse(bucket: int) -> torch.Tensor:
    raise RuntimeError("no such launch")


def test_a_way_that_the_gpu_refuses_is_not_taken() -> None:
    with pretended():
        out = torch.zeros(2, device=DEVICE)
        ways: dict[str, Step] = {"plain": lambda bucket: out[:bucket].add_(1), "refused": refuse}
        graphs = DecodeGraphs(lambda _: ways, 2, DEVICE)
        graphs.capture()

        assert graphs.chosen == {1: "plain", 2: "plain"}
        assert len(graphs(2)) == 2


def test_the_first_way_may_not_be_refused() -> None:
    with pretended(), pytest.raises(RuntimeError, match="no such launch"):
        DecodeGraphs(lambda _: {"refused": refuse, "plain": torch.zeros}, 2, DEVICE).capture()


def test_each_bucket_keeps_the_way_that_is_the_fastest_there(monkeypatch: pytest.MonkeyPatch) -> None:
    took_ms = iter((3.0, 2.0, 1.0, 4.0))  # the largest bucket comes first
    monkeypatch.setattr("engine.gpu.graphs._replay_ms", lambda graph: next(took_ms))
    with pretended():
        out = torch.zeros(2, device=DEVICE)
        ways: dict[str, Step] = {
            "fills": lambda bucket: out[:bucket].fill_(7),
            "adds": lambda bucket: out[:bucket].add_(1),
        }
        graphs = DecodeGraphs(lambda _: ways, 2, DEVICE)
        graphs.capture()
        assert graphs.chosen == {2: "adds", 1: "fills"}

        out.fill_(1)
        assert graphs(2).tolist() == [2, 2]
        assert graphs(1).tolist() == [7]
