import pytest

from cli.chaos.faults import LINK_ACTIONS, LONG_STOP_S, SHORT_STOP_S, Action, Fault, Moment, schedule

ROLES = ("decode", "prefill")


def faults(seed: int = 0, duration_s: float = 600.0, *, links: bool = True) -> tuple[Fault, ...]:
    return schedule(seed, duration_s, 8.0, roles=ROLES, links=links)


def test_a_seed_is_a_schedule() -> None:
    assert faults(1) == faults(1)
    assert faults(1) != faults(2)


def test_times_ascend_about_as_far_apart_as_asked_and_end_with_the_run() -> None:
    times = [fault.at_s for fault in faults()]
    assert times == sorted(times)
    assert times[-1] < 600
    assert 50 < len(times) < 110
    assert [fault.number for fault in faults()] == list(range(len(times)))


def test_a_run_has_a_bit_of_everything() -> None:
    done = {(fault.action, fault.role) for fault in faults()[:7]}
    workers = {(action, role) for action in (Action.KILL, Action.STOP) for role in ROLES}
    assert done == workers | {(action, "decode") for action in LINK_ACTIONS}
    moments = {fault.moment for fault in faults() if fault.action is Action.KILL}
    assert moments == set(Moment)


def test_links_are_left_alone_where_there_are_no_proxies() -> None:
    assert {fault.action for fault in faults(links=False)} == {Action.KILL, Action.STOP}


def test_only_a_kill_can_hit_a_worker_that_starts() -> None:
    assert {fault.action for fault in faults() if fault.moment is Moment.STARTING} == {Action.KILL}


@pytest.mark.parametrize(("duration_s", "has_long"), [(59.0, False), (600.0, True)])
def test_long_stops_are_for_runs_that_have_the_time(duration_s: float, has_long: bool) -> None:
    stops = [fault.lasts_s for seed in range(20) for fault in faults(seed, duration_s) if fault.action is Action.STOP]
    short = [lasts_s for lasts_s in stops if SHORT_STOP_S[0] <= lasts_s <= SHORT_STOP_S[1]]
    long = [lasts_s for lasts_s in stops if LONG_STOP_S[0] <= lasts_s <= LONG_STOP_S[1]]
    assert len(short) + len(long) == len(stops)
    assert bool(long) is has_long
    assert short


def test_one_role_alone_can_be_hurt() -> None:
    assert {fault.role for fault in schedule(0, 100.0, 2.0, roles=("decode",), links=False)} == {"decode"}
