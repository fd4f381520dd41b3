import os

import pytest

from cli.environment import ROOT, child_environment


def test_threads_that_wait_give_their_core_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    assert child_environment()["GOMP_SPINCOUNT"] == "10000"


def test_a_wait_policy_that_the_user_chose_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert "GOMP_SPINCOUNT" not in child_environment()


def test_the_packages_are_found_before_what_else_is_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    assert child_environment(A="b")["PYTHONPATH"] == f"{ROOT}{os.pathsep}/elsewhere"
    assert child_environment(A="b")["A"] == "b"
