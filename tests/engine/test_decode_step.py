"""A decode step in one native call against the same step layer by layer, for every form of weights and of KV."""

from pathlib import Path

import pytest
import torch

from engine.cache import DTYPES, KVCache
from engine.checkpoint import ModelFolder
from engine.kernels import gemm
from engine.kernels.linear import INT8
from engine.models.decoder import Decoder
from engine.runner import Runner, load_decoder
from tests.reference import Blocks, greedy, load_reference, make_model, reference_logits, sequence_of, step

pytestmark = pytest.mark.skipif(not gemm.runs_here(INT8), reason="the kernels are for processors with AVX-512 and VNNI")

FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": 11},
    "qwen2": {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    "qwen3": {"attention_bias": True},
}
PROMPTS = [[1, 2, 3], [5] * 30, list(range(17)), [60]]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    path: Path = tmp_path_factory.mktemp(request.param)
    make_model(request.param, path, **FAMILIES[request.param])
    return ModelFolder.open(path)


def layered(decoder: Decoder) -> Decoder:
    decoder._native = None
    return decoder


def logits_after(decoder: Decoder, kv_dtype: str) -> torch.Tensor:
    """Of two decode steps of four sequences, `[2, S, V]`."""
    runner = Runner(decoder, KVCache(decoder.spec, 40, 4, dtype=kv_dtype))
    blocks, sequences = Blocks(runner), [sequence_of(str(n), prompt) for n, prompt in enumerate(PROMPTS)]
    step(runner, blocks, [(sequence, len(sequence.tokens)) for sequence in sequences])
    rows = []
    for token in (7, 8):
        for sequence in sequences:
            sequence.append(token)
        rows.append(torch.stack(list(step(runner, blocks, [(sequence, 1) for sequence in sequences]).values())))
    return torch.stack(rows)


@pytest.mark.parametrize("kv_dtype", DTYPES)
@pytest.mark.parametrize("quantize", [False, True])
def test_one_call_computes_what_the_layers_do(folder: ModelFolder, quantize: bool, kv_dtype: str) -> None:
    native = load_decoder(folder, quantize=quantize)
    assert native._native is not None
    there = logits_after(native, kv_dtype)

    by_layers = logits_after(layered(load_decoder(folder, quantize=quantize)), kv_dtype)

    torch.testing.assert_close(there, by_layers, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kv_dtype", "most"), [("float32", 1e-5), ("float16", 0.02), ("int8", 0.15)])
def test_narrow_kv_stays_close(folder: ModelFolder, kv_dtype: str, most: float) -> None:
    exact = logits_after(load_decoder(folder), "float32")

    assert (logits_after(load_decoder(folder), kv_dtype) - exact).abs().max() <= most


def test_int8_stays_close(folder: ModelFolder) -> None:
    exact, narrow = (logits_after(load_decoder(folder, quantize=quantize), "float32") for quantize in (False, True))

    assert (narrow - exact).norm() / exact.norm() < 0.1


def test_greedy_answers_with_narrow_kv_leave_transformers_only_where_it_is_nearly_indifferent(
    folder: ModelFolder,
) -> None:
    decoder = load_decoder(folder)
    answers = greedy(Runner(decoder, KVCache(decoder.spec, 60, 4, dtype="float16")), PROMPTS, 16, 9)

    model = load_reference(folder.path)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        logits = reference_logits(model, prompt + answer)[len(prompt) - 1 : -1]
        chosen = logits[torch.arange(len(answer)), torch.tensor(answer)]
        assert (logits.max(-1).values - chosen).max() < 0.05
