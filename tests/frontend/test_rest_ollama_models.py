"""What Ollama's clients are told of models and of the server, and what is not done here."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import httpx
import jsonschema
import pytest

from frontend.api import Readiness
from tests.frontend.fake_inference import MAX_CONTEXT, MODEL, FakeInference
from tests.frontend.fake_ollama import SPEC, SWITCHED, OllamaInference, error_of, whole
from tests.frontend.parsed_script import WEATHER, parsed, split
from tests.frontend.test_rest_app import rest_client


@pytest.fixture
def inference() -> OllamaInference:
    return OllamaInference()


@pytest.fixture
async def client(inference: OllamaInference) -> AsyncIterator[httpx.AsyncClient]:
    async with rest_client(inference) as client:
        yield client


async def test_models_are_listed_with_their_tag(client: httpx.AsyncClient) -> None:
    (model,) = (await client.get("/api/tags")).json()["models"]
    assert len(model.pop("digest")) == 64
    assert model == {
        "name": f"{MODEL}:latest",
        "model": f"{MODEL}:latest",
        "modified_at": "2023-11-14T22:13:20Z",
        "size": 1234,
        "details": {
            "parent_model": "",
            "format": "safetensors",
            "family": "llama",
            "families": ["llama"],
            "parameter_size": "4.95M",
            "quantization_level": "F16",
        },
        "capabilities": ["completion", "tools", "thinking"],
    }


async def test_loaded_models_are_those_that_would_answer(client: httpx.AsyncClient, inference: OllamaInference) -> None:
    (model,) = (await client.get("/api/ps")).json()["models"]
    assert model["name"] == f"{MODEL}:latest"
    assert model["context_length"] == MAX_CONTEXT
    assert datetime.fromisoformat(model["expires_at"]).year == 2300
    inference.state = Readiness(False, "draining")
    assert (await client.get("/api/ps")).json() == {"models": []}


@pytest.mark.parametrize("body", [{"model": MODEL}, {"name": f"{MODEL}:latest"}, {"model": MODEL, "verbose": False}])
async def test_what_is_shown_of_a_model(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    shown = (await client.post("/api/show", json=body)).json()
    assert shown["capabilities"] == ["completion", "tools", "thinking"]
    assert shown["template"] == SWITCHED
    assert shown["modelfile"] == f"FROM {MODEL}:latest\n"
    info = shown["model_info"]
    assert info["general.architecture"] == "llama"
    assert info["general.parameter_count"] == SPEC.num_parameters
    assert info["llama.context_length"] == MAX_CONTEXT
    assert info["llama.block_count"] == SPEC.num_layers


async def test_a_model_of_which_little_is_known_is_shown() -> None:
    async with rest_client(FakeInference()) as client:
        shown = (await client.post("/api/show", json={"model": MODEL})).json()
        assert shown["capabilities"] == ["completion"]
        assert shown["details"]["family"] == ""
        assert (await client.get("/api/tags")).status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [({"model": "other"}, 404), ({}, 400), ({"model": MODEL, "verbose": True}, 400), ({"modle": MODEL}, 400)],
)
async def test_what_cannot_be_shown(client: httpx.AsyncClient, body: dict[str, Any], status: int) -> None:
    response = await client.post("/api/show", json=body)
    assert response.status_code == status
    assert error_of(response)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/pull"),
        ("POST", "/api/push"),
        ("POST", "/api/create"),
        ("POST", "/api/copy"),
        ("DELETE", "/api/delete"),
        ("POST", "/api/blobs/sha256:00"),
    ],
)
async def test_what_is_not_done_here_says_so(client: httpx.AsyncClient, method: str, path: str) -> None:
    response = await client.request(method, path, json={"model": MODEL})
    assert response.status_code == 501
    assert error_of(response)
    assert response.headers["x-should-retry"] == "false"


async def test_no_blob_is_ever_here(client: httpx.AsyncClient) -> None:
    response = await client.head("/api/blobs/sha256:00")
    assert (response.status_code, response.content) == (404, b"")


# -- the page at / -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", ["*/*", "application/json", None])
async def test_programs_are_told_that_ollama_is_running(client: httpx.AsyncClient, accept: str | None) -> None:
    client.headers.pop("accept")
    headers = {"accept": accept} if accept else {}
    for method in ("GET", "HEAD"):
        response = await client.request(method, "/", headers=headers)
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/plain")
        assert "Accept" in response.headers["vary"].split(", ")
        assert response.text == ("Ollama is running" if method == "GET" else "")


async def test_heads_of_what_can_be_read(client: httpx.AsyncClient) -> None:
    for path in ("/api/tags", "/api/version"):
        assert (await client.head(path)).status_code == 200
    assert (await client.get("/api/version")).json()["version"].count(".") == 2


# -- what is written of it ---------------------------------------------------------------------------------------------


async def test_answers_are_as_they_are_documented(inference: OllamaInference) -> None:
    message = {"role": "user", "content": "hi"}
    chat = {"model": MODEL, "messages": [message], "logprobs": True, "top_logprobs": 1, "tools": [WEATHER]}
    text = '<think>Hm.</think><tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}}</tool_call>'
    inference.script = parsed(*split(text), reasoning="think")
    async with rest_client(inference) as client:
        document = (await client.get("/openapi.json")).json()
        answers = {
            "OllamaGenerateResponse": await whole(client, "/api/generate", {"model": MODEL, "prompt": "hi"}),
            "OllamaChatResponse": await whole(client, "/api/chat", chat),
            "OllamaModels": (await client.get("/api/tags")).json(),
            "OllamaLoadedModels": (await client.get("/api/ps")).json(),
            "OllamaShowResponse": (await client.post("/api/show", json={"model": MODEL})).json(),
            "OllamaVersion": (await client.get("/api/version")).json(),
            "OllamaError": (await client.post("/api/show", json={})).json(),
            "OllamaChatRequest": chat,
        }
    assert answers["OllamaChatResponse"]["message"]["tool_calls"]
    for name, answer in answers.items():
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema.validate(answer, schema, jsonschema.Draft202012Validator)
        assert set(answer) <= set(document["components"]["schemas"][name]["properties"])
    options = document["components"]["schemas"]["OllamaOptions"]
    assert options["properties"]["temperature"]["default"] == 0.8
    assert options["additionalProperties"] is False
