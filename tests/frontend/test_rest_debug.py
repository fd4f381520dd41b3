"""What can be read of requests that have ended: by whom, how much, and that it is what the document says."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import msgspec
import pytest

from engine.version import VERSION
from frontend.api import Readiness, WorkerStatus
from frontend.callers import KeyRing
from frontend.recorder import LatestDecision
from frontend.records import RequestRecord
from frontend.rest.app import build_app
from frontend.rest.debug import IN_STATUS, MAX_LIMIT
from frontend.status import RequestList, ServerStatus
from tests.frontend.fake_inference import MODEL, FakeInference
from tests.frontend.test_callers import entry, key_file
from tests.frontend.test_rest_app import error_of
from tests.statuses import REMOTE, record, refused, worker

QUESTION = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


class WithWorkers(FakeInference):
    def workers(self) -> list[WorkerStatus]:
        return [worker("prefill-0"), worker("decode-0")]


@pytest.fixture
def inference() -> WithWorkers:
    """Alice's requests have even numbers, Bob's odd ones; the first is the slowest."""
    made = WithWorkers()
    for number in range(30):
        key = "bob" if number % 2 else "alice"
        made.recorder.add(record(number, key=key, ttft_ms=1000.0 - number))
        made.recorder.decided(LatestDecision(record(number).request_id, key, 1.8e9, 1, REMOTE))
    made.recorder.add(msgspec.structs.replace(refused(), request_id=f"req-{99:024x}", key="bob"))
    return made


@asynccontextmanager
async def asking(inference: FakeInference, keys: KeyRing, key: str = "") -> AsyncIterator[httpx.AsyncClient]:
    app = build_app(inference, keys=keys, max_body_bytes=1 << 20, metrics=lambda: b"")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers=headers) as client:
        yield client


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing("operator", key_file(tmp_path / "keys", entry("alice", "ka"), entry("bob", "kb")))


def numbers(response: httpx.Response) -> list[int]:
    assert response.status_code == 200
    requests = msgspec.json.decode(response.content, type=RequestList).requests
    return [int(each.request_id.removeprefix("req-"), 16) for each in requests]


async def test_lists(inference: WithWorkers) -> None:
    async with asking(inference, KeyRing()) as client:
        assert numbers(await client.get("/debug/requests")) == [99, *range(29, 10, -1)]
        assert numbers(await client.get("/debug/requests?list=recent&limit=2")) == [99, 29]
        assert numbers(await client.get("/debug/requests?list=slowest&limit=3")) == [0, 1, 2]
        assert numbers(await client.get("/debug/requests?list=failed")) == [99]


@pytest.mark.parametrize(
    ("query", "param"),
    [("list=all", "list"), ("limit=0", "limit"), (f"limit={MAX_LIMIT + 1}", "limit"), ("limit=ten", "limit")],
)
async def test_what_cannot_be_listed_is_refused(inference: WithWorkers, query: str, param: str) -> None:
    async with asking(inference, KeyRing()) as client:
        response = await client.get(f"/debug/requests?{query}")
    assert response.status_code == 400
    assert error_of(response)["param"] == param


async def test_one(inference: WithWorkers) -> None:
    async with asking(inference, KeyRing()) as client:
        found = await client.get(f"/debug/requests/chatcmpl-{3:024x}")
        assert msgspec.json.decode(found.content, type=RequestRecord) == record(3, key="bob", ttft_ms=997.0)
        missing = await client.get(f"/debug/requests/req-{500:024x}")
        assert missing.status_code == 404
        assert f"{500:024x}" in (error_of(missing)["message"] or "")


@pytest.mark.parametrize(("key", "own"), [("ka", 0), ("kb", 1)])
async def test_a_key_sees_its_own(inference: WithWorkers, ring: KeyRing, key: str, own: int) -> None:
    async with asking(inference, ring, key) as client:
        for name in ("recent", "slowest", "failed"):
            listed = numbers(await client.get(f"/debug/requests?list={name}&limit=100"))
            assert all(number % 2 == own for number in listed), name
            assert listed or name == "failed"
        assert (await client.get(f"/debug/requests/req-{own:024x}")).status_code == 200
        others, none = [await client.get(f"/debug/requests/req-{n:024x}") for n in (1 - own, 500 + own)]
        assert others.status_code == none.status_code == 404
        told = [error_of(each)["message"] or "" for each in (others, none)]
        assert told[0].replace(f"{1 - own:024x}", "") == told[1].replace(f"{500 + own:024x}", "")
        status = msgspec.json.decode((await client.get("/debug/status")).content, type=ServerStatus)
        assert (
            {each.key for each in status.slowest} == {each.key for each in status.decisions} == {("alice", "bob")[own]}
        )


async def test_the_operator_sees_all_and_nobody_nothing(inference: WithWorkers, ring: KeyRing) -> None:
    async with asking(inference, ring, "operator") as client:
        assert len(numbers(await client.get("/debug/requests?limit=100"))) == 31
        assert (await client.get(f"/debug/requests/req-{1:024x}")).status_code == 200
    async with asking(inference, ring) as client:
        paths = ("/debug/status", "/debug/requests", "/debug/history", "/debug/balance", "/debug/custody")
        for path in (*paths, f"/debug/requests/req-{1:024x}"):
            assert (await client.get(path)).status_code == 401


async def test_the_status(inference: WithWorkers) -> None:
    inference.state = Readiness(False, "draining")
    inference.queued_requests = 5
    inference.recorder.in_flight = 7
    async with asking(inference, KeyRing()) as client:
        response = await client.get("/debug/status")
    status = msgspec.json.decode(response.content, type=ServerStatus)
    assert (status.version, status.models) == (VERSION, [MODEL])
    assert (status.ready, status.reason) == (False, "draining")
    assert (status.in_flight, status.queued_requests, status.max_queued_requests) == (7, 5, 8)
    assert status.workers == inference.workers()
    # As JSON, for the console and others: nobody computes these again.
    told = response.json()
    decode, prefill = (next(each for each in told["workers"] if each["role"] == role) for role in ("decode", "prefill"))
    assert decode["pool_share"] == told["pool_share"]["decode"] == 1 - 700 / 1024
    assert decode["tokens_per_s"] == pytest.approx(12 / 0.0152)
    assert prefill["tokens_per_s"] == 5400
    assert [each.request_id for each in status.slowest] == [f"req-{n:024x}" for n in range(IN_STATUS)]
    assert [each.request_id for each in status.decisions] == [f"req-{29 - n:024x}" for n in range(IN_STATUS)]
    assert (status.last_minute.num_answered, status.last_minute.num_failed) == (30, {"OVERLOADED": 1})


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/debug/status", "ServerStatus"),
        ("/debug/history", "ServerHistory"),
        ("/debug/balance", "Balance"),
        ("/debug/requests", "RequestList"),
        (f"/debug/requests/req-{1:024x}", "RequestRecord"),
    ],
)
async def test_answers_are_as_the_document_says(inference: WithWorkers, path: str, name: str) -> None:
    async with asking(inference, KeyRing()) as client:
        document: Any = (await client.get("/openapi.json")).json()
        answer = (await client.get(path)).json()
    schema = {**document, "$ref": f"#/components/schemas/{name}"}
    jsonschema.Draft202012Validator(schema).validate(answer)
    assert set(answer) == set(document["components"]["schemas"][name]["properties"])


async def test_the_ids_that_clients_hear_are_those_of_the_records() -> None:
    inference = FakeInference()
    async with asking(inference, KeyRing()) as client:
        for _ in range(2):
            await client.post("/v1/chat/completions", json={**QUESTION, "n": 3})
        refused = await client.post("/v1/chat/completions", json={**QUESTION, "model": "other"})
    ids = [asked.request_id for asked in inference.requests]
    assert len(set(ids)) == len(ids) == 7
    first = ids[0]
    assert first is not None
    assert ids[:3] == [first, f"{first}-1", f"{first}-2"]
    assert refused.headers["x-request-id"] == ids[-1]
