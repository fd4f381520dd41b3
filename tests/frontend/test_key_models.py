"""A key that is for some models only learns nothing of the others, whatever it asks and of whichever dialect."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest

from frontend.callers import KeyRing
from frontend.rest.app import build_app
from frontend.service import build_server
from protos import generate_pb2 as pb
from protos import open_inference_pb2 as open_pb
from protos.generate_pb2_grpc import InferenceStub
from protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.frontend.fake_inference import MODEL, FakeInference
from tests.frontend.test_callers import entry, key_file

OTHER = "other"
USER = {"role": "user", "content": "hi"}
KEY = {"authorization": "Bearer k1"}

POSTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": MODEL, "messages": [USER]},
    "/v1/completions": {"model": MODEL, "prompt": "hi"},
    "/v1/responses": {"model": MODEL, "input": "hi"},
    "/v1/responses/input_tokens": {"model": MODEL, "input": "hi"},
    "/v1/embeddings": {"model": MODEL, "input": "hi"},
    "/v1/messages": {"model": MODEL, "messages": [USER], "max_tokens": 1},
    "/v1/messages/count_tokens": {"model": MODEL, "messages": [USER]},
    "/api/generate": {"model": MODEL, "prompt": "hi"},
    "/api/chat": {"model": MODEL, "messages": [USER]},
    "/api/show": {"model": MODEL},
    "/api/embed": {"model": MODEL, "input": "hi"},
    "/api/embeddings": {"model": MODEL, "prompt": "hi"},
    "/completion": {"prompt": "hi"},
    "/embedding": {"content": "hi"},
    "/apply-template": {"messages": [USER]},
    "/generate": {"inputs": "hi"},
    "/generate_stream": {"inputs": "hi"},
    "/": {"inputs": "hi"},
    "/detokenize": {"tokens": [104]},
    "/invocations": {"model": MODEL, "messages": [USER]},
}
TOKENIZED: tuple[dict[str, Any], ...] = (
    {"prompt": "hi"},
    {"prompt": "hi", "model": MODEL},
    {"messages": [USER]},
    {"content": "hi"},
    {"content": "hi", "with_pieces": True},
    {"inputs": "hi"},
)


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing("operator", key_file(tmp_path / "keys", entry("one", "k1", f'models = ["{OTHER}"]')))


@pytest.fixture
def inference() -> FakeInference:
    found = FakeInference()
    found.names = [MODEL, OTHER]
    return found


@pytest.fixture
async def client(inference: FakeInference, ring: KeyRing) -> AsyncIterator[httpx.AsyncClient]:
    app = build_app(inference, keys=ring, max_body_bytes=1 << 20, metrics=lambda: b"")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers=KEY) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "body"), [*POSTS.items(), *(("/tokenize", body) for body in TOKENIZED)], ids=lambda given: str(given)
)
async def test_no_post_is_answered(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == 403, response.text
    operator = await client.post(path, json=body, headers={"authorization": "Bearer operator"})
    assert operator.status_code != 403, operator.text


@pytest.mark.parametrize("path", [f"/v1/models/{MODEL}", "/props", "/slots", "/info", "/tokenizer_info"])
async def test_no_page_tells_of_it(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 403
    assert (await client.get(path, headers={"authorization": "Bearer operator"})).status_code == 200


async def test_lists_leave_it_out(client: httpx.AsyncClient) -> None:
    for headers in ({}, {"anthropic-version": "2023-06-01"}):
        listed = (await client.get("/v1/models", headers=headers)).json()
        assert [model["id"] for model in listed["data"]] == [OTHER]
    for path in ("/api/tags", "/api/ps"):
        assert [model["name"] for model in (await client.get(path)).json()["models"]] == [f"{OTHER}:latest"]


async def test_its_own_is_answered_as_ever(client: httpx.AsyncClient) -> None:
    assert (await client.get(f"/v1/models/{OTHER}")).status_code == 200
    assert (await client.post("/tokenize", json={"prompt": "hi", "model": OTHER})).status_code == 200
    assert (await client.post("/api/show", json={"model": f"{OTHER}:latest"})).status_code == 200


async def test_grpc_calls_are_refused(inference: FakeInference, ring: KeyRing) -> None:
    server, _ = build_server(inference, keys=ring, max_message_bytes=1 << 20, version="1.2.3")
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            ours: Any = InferenceStub(channel)  # type: ignore[no-untyped-call]
            theirs: Any = GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
            calls: list[tuple[Callable[..., Awaitable[object]], object]] = [
                (ours.Tokenize, pb.TokenizeRequest(text="hi")),
                (ours.Detokenize, pb.DetokenizeRequest(token_ids=[104])),
                (ours.Embed, pb.EmbedRequest(text="hi")),
                (theirs.ModelMetadata, open_pb.ModelMetadataRequest(name=MODEL)),
                (theirs.ModelReady, open_pb.ModelReadyRequest(name=MODEL)),
                (theirs.ModelInfer, open_pb.ModelInferRequest(model_name=MODEL)),
            ]
            for call, request in calls:
                with pytest.raises(grpc.aio.AioRpcError) as failure:
                    await call(request, metadata=tuple(KEY.items()))
                assert failure.value.code() is grpc.StatusCode.PERMISSION_DENIED, call
            listed = await ours.ListModels(pb.ListModelsRequest(), metadata=tuple(KEY.items()))
            assert [model.name for model in listed.models] == [OTHER]
    finally:
        await server.stop(None)
