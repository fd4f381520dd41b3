"""Prompts as vectors, against transformers' last hidden states."""

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.batch import Batch, Chunk
from engine.cache import KVCache
from engine.checkpoint import ModelFolder
from engine.pooling import Pooled, Pooling
from engine.runner import Runner, load_decoder
from engine.tp.wire import pack_batch, unpack_batch
from tests.reference import Blocks, load_reference, make_model, sequence_of, step

TOKENS = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43]


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    make_model(request.param, path)
    return path


def runner_of(folder: Path) -> Runner:
    decoder = load_decoder(ModelFolder.open(folder))
    return Runner(decoder, KVCache(decoder.spec, 40, 4))


@torch.inference_mode()
def reference(folder: Path, tokens: list[int]) -> np.ndarray:
    """`[n, hidden size]`"""
    hidden = load_reference(folder).model(torch.tensor([tokens]), use_cache=False).last_hidden_state  # type: ignore[operator]
    return hidden[0].numpy()  # type: ignore[no-any-return]


def vector(pooled: Pooled | None) -> np.ndarray:
    assert pooled is not None
    return np.frombuffer(pooled.vector(), "<f4")


@pytest.mark.parametrize("chunks", [[13], [1] * 13, [5, 1, 7], [12, 1]])
@pytest.mark.parametrize("pooling", Pooling)
def test_a_vector_is_that_of_the_last_hidden_states_whatever_the_chunks(
    folder: Path, pooling: Pooling, chunks: list[int]
) -> None:
    runner = runner_of(folder)
    blocks, sequence = Blocks(runner), sequence_of("a", TOKENS)
    beside, plain = sequence_of("b", TOKENS[:4]), sequence_of("a", TOKENS)
    sequence.pooled = Pooled(pooling)
    for num_tokens in chunks:
        logits = step(runner, blocks, [(sequence, num_tokens), *([(beside, 4)] if not beside.num_computed else [])])
    expected = reference(folder, TOKENS)
    wanted = expected.mean(0) if pooling is Pooling.MEAN else expected[-1]
    assert np.abs(vector(sequence.pooled) - wanted).max() < 2e-4 * np.abs(wanted).max()
    assert beside.pooled is None
    same = step(runner, blocks, [(plain, len(TOKENS))])["a"]
    torch.testing.assert_close(logits["a"], same, rtol=1e-4, atol=1e-4)


def test_who_is_computed_anew_is_pooled_anew(folder: Path) -> None:
    runner = runner_of(folder)
    blocks, sequence = Blocks(runner), sequence_of("a", TOKENS)
    sequence.pooled = Pooled(Pooling.MEAN)
    step(runner, blocks, [(sequence, 6)])
    sequence.num_computed = 0  # as of one that was preempted
    step(runner, blocks, [(sequence, 13)])
    wanted = reference(folder, TOKENS).mean(0)
    assert np.abs(vector(sequence.pooled) - wanted).max() < 2e-4 * np.abs(wanted).max()


def test_other_ranks_hear_which_rows_are_pooled() -> None:
    sequence, other = sequence_of("a", TOKENS), sequence_of("b", TOKENS[:5])
    sequence.pooled = Pooled(Pooling.MEAN)
    sequence.blocks.extend(range(4))
    other.blocks.extend(range(4, 6))
    batch = Batch.build([Chunk(other, 4, 5), Chunk(sequence, 2, 9)], 4)
    assert batch.pooled_rows.tolist() == [1, 2, 3, 4, 5, 6, 7]
    again = unpack_batch(bytearray(pack_batch(batch)))
    assert again.kept_rows.tolist() == batch.kept_rows.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    again.pool(np.zeros((7, 3), np.float32))  # nobody's
