"""What llama.cpp's clients ask of a server besides answers."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from frontend.api import WorkerStatus
from frontend.tally import Counts
from tests.frontend.fake_inference import MAX_CONTEXT, MODEL, FakeInference
from tests.frontend.llamacpp_recorded import RECORDED
from tests.frontend.test_rest_app import rest_client
from tests.frontend.test_rest_llamacpp import error_of

MESSAGES = [{"role": "user", "content": "hi"}]


def worker(role: str = "decode", *, running: int = 0, max_sequences: int = 2, ready: bool = True) -> WorkerStatus:
    return WorkerStatus(
        worker_id="w",
        role=role,
        address="",
        model=MODEL,
        ready=ready,
        num_blocks=8,
        free_blocks=8,
        cached_blocks=0,
        promised_blocks=0,
        leaked_blocks=0,
        block_tokens=16,
        running=running,
        queued=0,
        max_sequences=max_sequences,
        counts=Counts(),
    )


class Fleet(FakeInference):
    def __init__(self) -> None:
        super().__init__()
        self.fleet = [worker(running=1), worker("prefill"), worker(ready=False), worker()]

    def workers(self) -> list[WorkerStatus]:
        return self.fleet


@pytest.fixture
def inference() -> Fleet:
    return Fleet()


@pytest.fixture
async def client(inference: Fleet) -> AsyncIterator[httpx.AsyncClient]:
    async with rest_client(inference) as client:
        yield client


async def test_properties(client: httpx.AsyncClient) -> None:
    props = (await client.get("/props")).json()
    assert (props["model_alias"], props["total_slots"], props["is_sleeping"]) == (MODEL, 4, False)
    assert props["default_generation_settings"]["n_ctx"] == MAX_CONTEXT
    defaults = props["default_generation_settings"]["params"]
    answer = (await client.post("/completion", json={"prompt": "hi"})).json()["generation_settings"]
    assert {name: answer[name] for name in defaults} | {"seed": None} == defaults | {"seed": None}


async def test_properties_cannot_be_changed(client: httpx.AsyncClient) -> None:
    response = await client.post("/props", json={})
    assert (response.status_code, error_of(response)["type"]) == (501, "not_supported_error")


async def test_slots_are_room_on_decode_workers(client: httpx.AsyncClient, inference: Fleet) -> None:
    slots = (await client.get("/slots?fail_on_no_slot=1")).json()
    assert [slot["is_processing"] for slot in slots] == [True, False, False, False]
    assert [slot["id"] for slot in slots] == [0, 1, 2, 3]
    assert {slot["n_ctx"] for slot in slots} == {MAX_CONTEXT}
    assert set(slots[0]) <= set(RECORDED.slot_keys)
    inference.fleet = [worker(running=3)]
    response = await client.get("/slots?fail_on_no_slot=1")
    assert (response.status_code, error_of(response)["type"]) == (503, "unavailable_error")
    assert len((await client.get("/slots")).json()) == 2


async def test_slots_are_not_saved(client: httpx.AsyncClient) -> None:
    response = await client.post("/slots/0?action=save", json={})
    assert (response.status_code, error_of(response)["type"]) == (501, "not_supported_error")


@pytest.mark.parametrize("path", ["/embedding", "/embeddings"])
@pytest.mark.parametrize("name", ["content", "input"])
async def test_texts_become_vectors(client: httpx.AsyncClient, path: str, name: str) -> None:
    one = (await client.post(path, json={name: "hi"})).json()
    assert one == [{"index": 0, "embedding": [pytest.approx([0.6, -0.8])]}]
    body = {name: ["hi", "there"], "embd_normalize": -1, "model": "any"}
    many = (await client.post(path, json=body)).json()
    assert many == [{"index": i, "embedding": [[3.0, -4.0]]} for i in (0, 1)]


@pytest.mark.parametrize(
    "body",
    [{}, {"content": "a", "input": "a"}, {"content": ""}, {"content": [1, "a"]}, {"content": "a", "embd_normalize": 1}],
)
async def test_what_is_wrong_with_a_request_for_vectors_is_said(
    client: httpx.AsyncClient, body: dict[str, object]
) -> None:
    response = await client.post("/embedding", json=body)
    assert (response.status_code, error_of(response)["type"]) == (400, "invalid_request_error")


async def test_there_are_no_adapters(client: httpx.AsyncClient) -> None:
    assert (await client.get("/lora-adapters")).json() == []
    assert (await client.post("/lora-adapters", json=[])).json() == {"success": True}
    some = await client.post("/lora-adapters", json=[{"id": 0, "scale": 1}])
    assert (some.status_code, error_of(some)["type"]) == (400, "invalid_request_error")
    for body in (b"{}", b"[", b"[" * 10_000):
        wrong = await client.post("/lora-adapters", content=body)
        assert (wrong.status_code, error_of(wrong)["type"]) == (400, "invalid_request_error")


async def test_a_model_that_cannot_infill_says_so(client: httpx.AsyncClient) -> None:
    response = await client.post("/infill", json={"input_prefix": "a", "input_suffix": "b"})
    assert (response.status_code, error_of(response)["type"]) == (501, "not_supported_error")


async def test_templates_are_applied(client: httpx.AsyncClient, inference: Fleet) -> None:
    for body in ({"messages": MESSAGES}, {"messages": MESSAGES, "model": MODEL}):
        assert (await client.post("/apply-template", json=body)).json() == {"prompt": "user:hi\n"}
    assert not inference.requests
    response = await client.post("/apply-template", json={})
    assert (response.status_code, error_of(response)["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("model", [{}, {"model": MODEL}, {"model": None}])
async def test_conversations_are_openais(client: httpx.AsyncClient, model: dict[str, Any]) -> None:
    body = {**model, "messages": MESSAGES, "seed": 1}
    here = (await client.post("/chat/completions", json=body)).json()
    there = (await client.post("/v1/chat/completions", json={**body, "model": MODEL})).json()
    for answer in (here, there):
        del answer["id"], answer["created"]
    assert here == there
    streamed = await client.post("/chat/completions", json={**body, "stream": True})
    *events, done, _ = streamed.text.split("\n\n")
    assert done == "data: [DONE]"
    said = [json.loads(event.removeprefix("data: "))["choices"][0]["delta"].get("content") for event in events]
    assert "".join(filter(None, said)) == "Hello!"
    wrong = await client.post("/chat/completions", json={**body, "temperature": 9})
    assert "temperature" in error_of(wrong)["message"]


async def test_paths_that_others_have_too(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/health")).json() == (await client.get("/health")).json() == {"status": "ok"}
    assert (await client.get("/models")).json() == (await client.get("/v1/models")).json()


async def test_health_is_public_and_the_rest_is_not() -> None:
    async with rest_client(FakeInference(), api_key="key") as client:
        assert (await client.get("/v1/health")).status_code == 200
        for path in ("/props", "/slots", "/lora-adapters", "/models"):
            response = await client.get(path)
            assert (response.status_code, error_of(response)["type"]) == (401, "authentication_error")
