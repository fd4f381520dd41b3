import pytest
import torch

from engine.errors import ConfigError
from engine.kernels.decode_attention import decode_attention_twin
from tests.gpu.kernels.paged_batches import LAYER, random_pool, random_rows

pytest.importorskip("triton", reason="triton is not installed")

from engine.kernels.gpu import decode_attention as gpu
from engine.kernels.gpu import runs

E4M3 = torch.float8_e4m3fn
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3}


def attend(
    context_lens: list[int],
    group: int = 4,
    num_kv_heads: int = 2,
    head_dim: int = 64,
    block_tokens: int = 16,
    window: int | None = None,
    splits: int = 1,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    kept: torch.dtype | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the kernel and its reference make of a random batch; keys and values are `kept` in another type."""
    torch.manual_seed(0)
    pool, tables = random_pool(context_lens, num_kv_heads, head_dim, block_tokens, dtype)
    pool = pool.to(kept or dtype)
    queries = random_rows(len(context_lens), num_kv_heads * group, num_kv_heads, head_dim, dtype)
    lengths = torch.tensor(context_lens, dtype=torch.int32)
    out = torch.full(queries.shape, torch.nan, dtype=dtype, device=device)
    workspace = runs.Workspace.allocate(len(context_lens) * splits, num_kv_heads * group, head_dim, device)
    for partial in (workspace.totals, workspace.peaks, workspace.weights):
        partial.fill_(torch.nan)
    there = [tensor.to(device) for tensor in (queries, pool, tables, lengths)]
    gpu.decode_attention(there[0], there[1], LAYER, there[2], there[3], out, workspace, splits, window)
    return out.double().cpu(), gpu.decode_attention_reference(queries, pool.to(dtype), LAYER, tables, lengths, window)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize(("group", "num_kv_heads"), [(1, 2), (4, 2), (8, 1), (3, 2)])
def test_ragged_contexts_meet_the_reference(group: int, num_kv_heads: int, splits: int, dtype: torch.dtype) -> None:
    context_lens = [1, 8, 129, 300, 400]

    out, expected = attend(context_lens, group, num_kv_heads, splits=splits, dtype=dtype)

    torch.testing.assert_close(out, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize(("head_dim", "block_tokens"), [(64, 16), (96, 7), (128, 16), (256, 32)])
def test_keys_and_values_of_float8_are_widened(head_dim: int, block_tokens: int, splits: int) -> None:
    shape = {"head_dim": head_dim, "block_tokens": block_tokens, "splits": splits}

    out, expected = attend([1, 8, 129, 300], **shape, dtype=torch.float16, kept=E4M3)  # type: ignore[arg-type]

    torch.testing.assert_close(out, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("block_tokens", [1, 7, 12, 16, 100, 256])
@pytest.mark.parametrize("head_dim", [64, 80, 96, 100, 128, 256])
def test_blocks_and_heads_of_any_size(head_dim: int, block_tokens: int) -> None:
    dtype = torch.float16 if block_tokens in (7, 16) else torch.float32

    out, expected = attend([17, 200], head_dim=head_dim, block_tokens=block_tokens, splits=2, dtype=dtype)

    torch.testing.assert_close(out, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("group", [7, 12, 33])
def test_groups_that_are_no_power_of_two_and_windows_shorter_than_a_block(group: int) -> None:
    shape = {"group": group, "num_kv_heads": 1, "block_tokens": 24, "window": 5, "splits": 2}

    out, expected = attend([1, 5, 24, 150], **shape)  # type: ignore[arg-type]

    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize("window", [1, 50, 128, 1000])
def test_a_window_hides_what_is_older(window: int, splits: int) -> None:
    out, expected = attend([1, 50, 51, 333, 700], window=window, splits=splits)

    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("splits", [1, 2, 40])
def test_rows_of_padding_are_zero_and_runs_behind_the_end_are_nothing(splits: int) -> None:
    out, expected = attend([0, 5, 0, 400], splits=splits)

    assert not out[0].any()
    assert not out[2].any()
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("window", [None, 300])
@pytest.mark.parametrize("splits", [1, 8])
@pytest.mark.parametrize(("head_dim", "group"), [(64, 1), (96, 3), (128, 4), (256, 8)])
def test_compiled_for_this_gpu(head_dim: int, group: int, splits: int, window: int | None) -> None:
    """Run with TRITON_INTERPRET=0."""
    context_lens = [1, 0, 700, 1500]

    out, expected = attend(context_lens, group, 2, head_dim, 16, window, splits, torch.bfloat16, "cuda")

    torch.testing.assert_close(out, expected, rtol=1e-2, atol=1e-2)


def test_the_reference_agrees_with_the_cpu_kernels_twin() -> None:
    torch.manual_seed(0)
    pool, tables = random_pool([9, 40], 2, 64, 8)
    queries = random_rows(2, 8, 2, 64, torch.float32)
    lengths = torch.tensor([9, 40], dtype=torch.int32)

    ours = gpu.decode_attention_reference(queries, pool, LAYER, tables, lengths, window=20)
    theirs = decode_attention_twin(queries, pool, LAYER, tables, lengths, window=20)

    torch.testing.assert_close(ours.float(), theirs, rtol=1e-5, atol=1e-5)


def test_an_empty_batch_is_nothing_to_do() -> None:
    pool, tables = random_pool([8], 2, 64, 8)
    nothing, no_lengths = torch.empty(0, 8, 64), torch.empty(0, dtype=torch.int32)
    workspace = runs.Workspace.allocate(0, 8, 64, "cpu")

    gpu.decode_attention(nothing, pool, LAYER, tables[:0], no_lengths, nothing, workspace, splits=1)


@pytest.mark.usefixtures("bfloat16_products")
@pytest.mark.parametrize("splits", [1, 3])
def test_bfloat16_is_summed_in_float32(splits: int) -> None:
    out, expected = attend([1, 200, 500], head_dim=128, splits=splits, dtype=torch.bfloat16)

    torch.testing.assert_close(out, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"head_dim": 48}, "head dimension 48 is not a multiple of 4 from 64 to 256"),
        ({"head_dim": 70}, "head dimension 70"),
        ({"head_dim": 512}, "head dimension 512"),
        ({"dtype": torch.float64}, "float64"),
        ({"kept": E4M3}, "queries are torch.float32"),
        ({"head_dim": 68, "dtype": torch.float16, "kept": E4M3}, "head dimension 68 is not a multiple of 8"),
    ],
)
def test_what_the_kernel_was_not_made_for_is_refused_by_name(shape: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        attend([10], **shape)  # type: ignore[arg-type]


def test_splits_fill_the_device_and_no_run_is_too_short() -> None:
    cores = 132

    assert runs.choose_splits(1, 8, 100, cores) == 1
    assert runs.choose_splits(1, 8, 4096, cores) == 4096 // runs.MIN_RUN
    assert runs.choose_splits(1, 1, 1 << 20, cores) == runs.MAX_SPLITS
    assert runs.choose_splits(1024, 8, 1 << 20, cores) == 1
    many = runs.choose_splits(64, 8, 4096, cores)
    assert 64 * 8 * many >= runs.WAVES * runs.PROGRAMS_PER_CORE * cores > 64 * 8 * (many - 1)
