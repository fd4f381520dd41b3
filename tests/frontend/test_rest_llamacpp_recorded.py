"""Answers have the keys, and errors the kind, of those that llama.cpp's own server gave to the same requests."""

import json
from typing import Any

import httpx
import pytest

from tests.frontend.fake_inference import FakeInference
from tests.frontend.llamacpp_recorded import RECORDED, Request
from tests.frontend.test_rest_app import rest_client

LACKING = {
    "props": {
        "chat_template_caps",
        "cors_proxy_enabled",
        "media_marker",
        "model_ftype",
        "ui",
        "ui_settings",
    },
}
"""Keys that Tandem leaves out, by answer; what is in them is left out with them."""


def keys(value: Any, prefix: str = "") -> set[str]:
    """Of all objects in `value`, as paths; of the objects in a list, of the first."""
    match value:
        case dict():
            paths = {f"{prefix}{name}" for name in value}
            return paths.union(*(keys(each, f"{prefix}{name}.") for name, each in value.items()))
        case [first, *_]:
            return keys(first, prefix)
        case _:
            return set()


async def ask(client: httpx.AsyncClient, request: Request) -> httpx.Response:
    method, path, body = request
    return await client.request(method, path, json=body) if body is not None else await client.request(method, path)


def document(response: httpx.Response, part: int | None) -> Any:
    """The JSON of an answer, or of one event of a stream."""
    if part is None:
        return response.json()
    events = response.text.removesuffix("\n\n").split("\n\n")
    return json.loads(events[part].removeprefix("data: "))


@pytest.mark.parametrize("name", RECORDED.answers)
async def test_answers_have_the_keys_of_llama_cpps(name: str) -> None:
    recorded = RECORDED.answers[name]
    lacking = LACKING.get(name, set())
    async with rest_client(FakeInference()) as client:
        response = await ask(client, recorded["request"])
        assert response.status_code == 200, response.text
        assert keys(document(response, recorded["event"])) == {
            path
            for path in recorded["keys"]
            if not any(path == left or path.startswith(f"{left}.") for left in lacking)
        }


@pytest.mark.parametrize("name", RECORDED.errors)
async def test_errors_are_those_of_llama_cpp(name: str) -> None:
    recorded = RECORDED.errors[name]
    async with rest_client(FakeInference()) as client:
        response = await ask(client, recorded["request"])
        error = response.json()["error"]
        assert (response.status_code, error["type"]) == (recorded["status"], recorded["type"])
        assert error["code"] == response.status_code
        assert error["message"]
