"""What needs no rival: the int8 checkpoint, starting and ending a server, choosing systems and taking turns."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.rivals.goodput import highest
from bench.rivals.models import quantize, write_w8a8
from bench.rivals.results import Results, Sample
from bench.rivals.servers import TRANSFORMERS_SERVE, Server, System, running, transformers
from bench.rivals.session import choose, in_turn
from bench.rivals.throughput import read_vllm
from engine.errors import ConfigError, Unavailable

ANSWERS = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(200)
        self.end_headers()
HTTPServer(("127.0.0.1", {port}), Handler).serve_forever()
"""


def test_int8_weights_are_within_half_a_step() -> None:
    weight = torch.randn(5, 7)
    weight[2] = 0
    quantized, scale = quantize(weight)
    assert quantized.dtype == torch.int8
    assert scale.shape == (5, 1)
    assert ((quantized * scale - weight).abs() <= scale / 2 + 1e-6).all()


def test_only_projections_become_int8(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    names = ("model.layers.0.self_attn.q_proj.weight", "lm_head.weight")
    save_file({name: torch.randn(4, 4) for name in names}, source / "model.safetensors")
    (source / "config.json").write_text('{"model_type": "llama"}')
    out = write_w8a8(source, tmp_path / "out")
    types = {name: tensor.dtype for name, tensor in load_file(out / "model.safetensors").items()}
    assert types == {names[0]: torch.int8, f"{names[0]}_scale": torch.float32, names[1]: torch.float32}
    assert json.loads((out / "config.json").read_text())["quantization_config"]["format"] == "int-quantized"


def test_a_server_runs_until_its_block_ends() -> None:
    with running(System("fake", (sys.executable, "-c", ANSWERS))) as server:
        os.kill(server.pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


def test_a_server_that_does_not_start_shows_its_log() -> None:
    with (
        pytest.raises(Unavailable, match="out of luck"),
        running(System("fake", (sys.executable, "-c", "exit('out of luck')"))),
    ):
        pass


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="not installed"), running(System("fake", ("/nonexistent/server",))):
        pass


@pytest.mark.parametrize(("limit", "found"), [(5.3, 5.0), (2.0, 2.0), (0.3, 0.28125), (0.0, 0.0), (1e9, 120.0)])
def test_the_search_ends_just_below_the_highest_good_rate(limit: float, found: float) -> None:
    tried = []

    def good(rate: float) -> bool:
        tried.append(rate)
        return rate <= limit

    assert highest(good, 2.0, 3) == pytest.approx(found)
    assert len(tried) == len(set(tried)), "no rate is tried twice"


def test_tables_hold_medians_spreads_and_ratios() -> None:
    results = Results("test")
    for number, (ours, theirs) in enumerate([(10.0, 4.0), (30.0, 6.0), (20.0, 5.0)]):
        results.add(Sample("tandem f32", "1 stream", number, {"tok/s": ours, "failed": ""}))
        results.add(Sample("vllm f32", "1 stream", number, {"tok/s": theirs}))
    assert results.table("tok/s").splitlines()[2:] == ["| tandem f32 | 20 (10-30) |", "| vllm f32 | 5 (4-6) |"]
    assert results.ratios("tok/s", ["tandem f32"], ["vllm f32"]) == "1 stream: tandem f32 4.00 x vllm f32"
    assert results.wide_table("1 stream", {"tok/s": 1}).splitlines()[3] == "| vllm f32 | 5.0 (4.0-6.0) |"


def test_the_file_of_vllms_client_is_read() -> None:
    written = {"output_throughput": 7.5, "median_ttft_ms": 1.0, "median_tpot_ms": 2.0, "num_prompts": 3, "completed": 2}
    assert read_vllm(json.dumps(written)) == {
        "output tok/s": 7.5,
        "median TTFT ms": 1.0,
        "median TPOT ms": 2.0,
        "failed": "1",
    }


def test_systems_keep_their_order_whatever_is_asked_for() -> None:
    systems = [System(name, ()) for name in ("tandem f32 unified", "vllm f32", "llama.cpp f32")]
    groups = [systems[:1], systems[1:]]
    assert choose(groups, []) == groups
    assert choose(groups, ["llama.cpp f32", "tandem f32 unified"]) == [[systems[0]], [systems[2]]]
    assert choose(groups, ["vllm f32"]) == [[systems[1]]]


def test_a_system_that_is_unknown_is_told_with_those_that_are_known() -> None:
    systems = [System("tandem f32 unified", ()), System("vllm f32", ())]
    with pytest.raises(ConfigError, match="named vllm f23; there are: tandem f32 unified, vllm f32$"):
        choose([systems], ["vllm f32", "vllm f23"])


def test_each_round_begins_with_another_server() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as process:
        servers = [Server(name, "", process.pid) for name in "abc"]
        orders = ["".join(server.name for server in in_turn(servers, number)) for number in range(4)]
        process.kill()
    assert orders == ["abc", "bca", "cab", "abc"]
    assert list(in_turn([], 1)) == []


class Completions:
    """As much of transformers' handler as ours calls: it keeps what it is asked, and answers with one event."""

    async def handle_request(self, body: dict[str, Any], request_id: str) -> SimpleNamespace:
        _, _, tokenizer = self._resolve_model(body)
        return SimpleNamespace(asked=body, ids=tokenizer(body["prompt"])["input_ids"], body_iterator=self._events())

    def _resolve_model(self, body: dict[str, Any]) -> tuple[str, None, Any]:
        class Words:
            _tokenizer = None

            def __call__(self, text: str) -> dict[str, list[str]]:
                return {"input_ids": text.split()}

        return "folder", None, Words()

    async def _events(self) -> AsyncIterator[str]:
        yield "data: {}\n\n"


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What stands in for transformers' handler once our program has run."""
    names = ("transformers", "transformers.cli", "transformers.cli.serving", "transformers.cli.transformers")
    modules = {name: ModuleType(name) for name in names}
    completion = SimpleNamespace(CompletionHandler=Completions)
    manager = SimpleNamespace(ModelManager=SimpleNamespace())
    vars(modules["transformers.cli.serving"]).update(completion=completion, model_manager=manager)
    vars(modules["transformers.cli.transformers"]).update(main=lambda: None)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    exec(TRANSFORMERS_SERVE, {})
    assert [model["id"] for model in manager.ModelManager.get_gen_models()] == ["bench"]
    return completion.CompletionHandler()


async def test_transformers_is_asked_for_token_ids_and_a_length_and_ends_its_streams(handler: Any) -> None:
    body = {"model": "bench", "prompt": [3, 4], "max_tokens": 5, "ignore_eos": True, "stream": True}
    answer = await handler.handle_request(body, "id")
    assert answer.asked == {
        "prompt": "[3, 4]",
        "max_tokens": 5,
        "stream": True,
        "generation_config": '{"eos_token_id": -1}',
    }
    assert answer.ids == [3, 4]
    assert [event async for event in answer.body_iterator] == ["data: {}\n\n", "data: [DONE]\n\n"]


async def test_transformers_is_asked_for_text_as_it_is(handler: Any) -> None:
    answer = await handler.handle_request({"model": "bench", "prompt": "a b"}, "id")
    assert answer.ids == ["a", "b"]
    assert [event async for event in answer.body_iterator] == ["data: {}\n\n"]


def test_transformers_batches_on_the_cpu_in_float32_without_a_network() -> None:
    system = transformers(Path("/model"), 7)
    options = " ".join(system.command[3:])
    assert options.startswith("serve /model --device cpu --dtype float32")
    assert "--continuous-batching --cb-num-blocks 7" in options
    assert system.environment["HF_HUB_OFFLINE"] == "1"
