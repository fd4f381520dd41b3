"""What a decision cost, by the formula of the module's first page, worked by hand."""

from dataclasses import replace

import pytest

from engine.cost import Costs
from frontend.pulse import Pulse
from frontend.regret import judge
from frontend.router import Placement, Why
from protos import worker_pb2 as pb
from tests.frontend.fake_worker import FakeWorker


@pytest.fixture
def remote() -> Placement:
    pulse = Pulse()
    decode, prefill = FakeWorker(pb.ROLE_DECODE, pulse).link.view, FakeWorker(pb.ROLE_PREFILL, pulse).link.view
    assert decode is not None
    decode.costs = Costs.flat(1000.0)
    return Placement(decode, prefill, 0, Why.ESTIMATE, local_s=0.2, remote_s=0.1, local_loss_s=0.05, remote_loss_s=0.0)


def test_what_came_as_predicted_is_not_regretted(remote: Placement) -> None:
    judged = judge(remote, 0.1)
    assert judged is not None
    assert (judged.choice, judged.ratio, judged.regret_s) == ("remote", 1.0, 0.0)


def test_what_took_longer_than_the_other_way_is(remote: Placement) -> None:
    judged = judge(remote, 0.4)
    assert judged is not None
    assert judged.ratio == pytest.approx(4.0)
    assert judged.regret_s == pytest.approx(0.4 - (0.2 + 0.05))


def test_what_others_lost_counts(remote: Placement) -> None:
    judged = judge(replace(remote, prefill=None), 0.2)
    assert judged is not None
    assert (judged.choice, judged.ratio) == ("local", 1.0)
    assert judged.regret_s == pytest.approx(0.2 + 0.05 - 0.1)


def test_the_operators_own_choice_is_judged_too(remote: Placement) -> None:
    assert judge(replace(remote, why=Why.ALWAYS_REMOTE), 0.1) is not None


@pytest.mark.parametrize("why", [Why.NO_PREFILL, Why.FULL, Why.SHORT, Why.UNMEASURED])
def test_where_there_was_nothing_to_choose_there_is_nothing_to_regret(remote: Placement, why: Why) -> None:
    assert judge(replace(remote, why=why), 9.0) is None


def test_nor_where_no_speed_is_known(remote: Placement) -> None:
    remote.decode.costs = None
    assert remote.prefill is not None
    remote.prefill.costs = None
    assert judge(remote, 9.0) is None
