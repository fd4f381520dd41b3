"""Several models in every dialect: they are listed, each can be asked, and an answer says which model it is of."""

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import httpx
import pytest

from frontend.api import Readiness, WorkerStatus
from frontend.callers import KeyRing
from frontend.service import build_server
from protos import generate_pb2 as pb
from protos import generate_pb2_grpc
from protos import open_inference_pb2 as oip
from protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.frontend.fake_inference import MODEL, FakeInference
from tests.frontend.test_open_inference import asking
from tests.frontend.test_rest_app import rest_client
from tests.statuses import worker

OTHER = "org/other"
ASKED = [{"role": "user", "content": "hi"}]


class Two(FakeInference):
    """The second has a worker; where it `stands_in`, it answers whatever is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.names = [MODEL, OTHER]
        self.not_ready: set[str] = set()

    def readiness(self, model: str | None = None) -> Readiness:
        is_ready = self.model(model).name not in self.not_ready
        return Readiness(is_ready, "" if is_ready else "no decode worker is ready")

    def workers(self) -> list[WorkerStatus]:
        return [worker("decode-0", model=OTHER, max_sequences=3, running=1)]


@pytest.fixture
def inference() -> Two:
    return Two()


@pytest.fixture
async def client(inference: Two) -> AsyncIterator[httpx.AsyncClient]:
    async with rest_client(inference) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "headers", "names"),
    [
        ("/v1/models", {}, lambda body: [model["id"] for model in body["data"]]),
        ("/v1/models", {"anthropic-version": "2023-06-01"}, lambda body: [model["id"] for model in body["data"]]),
        ("/api/tags", {}, lambda body: [model["model"].removesuffix(":latest") for model in body["models"]]),
        ("/api/ps", {}, lambda body: [model["model"].removesuffix(":latest") for model in body["models"]]),
        ("/debug/status", {}, lambda body: [model["name"] for model in body["served"]]),
    ],
)
async def test_all_of_them_are_listed(
    client: httpx.AsyncClient, path: str, headers: dict[str, str], names: Any
) -> None:
    assert names((await client.get(path, headers=headers)).json()) == [MODEL, OTHER]


async def test_what_is_not_ready_is_not_loaded(inference: Two, client: httpx.AsyncClient) -> None:
    inference.not_ready = {OTHER}
    assert [each["name"] for each in (await client.get("/api/ps")).json()["models"]] == [f"{MODEL}:latest"]
    assert (await client.post("/api/generate", json={"model": OTHER})).status_code == 503
    assert (await client.post("/api/generate", json={"model": MODEL})).status_code == 200
    statuses = [(await client.get("/ready", params=asked)).status_code for asked in ({}, {"model": MODEL})]
    assert statuses == [200, 200]
    assert (await client.get("/ready", params={"model": OTHER})).json()["reason"] == "no decode worker is ready"
    assert (await client.get("/ready", params={"model": "nobody"})).status_code == 404


async def test_pages_of_one_model_are_the_defaults_or_the_one_that_is_named(client: httpx.AsyncClient) -> None:
    assert (await client.get("/info")).json()["model_id"] == MODEL
    assert (await client.get("/props")).json()["model_alias"] == MODEL
    assert (await client.get("/slots")).json() == []
    named = (await client.get("/props", params={"model": OTHER})).json()
    assert (named["model_alias"], named["total_slots"]) == (OTHER, 3)
    slots = (await client.get("/slots", params={"model": OTHER})).json()
    assert [slot["is_processing"] for slot in slots] == [True, False, False]
    assert (await client.get("/props", params={"model": "nobody"})).status_code == 404


CALLS = [
    ("/v1/chat/completions", {"messages": ASKED}),
    ("/v1/completions", {"prompt": "hi"}),
    ("/v1/responses", {"input": "hi"}),
    ("/v1/messages", {"messages": ASKED, "max_tokens": 9}),
    ("/completion", {"prompt": "hi"}),
    ("/api/generate", {"prompt": "hi", "stream": False}),
    ("/api/chat", {"messages": ASKED, "stream": False}),
]


@pytest.mark.parametrize(("path", "body"), CALLS, ids=[path for path, _ in CALLS])
@pytest.mark.parametrize("answers", [MODEL, OTHER])
async def test_an_answer_says_whose_it_is(
    inference: Two, client: httpx.AsyncClient, path: str, body: dict[str, Any], answers: str
) -> None:
    inference.answers = answers
    response = await client.post(path, json={"model": MODEL, **body})
    assert response.status_code == 200, response.text
    assert response.json()["model"] == answers
    (asked,) = inference.requests
    assert asked.model == MODEL


@pytest.mark.parametrize(("path", "body"), CALLS, ids=[path for path, _ in CALLS])
async def test_each_can_be_asked_and_nobody_else(
    inference: Two, client: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    inference.answers = OTHER
    response = await client.post(path, json={"model": OTHER, **body})
    assert response.json()["model"] == OTHER
    (asked,) = inference.requests
    assert asked.model == OTHER
    assert (await client.post(path, json={"model": "nobody", **body})).status_code == 404


async def test_ollama_tells_no_context_of_another_models_tokens(inference: Two, client: httpx.AsyncClient) -> None:
    asked = {"model": MODEL, "prompt": "hi", "stream": False}
    assert "context" in (await client.post("/api/generate", json=asked)).json()
    inference.answers = OTHER
    answer = (await client.post("/api/generate", json=asked)).json()
    assert "context" not in answer
    assert answer["response"] == "Hello!"


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
async def test_tgi_says_it_in_a_header(inference: Two, client: httpx.AsyncClient, path: str) -> None:
    inference.answers = OTHER
    response = await client.post(path, json={"inputs": "hi"})
    assert response.headers["x-tandem-model"] == OTHER
    assert (await client.post("/generate", json={"inputs": "hi", "parameters": {"details": True}})).status_code == 200
    inference.names, inference.answers = [MODEL, "größer 語"], "größer 語"
    response = await client.post(path, json={"inputs": "hi"})
    assert response.headers["x-tandem-model"] == "gr%C3%B6%C3%9Fer%20%E8%AA%9E"


async def test_over_grpc(inference: Two) -> None:
    inference.answers = OTHER
    inference.not_ready = {MODEL}
    server, _ = build_server(inference, keys=KeyRing(), max_message_bytes=2**24, version="1", max_resume_grace_s=1.0)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            ours = generate_pb2_grpc.InferenceStub(channel)  # type: ignore[no-untyped-call]
            theirs = GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
            listed = await ours.ListModels(pb.ListModelsRequest())
            assert [model.name for model in listed.models] == [MODEL, OTHER]
            answer = [event async for event in ours.Generate(pb.GenerateRequest(model=MODEL, text="hi"))]
            assert answer[0].started.model == OTHER
            assert (await theirs.ModelInfer(asking())).model_name == OTHER
            for name, is_ready in ((MODEL, False), (OTHER, True), ("nobody", False)):
                assert (await theirs.ModelReady(oip.ModelReadyRequest(name=name))).ready is is_ready
            metadata = await theirs.ModelMetadata(oip.ModelMetadataRequest(name=OTHER))
            assert metadata.name == OTHER
            assert not (await theirs.ServerReady(oip.ServerReadyRequest())).ready
    finally:
        await server.stop(None)
