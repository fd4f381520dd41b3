import numpy as np
import pytest
import torch

from engine.errors import ConfigError
from engine.kernels.prefill_attention import prefill_attention_twin
from tests.gpu.kernels.paged_batches import LAYER, random_pool, random_rows

pytest.importorskip("triton", reason="triton is not installed")

from engine.kernels.gpu import prefill_attention as gpu

E4M3 = torch.float8_e4m3fn
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3}


def attend(
    chunks: list[tuple[int, int]],
    group: int = 4,
    num_kv_heads: int = 2,
    head_dim: int = 64,
    block_tokens: int = 16,
    window: int | None = None,
    dtype: torch.dtype = torch.float32,
    num_decode: int = 0,
    device: str = "cpu",
    kept: torch.dtype | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the kernel and its reference make of `chunks`, (start, end) in their sequences. Keys and values are `kept`
    in another type."""
    torch.manual_seed(0)
    context_lens = [end for _, end in chunks]
    pool, tables = random_pool(context_lens, num_kv_heads, head_dim, block_tokens, dtype)
    pool = pool.to(kept or dtype)
    starts = np.cumsum([0, *(end - start for start, end in chunks)]).astype(np.int32)
    queries = random_rows(starts[-1], num_kv_heads * group, num_kv_heads, head_dim, dtype)
    lengths = np.array(context_lens, np.int32)
    tiles = gpu.list_tiles(starts, lengths, num_decode, group, gpu.choose_tile(pool.to(device)).block_m)
    out = torch.full(queries.shape, torch.nan, dtype=dtype, device=device)
    host = torch.from_numpy(starts), torch.from_numpy(lengths)
    there = [tensor.to(device) for tensor in (tables, *host, torch.from_numpy(tiles))]
    gpu.prefill_attention(queries.to(device), pool.to(device), LAYER, *there, out, window)
    pool = pool.to(dtype).nan_to_num()  # the reference multiplies what is hidden by 0
    return out.double().cpu(), gpu.prefill_attention_reference(queries, pool, LAYER, tables, *host, window)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("group", "num_kv_heads"), [(1, 2), (4, 2), (8, 1), (3, 2)])
def test_ragged_chunks_meet_the_reference(group: int, num_kv_heads: int, dtype: torch.dtype) -> None:
    chunks = [(0, 1), (0, 70), (130, 200), (255, 257), (7, 150)]

    out, expected = attend(chunks, group, num_kv_heads, dtype=dtype)

    torch.testing.assert_close(out, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize(("head_dim", "block_tokens"), [(64, 16), (96, 7), (128, 16), (256, 32)])
def test_keys_and_values_of_float8_are_widened(head_dim: int, block_tokens: int, window: int | None) -> None:
    shape = {"head_dim": head_dim, "block_tokens": block_tokens, "window": window}

    out, expected = attend([(0, 1), (0, 70), (130, 170)], **shape, dtype=torch.float16, kept=E4M3)  # type: ignore[arg-type]

    torch.testing.assert_close(out, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("block_tokens", [1, 7, 12, 16, 100, 256])
@pytest.mark.parametrize("head_dim", [64, 80, 96, 100, 128, 256])
def test_blocks_and_heads_of_any_size(head_dim: int, block_tokens: int) -> None:
    dtype = torch.float16 if block_tokens in (7, 16) else torch.float32
    chunks = [(0, 20), (100, 140)]

    out, expected = attend(chunks, 2, 1, head_dim=head_dim, block_tokens=block_tokens, dtype=dtype)

    torch.testing.assert_close(out, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("window", [1, 100, 1000, *(pytest.param(n, marks=pytest.mark.slow) for n in (16, 128, 300))])
def test_a_window_hides_what_is_older(window: int, group: int, dtype: torch.dtype) -> None:
    out, expected = attend([(0, 1), (0, 150), (400, 560)], group, 1, window=window, dtype=dtype)

    torch.testing.assert_close(out, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("group", [7, 12, 33])
def test_groups_that_are_no_power_of_two_and_windows_shorter_than_a_block(group: int) -> None:
    out, expected = attend([(0, 1), (47, 60)], group, 1, block_tokens=24, window=5)

    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("window", [None, 300])
@pytest.mark.parametrize(("head_dim", "group"), [(64, 1), (96, 3), (128, 4), (256, 8)])
def test_compiled_for_this_gpu(head_dim: int, group: int, window: int | None) -> None:
    """Run with TRITON_INTERPRET=0."""
    chunks = [(0, 1), (0, 1000), (700, 1500)]

    out, expected = attend(chunks, group, 2, head_dim, 16, window, torch.bfloat16, device="cuda")

    torch.testing.assert_close(out, expected, rtol=1e-2, atol=1e-2)


def test_rows_of_decoding_sequences_are_left_alone() -> None:
    out, expected = attend([(9, 10), (30, 31), (0, 40)], num_decode=2)

    assert out[:2].isnan().all()
    torch.testing.assert_close(out[2:], expected[2:], rtol=1e-5, atol=1e-5)


def test_the_reference_agrees_with_the_cpu_kernels_twin() -> None:
    torch.manual_seed(0)
    pool, tables = random_pool([40], 2, 64, 8)
    queries = random_rows(30, 8, 2, 64, torch.float32)
    starts, lengths = torch.tensor([0, 30], dtype=torch.int32), torch.tensor([40], dtype=torch.int32)

    ours = gpu.prefill_attention_reference(queries, pool, LAYER, tables, starts, lengths, window=20)
    theirs = prefill_attention_twin(queries, pool, LAYER, tables[0], 10, window=20)

    torch.testing.assert_close(ours.float(), theirs, rtol=1e-5, atol=1e-5)


def test_every_row_is_in_one_tile_and_the_longest_work_starts_first() -> None:
    starts = np.array([0, 1, 101, 101, 104], np.int32)
    lengths = np.array([900, 150, 30, 2003], np.int32)

    tiles = gpu.list_tiles(starts, lengths, num_decode=1, group=4, block_m=128)

    assert tiles.dtype == np.int32
    assert tiles.tolist() == [[3, 0], [1, 384], [1, 256], [1, 128], [1, 0]]


def test_a_step_without_prompts_is_nothing_to_do() -> None:
    out, _ = attend([(9, 10)], num_decode=1)

    assert out.isnan().all()


@pytest.mark.usefixtures("bfloat16_products")
def test_bfloat16_is_summed_in_float32() -> None:
    out, expected = attend([(0, 1), (30, 100), (450, 500)], head_dim=128, dtype=torch.bfloat16)

    torch.testing.assert_close(out, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"head_dim": 48}, "head dimension 48 is not a multiple of 4 from 64 to 256"),
        ({"head_dim": 70}, "head dimension 70"),
        ({"dtype": torch.float64}, "float64"),
    ],
)
def test_what_the_kernel_was_not_made_for_is_refused_by_name(shape: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        attend([(0, 10)], **shape)  # type: ignore[arg-type]
