"""What bounds a decode step: the weights that it reads, and a pool that attention really has to read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bench.memory import read_speed, weight_bytes
from bench.model import make_model
from engine.cache import DTYPES, KVCache
from engine.checkpoint import ModelFolder
from engine.kernels.prefill_attention import PrefillChunk, prefill_attention
from engine.models.families import model_spec
from engine.models.spec import ModelSpec

NUM_BLOCKS, BLOCK_TOKENS = 3, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("null"), "null")


@pytest.fixture(scope="module")
def spec(folder: Path) -> ModelSpec:
    return model_spec(ModelFolder.open(folder).config)


def test_a_step_reads_every_weight_but_the_embeddings(folder: Path, spec: ModelSpec) -> None:
    sizes = {name: tensor.nbytes for name, tensor in load_file(folder / "model.safetensors").items()}
    assert weight_bytes(spec, 4) == sum(sizes.values()) - sizes["model.embed_tokens.weight"]
    assert weight_bytes(spec, 1) * 4 == weight_bytes(spec, 4)
    assert weight_bytes(replace(spec, tied_embeddings=True), 4) == weight_bytes(spec, 4), "tied, they are the head"


def test_memory_is_read_at_some_speed() -> None:
    assert read_speed(torch.ones(256, 1024)) > 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_of_a_written_pool_is_one(spec: ModelSpec, dtype: str) -> None:
    cache = KVCache(spec, NUM_BLOCKS, BLOCK_TOKENS, dtype=dtype)
    cache.write_ones(NUM_BLOCKS)
    end = NUM_BLOCKS * BLOCK_TOKENS
    chunk = PrefillChunk(0, 1, end, np.arange(NUM_BLOCKS, dtype=np.int32), None)
    out = torch.empty(1, spec.query_size)
    for layer in range(spec.num_layers):
        prefill_attention(torch.ones(1, spec.query_size + 2 * spec.kv_size), cache.array, layer, chunk, out.fill_(0))
        torch.testing.assert_close(out, torch.ones_like(out))
