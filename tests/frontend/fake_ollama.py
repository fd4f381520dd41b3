"""A `FakeInference` whose model can do what Ollama's clients ask of models, and what its answers come in."""

import json
from dataclasses import replace
from typing import Any

import httpx

from engine.hub import DEMO_MODEL
from engine.models.families import model_spec
from frontend.api import ServedModel
from frontend.callers import ANYBODY, Caller
from tests.frontend.fake_inference import FakeInference

SWITCHED = "{% for m in messages %}{{ m.content }}{% endfor %}{% if not enable_thinking %}<think></think>{% endif %}"
SPEC = model_spec(json.loads((DEMO_MODEL / "config.json").read_text()))
ABLE: dict[str, Any] = {
    "chat_template": SWITCHED,
    "template_variables": frozenset({"messages", "enable_thinking"}),
    "calls_tools": True,
    "reasons": True,
    "spec": SPEC,
    "size_bytes": 1234,
}


class OllamaInference(FakeInference):
    """Its model has these `abilities`, by the names of ServedModel's fields."""

    def __init__(self, *args: Any, abilities: dict[str, Any] = ABLE, **scripts: Any) -> None:  # noqa: B006
        super().__init__(*args, **scripts)
        self.abilities = abilities

    def model(self, name: str | None, caller: Caller = ANYBODY) -> ServedModel:
        return replace(super().model(name, caller), **self.abilities)


async def whole(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Any:
    response = await client.post(path, json={**body, "stream": False})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    return response.json()


def error_of(response: httpx.Response) -> str:
    body = response.json()
    assert set(body) == {"error"}
    assert isinstance(body["error"], str)
    return str(body["error"])
