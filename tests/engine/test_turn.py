"""Who loads and who measures: loading goes side by side, measuring does not."""

import threading
from pathlib import Path

import pytest

from engine.turn import Turn


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "lock").touch()
    return str(tmp_path / "lock")


def test_alone_nobody_waits(path: str) -> None:
    with Turn(0, path) as turn:
        assert turn.wait()


def test_nobody_measures_while_another_loads_or_measures(path: str) -> None:
    with Turn(0, path) as late:
        with Turn(0, path):
            assert not late.wait()
        with Turn(0, path) as measuring:
            assert measuring.wait()
            assert not late.wait()
        assert late.wait()


def test_a_wait_ends_with_the_other_one(path: str) -> None:
    done = threading.Event()

    def measure() -> None:
        with Turn(60, path) as turn:
            loaded.wait()
            if turn.wait():
                done.set()

    loaded = threading.Barrier(2)
    thread = threading.Thread(target=measure)
    with Turn(60, path):
        thread.start()
        loaded.wait()
        assert not done.is_set()
    thread.join(timeout=60)
    assert done.is_set()
