"""What needs no rival: the int8 checkpoint, and starting and ending a server."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.rivals.models import quantize, write_w8a8
from bench.rivals.servers import System, running
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
