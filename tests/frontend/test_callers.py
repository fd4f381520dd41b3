"""API keys: whose they are, what they allow, and how much."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import watched_file
from engine.errors import MAX_RETRY_AFTER_S, ConfigError, Overloaded, PermissionDenied
from frontend.callers import (
    ANYBODY,
    Allowance,
    Allowances,
    Bucket,
    Caller,
    KeyRing,
    Left,
    UsedUp,
    bearer_key,
    hash_of,
    read_keys,
)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def key_file(path: Path, *keys: str) -> Path:
    path.write_text("\n".join(f"[[key]]\n{key}\n" for key in keys))
    return path


def entry(name: str, key: str, more: str = "") -> str:
    return f'name = "{name}"\nsha256 = "{hash_of(key.encode())}"\n{more}'


def test_without_keys_anybody_gets_in() -> None:
    ring = KeyRing()
    assert ring.is_open
    assert ring.find(b"whatever") is ANYBODY


def test_one_key_for_everybody() -> None:
    ring = KeyRing("s3cret")
    assert not ring.is_open
    assert ring.find(b"s3cret") is ANYBODY
    assert ring.find(b"other") is None
    assert ring.find(b"") is None


def test_a_file_of_keys(tmp_path: Path) -> None:
    more = 'models = ["a"]\ntenant = "acme"\npriority = -1\nrequests_per_minute = 6\ntokens_per_minute = 1.5'
    ring = KeyRing("", key_file(tmp_path / "keys", entry("one", "k1", more), entry("two", "k2")))

    assert ring.find(b"k1") == Caller("one", "acme", frozenset({"a"}), -1, 6.0, 1.5)
    two = ring.find(b"k2")
    assert two is not None
    assert (two.name, two.tenant, two.models) == ("two", "two", None)
    assert ring.find(b"k3") is None
    assert ring.find(hash_of(b"k1").encode()) is None, "the hash is not the key"


def test_a_file_and_a_key_for_everybody(tmp_path: Path) -> None:
    ring = KeyRing("all", key_file(tmp_path / "keys", entry("one", "k1")))
    assert ring.find(b"all") is ANYBODY
    assert ring.find(b"k1") is not None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("key = 1", "no file of API keys"),
        ("[[key]]\nname = 'a'", "sha256"),
        (f"[[key]]\n{entry('', 'k')}", "has no name"),
        ("[[key]]\nname = 'a'\nsha256 = 'abc'", "64 hexadecimal"),
        (f"[[key]]\n{entry('a', 'k')}\n[[key]]\n{entry('a', 'l')}", "is there twice"),
        (f"[[key]]\n{entry('a', 'k')}\n[[key]]\n{entry('b', 'k')}", "is there twice"),
        (f"[[key]]\n{entry('a', 'k', 'requests_per_minute = 0')}", "not above 0"),
        (f"[[key]]\n{entry('a', 'k', 'requests_per_second = 1')}", "requests_per_second"),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(ConfigError, match=complaint) as refused:
        read_keys(path)
    assert str(path) in refused.value.message


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing here"):
        KeyRing("", tmp_path / "nothing here")


def test_a_changed_file_is_read_again_and_a_broken_one_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched_file, "LOOK_S", 0.0)
    path = key_file(tmp_path / "keys", entry("one", "k1"))
    ring = KeyRing("", path)

    key_file(path, entry("one", "k1"), entry("two", "k2"))
    os.utime(path, ns=(1, 1))
    assert ring.find(b"k2") is not None
    path.write_text("[[key")
    assert ring.find(b"k2") is not None
    key_file(path, entry("two", "k2"))
    os.utime(path, ns=(2, 2))
    assert ring.find(b"k1") is None, "taken back"


def test_a_file_that_can_be_read_again_is_read_although_it_did_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched_file, "LOOK_S", 0.0)
    path = key_file(tmp_path / "keys", entry("one", "k1"))
    ring = KeyRing("", path)
    read_bytes = Path.read_bytes

    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    key_file(path, entry("one", "k1"), entry("two", "k2"))
    os.utime(path, ns=(1, 1))
    monkeypatch.setattr(Path, "read_bytes", denied)
    assert ring.find(b"k2") is None
    assert ring.find(b"k1") is not None, "what was read before holds"
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert ring.find(b"k2") is not None


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"key = " + b"[" * 100_000])
def test_what_is_no_text_or_too_deep_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(watched_file, "LOOK_S", 0.0)
    path = key_file(tmp_path / "keys", entry("one", "k1"))
    ring = KeyRing("", path)
    path.write_bytes(content)
    assert ring.find(b"k1") is not None
    with pytest.raises(ConfigError, match="no file of API keys"):
        read_keys(path)


def test_a_limit_next_to_nothing_is_told_as_a_time_that_can_be_told() -> None:
    caller = Caller("a", requests_per_minute=1e-300)
    allowances = Allowances(Clock())
    with allowances.charged(caller, 1, 1, lambda: 1):
        pass
    with pytest.raises(UsedUp) as refused, allowances.charged(caller, 1, 1, lambda: 1):
        pass
    assert refused.value.retry_after_s == MAX_RETRY_AFTER_S


def test_every_tenant_has_a_prefix_cache_of_his_own() -> None:
    roots = {Caller(tenant=name).hash_root for name in ("", "a", "b")}
    assert len(roots) == 3
    assert Caller(name="x", tenant="a").hash_root == Caller(name="y", tenant="a").hash_root
    assert {len(root) for root in roots} == {16}


def test_a_key_for_some_models_is_not_for_others() -> None:
    caller = Caller("one", models=frozenset({"a"}))
    caller.check_model("a")
    ANYBODY.check_model("b")
    with pytest.raises(PermissionDenied, match="'one' is not for the model 'b'"):
        caller.check_model("b")


@pytest.mark.parametrize(
    ("header", "key"),
    [("Bearer k", "k"), ("bearer  k ", "k"), ("Basic k", None), ("", None), ("Bearer", ""), ("Bearer a b", "a b")],
)
def test_the_key_in_a_header(header: str, key: str | None) -> None:
    assert bearer_key(header) == key


# -- limits ------------------------------------------------------------------------------------------------------------


def ask(allowances: Allowances, caller: Caller, prompt: int = 0, longest: int = 0, used: int = 0) -> None:
    with allowances.charged(caller, prompt, longest, lambda: used):
        pass


def test_requests_per_minute() -> None:
    clock = Clock()
    allowances, caller = Allowances(clock), Caller("a", requests_per_minute=3)
    for _ in range(3):
        ask(allowances, caller)
    with pytest.raises(Overloaded, match="3 requests per minute") as refused:
        ask(allowances, caller)
    assert refused.value.retry_after_s == pytest.approx(20)
    assert isinstance(refused.value, UsedUp)
    assert refused.value.allowance == Allowance(Left(3, 0, pytest.approx(60)))
    clock.now_s += refused.value.retry_after_s + 1e-6
    ask(allowances, caller)
    ask(allowances, Caller("b", requests_per_minute=3))


def test_what_is_left_is_told() -> None:
    clock = Clock()
    allowances, caller = Allowances(clock), Caller("a", requests_per_minute=60, tokens_per_minute=600)
    with allowances.charged(caller, 100, 200, lambda: 0) as left:
        assert left.requests == Left(60, 59, pytest.approx(1))
        assert left.tokens == Left(600, 300, pytest.approx(30))
    with allowances.charged(Caller("b", tokens_per_minute=60), 100, 0, lambda: 0) as left:
        assert left.requests is None
        assert left.tokens == Left(60, 0, pytest.approx(100)), "a debt is nothing that is left"
    with allowances.charged(ANYBODY, 100, 200, lambda: 0) as left:
        assert left == Allowance()


def test_what_an_answer_does_not_use_is_given_back() -> None:
    clock = Clock()
    allowances, caller = Allowances(clock), Caller("a", tokens_per_minute=100)
    ask(allowances, caller, prompt=10, longest=90, used=20)
    with pytest.raises(Overloaded, match="100 tokens per minute") as refused:
        ask(allowances, caller, prompt=80)
    assert refused.value.retry_after_s == pytest.approx(6)
    ask(allowances, caller, prompt=70)


def test_a_request_that_fails_gives_back_its_answer() -> None:
    allowances, caller = Allowances(Clock()), Caller("a", tokens_per_minute=100)
    with pytest.raises(ValueError, match="lost"), allowances.charged(caller, 10, 90, lambda: 0):
        raise ValueError("lost")
    ask(allowances, caller, prompt=90)


def test_what_is_larger_than_a_minute_waits_for_all_of_it_and_leaves_a_debt() -> None:
    clock = Clock()
    allowances, caller = Allowances(clock), Caller("a", tokens_per_minute=60)
    ask(allowances, caller, prompt=180)
    with pytest.raises(Overloaded) as refused:
        ask(allowances, caller, prompt=1)
    assert refused.value.retry_after_s == pytest.approx(121)


def test_limits_that_change_begin_anew() -> None:
    allowances = Allowances(Clock())
    ask(allowances, Caller("a", requests_per_minute=1))
    ask(allowances, Caller("a", requests_per_minute=2))
    ask(allowances, Caller("a", requests_per_minute=2))
    with pytest.raises(Overloaded):
        ask(allowances, Caller("a", requests_per_minute=2))


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 50)), max_size=60), st.integers(1, 100))
def test_nobody_gets_more_than_his_limit_and_the_time_told_is_enough(asks: list[tuple[float, int]], limit: int) -> None:
    clock = Clock()
    bucket = Bucket(limit, clock)
    taken: list[tuple[float, int]] = []
    for wait_s, amount in asks:
        clock.now_s += wait_s
        if (told_s := bucket.wait_s(amount)) == 0:
            bucket.take(amount)
            taken.append((clock.now_s, amount))
        else:
            at = clock.now_s
            clock.now_s += told_s + 1e-6
            assert bucket.wait_s(amount) == 0
            clock.now_s = at  # nobody waits here
    for begin, (start_s, _) in enumerate(taken):
        for end in range(begin, len(taken)):
            total = sum(amount for _, amount in taken[begin:end])
            elapsed_s = taken[end][0] - start_s
            largest = max((amount for _, amount in taken[begin:end]), default=0)
            assert total <= limit + elapsed_s * limit / 60 + max(largest - limit, 0) + 1e-3
