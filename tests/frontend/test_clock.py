import time

import pytest

from frontend.clock import WINDOW_S, Clock

S = 1_000_000_000


@pytest.mark.parametrize("ahead_s", [-3.0, 0.0, 2.5])
def test_the_report_whose_way_was_shortest_counts(ahead_s: float) -> None:
    clock, now = Clock(), time.monotonic()
    for way_ms in (40, 3, 900):
        sent = 1_700_000_000 * S
        heard = sent - round(ahead_s * S) + way_ms * 1_000_000
        clock.heard(sent, heard, now)
    assert clock.ahead_s == pytest.approx(ahead_s - 0.003)


def test_a_worker_that_says_no_time_and_one_that_is_gone() -> None:
    clock = Clock()
    clock.heard(0, S, time.monotonic())
    assert clock.ahead_s is None
    clock.heard(2 * S, S, time.monotonic())
    assert clock.ahead_s == 1.0
    clock.forget()
    assert clock.ahead_s is None


def test_what_was_long_ago_is_forgotten() -> None:
    clock, now = Clock(), time.monotonic()
    clock.heard(9 * S, S, now - 2 * WINDOW_S)
    clock.heard(2 * S, S, now)
    assert clock.ahead_s == 1.0
