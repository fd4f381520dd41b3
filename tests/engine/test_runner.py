"""The runner and its cache: bytes of blocks, borrowed memory, warm-up and types."""

from pathlib import Path

import pytest
import torch

from engine.batch import Batch, Chunk
from engine.cache import KVCache, block_size_bytes, layout_fingerprint
from engine.checkpoint import ModelFolder
from engine.errors import ConfigError
from engine.models.spec import ModelSpec
from engine.runner import Runner, compute_dtype, load_decoder
from tests.reference import Blocks, greedy, make_model, sequence_of, step

PROMPT = [5, 17, 3, 80, 41, 2, 66, 9, 12]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    path = tmp_path_factory.mktemp("model")
    make_model("llama", path)
    return ModelFolder.open(path)


@pytest.fixture
def runner(folder: ModelFolder) -> Runner:
    decoder = load_decoder(folder)
    return Runner(decoder, KVCache(decoder.spec, num_blocks=12, block_tokens=4))


def test_a_block_is_one_run_of_bytes_that_carries_a_sequence_to_another_worker(
    runner: Runner, folder: ModelFolder
) -> None:
    other = Runner(load_decoder(folder), KVCache(runner.spec, num_blocks=20, block_tokens=4))
    sequence, blocks = sequence_of("a", PROMPT), Blocks(runner)
    step(runner, blocks, [(sequence, 8)])
    target = [19, 7, 3]
    for source, block in zip(sequence.blocks, target, strict=False):
        other.cache.block_view(block)[:] = runner.cache.block_view(source)

    moved = sequence_of("a", PROMPT)
    moved.blocks.extend(target)
    moved.num_computed = 8
    here, there = step(runner, blocks, [(sequence, 1)]), step(other, Blocks(other), [(moved, 1)])

    assert torch.equal(here[sequence.id], there[moved.id])


def test_block_views_write_through(runner: Runner) -> None:
    cache = runner.cache
    view = cache.block_view(3)

    view[:] = bytes([1]) * cache.block_bytes

    assert view.nbytes == cache.block_bytes == block_size_bytes(runner.spec, 4) == cache.pool[3].nbytes
    assert cache.size_bytes == cache.pool.nbytes
    assert set(cache.pool[3].view(torch.uint8).flatten().tolist()) == {1}
    assert not cache.pool[2].any()
    assert cache.layer(1).shape == (12, 2, 2, 4, 16)
    assert cache.layer(1)[3].data_ptr() == cache.pool[3, 1].data_ptr()


def test_the_pool_can_live_in_borrowed_memory(runner: Runner, folder: ModelFolder) -> None:
    memory = bytearray(block_size_bytes(runner.spec, 4) * 12)
    borrower = Runner(load_decoder(folder), KVCache(runner.spec, 12, 4, memoryview(memory)))

    assert greedy(borrower, [PROMPT], 5, 4) == greedy(runner, [PROMPT], 5, 4)
    assert any(memory)


def test_warm_up_leaves_an_empty_cache(runner: Runner) -> None:
    runner.warm_up()

    assert not runner.cache.pool.any()


def test_a_batch_where_nobody_samples_gives_no_rows(runner: Runner) -> None:
    sequence, blocks = sequence_of("a", PROMPT), Blocks(runner)
    blocks.grow(sequence, 4)
    batch = Batch.build([Chunk(sequence, 0, 4)], 4)

    assert runner(batch).shape == (0, runner.spec.vocab_size)
    assert runner.cache.pool[sequence.blocks[0]].all()


def test_positions_past_the_context_are_a_bug(folder: ModelFolder) -> None:
    decoder = load_decoder(folder, max_context=8)
    runner = Runner(decoder, KVCache(decoder.spec, 12, 4))

    with pytest.raises(AssertionError, match="past the context"):
        greedy(runner, [PROMPT], 1, 16)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_types_stay_close_to_float32(runner: Runner, folder: ModelFolder, dtype: str) -> None:
    decoder = load_decoder(folder, dtype)
    narrow = Runner(decoder, KVCache(decoder.spec, 12, 4))

    results = []
    for each in (runner, narrow):
        sequence = sequence_of("a", PROMPT)
        results.append(step(each, Blocks(each), [(sequence, 9)])[sequence.id])

    assert results[1].dtype is torch.float32
    torch.testing.assert_close(results[1], results[0], atol=0.15, rtol=0.1)


def test_types_are_named(folder: ModelFolder) -> None:
    assert compute_dtype("auto") is torch.float32
    with pytest.raises(ConfigError, match="dtype is 'int4'"):
        load_decoder(folder, "int4")


def test_the_fingerprint_follows_the_layout(runner: Runner) -> None:
    spec: ModelSpec = runner.spec
    fingerprint = layout_fingerprint("abc", spec, 16)

    assert len(fingerprint) == 16
    assert fingerprint == layout_fingerprint("abc", spec, 16, dtype="float32")
    others = {layout_fingerprint("abd", spec, 16), layout_fingerprint("abc", spec, 8)}
    others.add(layout_fingerprint("abc", spec, 16, dtype="int8"))
    assert fingerprint not in others
    assert len(others) == 3


def test_a_model_folder_is_named_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        ModelFolder.open(tmp_path / "missing")
