"""Dialects by themselves: each has its own paths and words at its own place, and everything else stays where it was.

Over real sockets with the clients of each, and without, where the place is a matter of the request's address.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import httpx
import ollama
import pytest
from anthropic import AsyncAnthropic
from huggingface_hub import AsyncInferenceClient
from openai import AsyncOpenAI

from engine.errors import ConfigError, Unavailable
from frontend.__main__ import RestServer, rest_config
from frontend.api import Readiness
from frontend.callers import KeyRing
from frontend.mounts import NAMES, Mount
from frontend.rest.app import build_app
from frontend.rest.mounted import Mounted
from tests.frontend.fake_inference import MODEL, FakeInference, say
from tests.frontend.test_rest_openapi import refs
from tests.statuses import record

PORTS = {name: 9000 + number for number, name in enumerate(NAMES)}
MOUNTS = (
    *(Mount(name, port) for name, port in PORTS.items()),
    *(Mount(name, prefix=f"/as/{name}") for name in NAMES),
)
WHOLE = "http://test"
PLACES = [f"http://test:{port}" for port in PORTS.values()] + [f"{WHOLE}/as/{name}" for name in NAMES]
QUESTION = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


def app_of(
    inference: FakeInference,
    *mounts: Mount,
    api_key: str = "",
    max_body_bytes: int = 1 << 20,
    origins: tuple[str, ...] = (),
) -> Mounted:
    def build(mount: Mount | None = None) -> Any:
        return build_app(
            inference,
            keys=KeyRing(api_key),
            max_body_bytes=max_body_bytes,
            metrics=lambda: b"tandem_up 1\n",
            cors_origins=origins,
            mount=mount,
        )

    return Mounted(build(), mounts, lambda mount: build(mount))


def client_of(app: Mounted, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=WHOLE, **options)


@asynccontextmanager
async def served(inference: FakeInference, *names: str) -> AsyncIterator[Mapping[str, str]]:
    """URLs of dialects at ports of their own; of "whole", the server's."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in ("whole", *names)]
        ports = [listening.getsockname()[1] for listening in sockets]
        mounts = [Mount(name, port) for name, port in zip(names, ports[1:], strict=True)]
        app = app_of(inference, *mounts, *(Mount(name, prefix=f"/as/{name}") for name in names))
        server = RestServer(rest_config(app, None, app.errors_at))
        serving = asyncio.create_task(server.serve(sockets=sockets))
        try:
            yield {name: f"http://127.0.0.1:{port}" for name, port in zip(("whole", *names), ports, strict=True)}
        finally:
            server.should_exit = True
            await serving


# -- clients -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "/as/ollama"])
async def test_ollamas_client_has_a_port_or_a_prefix_of_its_own(below: str) -> None:
    async with served(FakeInference(), "ollama") as urls:
        client = ollama.AsyncClient(host=(urls["whole"] + below) if below else urls["ollama"])
        assert [model.model for model in (await client.list()).models] == [f"{MODEL}:latest"]
        answer = await client.chat(MODEL, [{"role": "user", "content": "hi"}])
        assert answer.message.content == "Hello!"
        parts = [part.message.content async for part in await client.chat(MODEL, QUESTION["messages"], stream=True)]  # type: ignore[call-overload]
        assert "".join(parts) == "Hello!"
        with pytest.raises(ollama.ResponseError, match="not found") as missing:
            await client.show("other")
        assert missing.value.status_code == 404


@pytest.mark.parametrize("below", ["", "/as/anthropic"])
async def test_anthropics_client_does(below: str) -> None:
    async with served(FakeInference(), "anthropic") as urls:
        url = (urls["whole"] + below) if below else urls["anthropic"]
        async with AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
            message = await client.messages.create(model=MODEL, max_tokens=16, messages=QUESTION["messages"])  # type: ignore[arg-type]
            assert [block.text for block in message.content if block.type == "text"] == ["Hello!"]
            assert [model.id async for model in await client.models.list()] == [MODEL]


@pytest.mark.parametrize("name", ["openai", "vllm", "ollama", "llamacpp", "tgi"])
async def test_openais_client_finds_its_paths_at_servers_that_have_them(name: str) -> None:
    async with (
        served(FakeInference(), name) as urls,
        AsyncOpenAI(base_url=f"{urls[name]}/v1", api_key="none", max_retries=0) as client,
    ):
        answer = await client.chat.completions.create(**QUESTION)  # type: ignore[call-overload]
        assert answer.choices[0].message.content == "Hello!"
        assert [model.id async for model in client.models.list()] == [MODEL]


async def test_hugging_faces_client_takes_a_server_of_tgis() -> None:
    async with served(FakeInference(), "tgi") as urls:
        client = AsyncInferenceClient(base_url=urls["tgi"])
        assert await client.text_generation("hi", max_new_tokens=8) == "Hello!"


# -- what is where -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def app() -> Mounted:
    inference = FakeInference()
    inference.recorder.add(record(1))
    return app_of(inference, *MOUNTS)


@pytest.fixture
async def client(app: Mounted) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app) as client:
        yield client


def at(name: str, path: str) -> list[str]:
    """Its URLs at both places of a dialect."""
    return [f"http://test:{PORTS[name]}{path}", f"{WHOLE}/as/{name}{path}"]


async def test_paths_that_dialects_share_are_each_ones_own(client: httpx.AsyncClient) -> None:
    for url in at("ollama", "/"):
        root = await client.get(url, headers={"accept": "text/html"})
        assert (root.status_code, root.text) == (200, "Ollama is running")
        assert (await client.head(url)).status_code == 200
    for path in ("/", "/health"):
        for url in at("tgi", path):
            healthy = await client.get(url)
            assert (healthy.status_code, healthy.content) == (200, b"")
    for url in at("vllm", "/health"):
        assert (await client.get(url)).content == b""
    for url in at("llamacpp", "/health"):
        assert (await client.get(url)).json() == {"status": "ok"}
    for url in at("anthropic", "/v1/models"):
        assert (await client.get(url)).json()["data"][0]["type"] == "model"
    for url in at("openai", "/v1/models"):
        assert (await client.get(url)).json()["data"][0]["object"] == "model"


async def test_health_is_readiness_where_a_servers_own_is() -> None:
    inference = FakeInference()
    inference.state = Readiness(False, "no decode worker is ready")
    client = client_of(app_of(inference, *MOUNTS))
    for name, path, body in (
        ("vllm", "/health", None),
        ("tgi", "/health", {"error": "unhealthy", "error_type": "healthcheck"}),
        ("tgi", "/", {"error": "unhealthy", "error_type": "healthcheck"}),
        (
            "llamacpp",
            "/health",
            {
                "error": {
                    "code": 503,
                    "message": "Loading model: no decode worker is ready",
                    "type": "unavailable_error",
                }
            },
        ),
    ):
        for url in at(name, path):
            answered = await client.get(url)
            assert answered.status_code == 503
            assert (answered.json() if answered.content else None) == body
    for url in (f"{WHOLE}/health", *at("ollama", "/"), *at("openai", "/health")):
        assert (await client.get(url)).status_code == 200
    for name in NAMES:
        for url in at(name, "/ready"):
            assert (await client.get(url)).status_code == 503


async def test_tokens_are_told_in_one_servers_words(client: httpx.AsyncClient) -> None:
    mine = {"vllm": {"prompt": "ab"}, "llamacpp": {"content": "ab"}, "tgi": {"inputs": "ab"}}
    for name in mine:
        for url in at(name, "/tokenize"):
            for other, body in mine.items():
                answered = await client.post(url, json=body)
                if name == other:
                    assert answered.status_code == 200
                else:
                    assert answered.status_code == (422 if name == "tgi" else 400)
                    assert told(answered) == WORDS[name]
    for name, key in (("vllm", "prompt"), ("llamacpp", "content")):
        for url in at(name, "/detokenize"):
            assert (await client.post(url, json={"tokens": [97, 98]})).json() == {key: "ab"}
    for url in at("vllm", "/invocations"):
        assert (await client.post(url, json={"inputs": "a"})).status_code == 400
        assert (await client.post(url, json=QUESTION)).json()["object"] == "chat.completion"


async def test_the_servers_own_port_keeps_what_it_had(client: httpx.AsyncClient) -> None:
    inference = FakeInference()
    inference.recorder.add(record(1))
    async with client_of(app_of(inference)) as plain:
        for path in (
            "/openapi.json",
            "/",
            "/health",
            "/v1/models",
            "/api/tags",
            "/info",
            "/debug/requests",
            "/nothing",
        ):
            mine, before = await client.get(path), await plain.get(path)
            assert (mine.status_code, mine.content) == (before.status_code, before.content), path
        for name in ("prompt", "content", "inputs"):
            assert (await client.post("/tokenize", json={name: "a"})).status_code == 200


@pytest.mark.parametrize("name", NAMES)
async def test_what_is_others_is_not_there(client: httpx.AsyncClient, name: str) -> None:
    paths = {
        "/api/tags": {"ollama"},
        "/props": {"llamacpp"},
        "/info": {"tgi"},
        "/version": {"vllm"},
        "/debug/custody": set(),
        "/debug/status": set(),
    }
    for path, owners in paths.items():
        for url in at(name, path):
            assert (await client.get(url)).status_code == (200 if name in owners else 404), url


# -- errors ------------------------------------------------------------------------------------------------------------

WORDS = {
    "openai": ("error.message", "error.type"),
    "vllm": ("error.message", "error.type"),
    "tgi": ("error", "error_type"),
    "ollama": ("error",),
    "anthropic": ("error.message", "error.type", "type"),
    "llamacpp": ("error.code", "error.message", "error.type"),
}


def told(response: httpx.Response) -> tuple[str, ...]:
    """In whose words an error is: which of the fields it has by which dialects differ."""
    body = response.json()
    error = body["error"]
    if isinstance(error, str):
        return tuple(sorted(body))
    found = [f"error.{name}" for name in error if name != "code" or isinstance(error["code"], int)]
    return tuple(sorted({*found, *body} - {"error", "error.param", "request_id"}))


@pytest.mark.parametrize("name", NAMES)
async def test_errors_of_no_path_or_method_or_size_are_in_its_words(name: str) -> None:
    post = {"ollama": "/api/chat", "tgi": "/generate", "anthropic": "/v1/messages", "llamacpp": "/completion"}
    path = post.get(name, "/v1/chat/completions")
    mounts = [mount for mount in MOUNTS if mount.dialect == name]
    async with client_of(app_of(FakeInference(), *mounts, api_key="secret", max_body_bytes=1000)) as client:
        key = {"authorization": "Bearer secret"}
        for url, missing, taken in zip(at(name, path), at(name, "/nothing"), at(name, "/openapi.json"), strict=True):
            unknown = await client.get(missing, headers=key)
            assert (unknown.status_code, told(unknown)) == (404, WORDS[name])
            wrong = await client.delete(url, headers=key)
            assert (wrong.status_code, told(wrong)) == (405, WORDS[name])
            assert wrong.headers["allow"] == "POST"
            for where in (url, missing):
                keyless = await client.post(where, json={})
                assert (keyless.status_code, told(keyless)) == (401, WORDS[name])
            large = await client.post(url, content=b"x" * 1001, headers=key)
            assert (large.status_code, told(large)) == (413, WORDS[name])
            assert large.headers["x-request-id"]
            assert (await client.get(taken)).status_code == 200  # read without a key, as everywhere


async def test_what_is_not_http_is_refused_in_the_words_of_the_port() -> None:
    async with served(FakeInference(), *NAMES) as urls:
        for name in NAMES:
            url = httpx.URL(urls[name])
            reader, writer = await asyncio.open_connection(url.host, url.port)
            writer.write(b"\x00\xff garbage\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400 ")
            answered = httpx.Response(400, content=await reader.read())
            assert told(answered) == WORDS[name]
            writer.close()


async def test_streams_that_fail_say_so_in_its_words() -> None:
    script = [*say("a")[:1], Unavailable("gone")]
    mounts = [mount for mount in MOUNTS if mount.dialect == "ollama"]
    async with client_of(app_of(FakeInference(script), *mounts)) as client:
        for url in at("ollama", "/api/chat"):
            answered = await client.post(url, json=QUESTION)
            assert json.loads(answered.text.splitlines()[-1]) == {"error": "gone"}
        for url in at("ollama", "/v1/chat/completions"):
            answered = await client.post(url, json={**QUESTION, "stream": True})
            assert answered.text.endswith("data: [DONE]\n\n")


# -- documents, keys, pages from elsewhere -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
async def test_the_document_says_what_is_there(client: httpx.AsyncClient, name: str) -> None:
    documents = [(await client.get(url)).json() for url in at(name, "/openapi.json")]
    assert [document.get("servers") for document in documents] == [None, [{"url": f"/as/{name}"}]]
    document = documents[0]
    assert {**documents[1], "servers": None} == {**document, "servers": None}
    assert refs(document) <= {f"#/components/schemas/{schema}" for schema in document["components"]["schemas"]}
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            is_kept = path.startswith("/v1/responses/{id}")
            filled = path.replace("{id}", "resp_1" if is_kept else MODEL)
            for url in at(name, filled):
                answered = await client.request(verb, url)
                expected = {400, 422} if "requestBody" in operation else {404} if is_kept else {200}
                assert answered.status_code in expected, (verb, url, answered.text)
                assert str(answered.status_code) in operation["responses"], (verb, url)


async def test_every_place_asks_for_the_key() -> None:
    async with client_of(app_of(FakeInference(), *MOUNTS, api_key="secret")) as client:
        for place in (WHOLE, *PLACES):
            document = (await client.get(f"{place}/openapi.json")).json()
            for path, verbs in document["paths"].items():
                for verb, operation in verbs.items():
                    needs_key = operation.get("security", document["security"]) != []
                    url = place + path.replace("{id}", MODEL).replace("{request_id}", "req-1")
                    assert ((await client.request(verb, url)).status_code == 401) == needs_key, (verb, url)


async def test_pages_from_elsewhere_may_ask_at_every_place() -> None:
    page = "https://page.example"
    async with client_of(app_of(FakeInference(), *MOUNTS, origins=(page,))) as client:
        for place in (WHOLE, *PLACES):
            headers = {"origin": page, "access-control-request-method": "POST"}
            assert (await client.options(f"{place}/v1/models", headers=headers)).status_code == 200


# -- places that cannot be ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["/v1", "/v1/anthropic", "/api", "/debug/x", "/docs", "/health", "/generate"])
def test_a_prefix_may_not_begin_as_the_servers_own_paths_do(prefix: str) -> None:
    with pytest.raises(ConfigError, match=f"--mount anthropic={prefix}: this server has /{prefix.split('/')[1]}"):
        app_of(FakeInference(), Mount("anthropic", prefix=prefix))


async def test_what_only_begins_like_a_prefix_is_not_below_it() -> None:
    async with client_of(app_of(FakeInference(), Mount("ollama", prefix="/ollama"))) as client:
        assert (await client.get("/ollama")).text == "Ollama is running"
        assert (await client.get("/ollama/")).text == "Ollama is running"
        assert (await client.get("/ollamas/api/tags")).status_code == 404
        assert (await client.get("/ollama/ollama/api/tags")).status_code == 404
