"""The recorder keeps what it says, no more than it may, and shows each to whom it may."""

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.callers import ANYBODY, Caller
from frontend.recorder import PERIOD_S, Recorder
from frontend.records import RequestRecord
from tests.statuses import record, refused

ALICE, BOB = Caller(name="alice"), Caller(name="bob")


@dataclass
class Clock:
    """Moved by hand."""

    at_s: float = 0.0

    def __call__(self) -> float:
        return self.at_s


def ids(found: list[msgspec.Raw]) -> list[str]:
    return [msgspec.json.decode(raw)["request_id"] for raw in found]


@dataclass
class Oracle:
    """Remembers everything."""

    ended: list[tuple[float, RequestRecord]] = field(default_factory=list)

    def slowest(self, count: int, since_s: float) -> list[float]:
        times = (each.ttft_ms for at_s, each in self.ended if at_s >= since_s and each.ttft_ms is not None)
        return sorted(times, reverse=True)[:count]


EVENTS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.floats(0.0, 1e6)),  # ms to the first token
        st.booleans(),  # failed
        st.sampled_from([0.0, 0.0, 1.0, PERIOD_S / 2, PERIOD_S, 3 * PERIOD_S]),  # until then
    ),
    max_size=80,
)


@given(EVENTS)
def test_the_slowest_are_really_kept_and_nothing_grows(events: list[tuple[float | None, bool, float]]) -> None:
    clock, oracle = Clock(), Oracle()
    recorder = Recorder(max_recent=7, max_slowest=5, max_failed=4, now=clock)
    for number, (ttft_ms, failed, pause_s) in enumerate(events):
        clock.at_s += pause_s
        made = record(number, ttft_ms=ttft_ms, failed=failed)
        recorder.add(made)
        oracle.ended.append((clock.at_s, made))
        shown = [msgspec.json.decode(raw, type=RequestRecord) for raw in recorder.slowest(ANYBODY, 100)]
        times = [each.ttft_ms for each in shown]
        # Whatever is shown is of what ended; none of those of the last period that are slower is missing.
        assert times == sorted(times, key=lambda ms: -(ms or 0))
        for wanted, got in zip(oracle.slowest(5, clock.at_s - PERIOD_S + 1e-6), times, strict=False):
            assert got is not None
            assert got >= wanted
        assert len(times) >= min(len(oracle.slowest(5, clock.at_s - PERIOD_S + 1e-6)), 5)
        assert {each.request_id for each in shown} <= {each.request_id for _, each in oracle.ended}
        assert all(at_s > clock.at_s - 2 * PERIOD_S for at_s, each in oracle.ended if each in shown)
    numbers = range(len(events))
    everybody = [f"req-{number:024x}" for number in reversed(numbers)]
    assert ids(recorder.recent(ANYBODY, 100)) == everybody[:7]
    assert ids(recorder.failed(ANYBODY, 100)) == [f"req-{n:024x}" for n in reversed(numbers) if events[n][1]][:4]


@given(st.lists(st.integers(0, 400), max_size=60), st.integers(0, 20_000))
def test_bytes_are_bounded_too(lengths: list[int], max_bytes: int) -> None:
    recorder = Recorder(max_bytes=max_bytes)
    for number, length in enumerate(lengths):
        recorder.add(record(number, failed=True, error="x" * length))
        kept = [recorder.recent(ANYBODY, 100), recorder.failed(ANYBODY, 100), recorder.slowest(ANYBODY, 100)]
        assert all(sum(len(bytes(raw)) for raw in shelf) <= max_bytes for shelf in kept)
        assert recorder.size_bytes == sum(len(bytes(raw)) for shelf in kept for raw in shelf)


def test_what_a_start_took_is_forgotten() -> None:
    clock = Clock()
    recorder = Recorder(max_slowest=2, now=clock)
    recorder.add(record(1, ttft_ms=9_000.0))
    clock.at_s += 2 * PERIOD_S
    assert recorder.slowest(ANYBODY, 10) == []
    recorder.add(record(2, ttft_ms=5.0))
    assert ids(recorder.slowest(ANYBODY, 10)) == [f"req-{2:024x}"]


def test_a_record_is_found_by_any_spelling_of_its_id() -> None:
    recorder = Recorder()
    recorder.add(record(0xABC))
    digits = f"{0xABC:024x}"
    for spelled in (f"req-{digits}", f"chatcmpl-{digits}", f"cmpl-{digits}", digits):
        found = recorder.find(ANYBODY, spelled)
        assert found is not None
        assert msgspec.json.decode(found, type=RequestRecord) == record(0xABC)
    for wrong in ("", "req-", f"req-{1:024x}", f"{digits}-1", digits[1:], f"{digits}x"):
        assert recorder.find(ANYBODY, wrong) is None


def test_choices_of_one_request_are_told_apart() -> None:
    recorder = Recorder()
    name = f"req-{5:024x}"
    for request_id in (name, f"{name}-1"):
        recorder.add(record(request_id=request_id))
    assert ids([found for spelled in (name, f"{name}-1") if (found := recorder.find(ANYBODY, spelled))]) == [
        name,
        f"{name}-1",
    ]


def test_a_slow_one_is_found_when_it_is_long_gone_from_the_latest() -> None:
    recorder = Recorder(max_recent=3, max_slowest=1)
    for number in range(10):
        recorder.add(record(number, ttft_ms=100.0 if number else 200.0))
    assert recorder.find(ANYBODY, f"req-{0:024x}") is not None
    assert recorder.find(ANYBODY, f"req-{1:024x}") is None


@pytest.mark.parametrize(
    ("caller", "seen"), [(ALICE, [0]), (BOB, [1]), (ANYBODY, [2, 1, 0]), (Caller(name="carol"), [])]
)
def test_a_key_sees_its_own_and_the_operator_all(caller: Caller, seen: list[int]) -> None:
    recorder = Recorder()
    for number, key in enumerate(("alice", "bob", "")):
        recorder.add(record(number, key=key, failed=True))
    names = [f"req-{number:024x}" for number in seen]
    for shown in (recorder.recent, recorder.failed, recorder.slowest):
        assert sorted(ids(shown(caller, 10))) == sorted(names)
    for number in range(3):
        assert (recorder.find(caller, f"req-{number:024x}") is not None) == (number in seen)


def test_a_limit_counts_what_may_be_seen() -> None:
    recorder = Recorder()
    for number in range(10):
        recorder.add(record(number, key="bob" if number % 2 else "alice"))
    assert ids(recorder.recent(ALICE, 2)) == [f"req-{8:024x}", f"req-{6:024x}"]


def test_a_request_without_a_first_token_is_not_slow_but_failed() -> None:
    recorder = Recorder()
    recorder.add(refused())
    assert recorder.slowest(ANYBODY, 10) == []
    assert ids(recorder.failed(ANYBODY, 10)) == [refused().request_id]
