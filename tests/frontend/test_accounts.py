"""What keys have used of models: counted once, whatever became of the request, and told to whom it may be."""

from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from frontend import accounts
from frontend.accounts import OTHERS, Accounts, UsageReport, Used
from frontend.callers import ANYBODY, Caller, KeyRing
from tests.frontend.fake_inference import FakeInference
from tests.frontend.test_callers import entry, key_file
from tests.frontend.test_rest_debug import asking
from tests.statuses import record, refused


def test_what_workers_had_is_counted_whatever_became_of_it() -> None:
    counted = Accounts()
    counted.add(record(1, key="alice", model="big"))
    counted.add(record(2, key="alice", model="big", outcome="CANCELLED", output_tokens=3))
    counted.add(record(3, key="alice", model="small", prompt_tokens=5, cached_tokens=0, output_tokens=1))
    counted.add(record(4, key="", model="big"))
    counted.add(msgspec.structs.replace(refused(), key="alice"))  # no worker had it
    big = Used(key="", model="big", requests=1, prompt_tokens=812, cached_tokens=256, completion_tokens=64)
    alices = [
        Used(key="alice", model="big", requests=2, prompt_tokens=1624, cached_tokens=512, completion_tokens=67),
        Used(key="alice", model="small", requests=1, prompt_tokens=5, cached_tokens=0, completion_tokens=1),
    ]
    assert counted.all() == [big, *alices]
    assert counted.report(ANYBODY).used == [big, *alices]
    assert counted.report(Caller("alice")).used == alices
    assert counted.report(Caller("bob")).used == []


def test_there_are_only_so_many_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "MAX_ACCOUNTS", 2)
    counted = Accounts()
    for key in ("a", "b", "c", "d", "a"):
        counted.add(record(key=key))
    assert {used.key: used.requests for used in counted.all()} == {"a": 2, "b": 1, OTHERS: 2}


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing("operator", key_file(tmp_path / "keys", entry("alice", "ka"), entry("bob", "kb")))


@pytest.fixture
def inference() -> FakeInference:
    made = FakeInference()
    for key in ("alice", "bob"):
        made.accounts.add(record(key=key))
    return made


@pytest.mark.parametrize(("key", "seen"), [("operator", ["alice", "bob"]), ("ka", ["alice"]), ("kb", ["bob"])])
async def test_a_key_sees_its_own_and_the_operator_all(
    inference: FakeInference, ring: KeyRing, key: str, seen: list[str]
) -> None:
    async with asking(inference, ring, key) as client:
        response = await client.get("/usage")
        assert response.status_code == 200
        report = msgspec.json.decode(response.content, type=UsageReport)
        assert [used.key for used in report.used] == seen
        assert report.since_s <= report.at_s
        exposed = (await client.get("/usage/metrics")).text
    samples = {
        (sample.name, sample.labels["key"], sample.labels["model"]): sample.value
        for family in text_string_to_metric_families(exposed)
        for sample in family.samples
        if sample.name.endswith("_total")
    }
    assert samples == {
        (f"tandem_key_{name}_total", each, "demo"): value
        for each in seen
        for name, value in (("requests", 1), ("prompt_tokens", 812), ("cached_tokens", 256), ("completion_tokens", 64))
    }


async def test_nobody_sees_it_without_a_key_where_there_are_keys(inference: FakeInference, ring: KeyRing) -> None:
    async with asking(inference, ring) as client:
        for path in ("/usage", "/usage/metrics"):
            assert (await client.get(path)).status_code == 401
            assert (await client.get(path, headers={"x-api-key": "wrong"})).status_code == 401
    async with asking(inference, KeyRing()) as client:
        assert len((await client.get("/usage")).json()["used"]) == 2
