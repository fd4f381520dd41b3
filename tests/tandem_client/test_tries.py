"""When calls are repeated, and for how long: pure, with a clock that stands still until it is moved."""

from contextlib import suppress

import pytest

from tandem_client import (
    ConnectionLost,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    Overloaded,
    Retries,
    TandemError,
    Unavailable,
)
from tandem_client.tries import Tries


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def tries(retries: Retries | None = None, timeout_s: float | None = None, clock: Clock | None = None) -> Tries:
    """With the longest waits that may be drawn."""
    return Tries(retries or Retries(), timeout_s, clock or Clock(), lambda: 1.0)


def test_waits_double_until_there_were_tries_enough() -> None:
    calls = tries(Retries(max_tries=4, first_wait_s=0.2))
    error = Unavailable("gone")
    assert [calls.wait_to_repeat(error) for _ in range(3)] == pytest.approx([0.2, 0.4, 0.8])
    with pytest.raises(Unavailable) as final:
        calls.wait_to_repeat(error)
    assert final.value is error


def test_a_random_part_of_a_wait_is_left_out_but_not_of_what_the_server_says() -> None:
    least = Tries(Retries(first_wait_s=0.2), None, Clock(), lambda: 0.0)
    assert least.wait_to_repeat(Unavailable("")) == pytest.approx(0.1)
    assert least.wait_to_repeat(Overloaded("", retry_after_s=7.0)) == 7.0
    assert tries().wait_to_repeat(Overloaded("", retry_after_s=7.0)) == pytest.approx(7.7)


def test_a_longer_wait_than_is_wanted_is_not_waited_for() -> None:
    with pytest.raises(Overloaded):
        tries(Retries(max_wait_s=5)).wait_to_repeat(Overloaded("", retry_after_s=5.1))
    with pytest.raises(Overloaded):
        tries().wait_to_repeat(Overloaded("a message that is too large"))


@pytest.mark.parametrize("kind", [TandemError, InvalidRequest, NotFound, DeadlineExceeded])
def test_what_would_fail_again_is_final(kind: type[TandemError]) -> None:
    with pytest.raises(kind):
        tries().wait_to_repeat(kind("no"))


def test_nobody_waits_beyond_the_deadline() -> None:
    clock = Clock()
    calls = tries(Retries(first_wait_s=1.0), 3.0, clock)
    assert calls.left_s == 3.0
    assert calls.wait_to_repeat(Unavailable("")) == 1.0
    clock.now += 1.0
    assert calls.left_s == 2.0
    with pytest.raises(Unavailable):
        calls.wait_to_repeat(Unavailable(""))
    clock.now += 5.0
    assert calls.left_s == 0.0
    assert tries().left_s is None


def test_an_answer_is_resumed_for_as_long_as_it_is_kept() -> None:
    clock = Clock()
    calls = tries(Retries(max_tries=1, first_wait_s=0.5), None, clock)
    lost, waits = ConnectionLost("reset"), []
    with suppress(ConnectionLost):
        while True:
            waits.append(calls.wait_to_resume(lost, 4.0))
            clock.now += waits[-1]
    assert waits == [0.5, 1.0, 1.0, 1.0], "as the next would be later than 4 s after it broke"


def test_what_succeeds_begins_anew() -> None:
    clock = Clock()
    calls = tries(Retries(max_tries=2, first_wait_s=1.0), None, clock)
    for _ in range(5):
        assert calls.wait_to_repeat(Unavailable("")) == 1.0
        calls.succeeded()
        assert calls.wait_to_resume(ConnectionLost(""), 2.0) == 1.0
        clock.now += 100.0
        calls.succeeded()
