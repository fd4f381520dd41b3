"""Products of few rows, with what stands before and behind them, against their twin in float64."""

import pytest
import torch

from engine.kernels.gpu.norm import rms_norm
from engine.kernels.gpu.thin_linear import (
    MOST_ROWS,
    NARROW,
    WIDE,
    Norm,
    Stream,
    Tile,
    Tiles,
    linear_into,
    normed_linear,
    thin_linear,
    thin_linear_reference,
)

SIZES = [(1, 32, 256), (3, 40, 96), (16, 17, 300), (5, 129, 64)]
"""Rows, outputs, inputs"""
ITEM = torch.float16
EPS = 1e-5


def numbers(*shape: int) -> torch.Tensor:
    return (torch.randn(shape) / shape[-1] ** 0.5).to(ITEM)


def stream_of(num_rows: int, size: int, tiles: Tiles = NARROW) -> Stream:
    """With sums of squares as the products before left them; what lies behind them is no number."""
    squares = torch.full((MOST_ROWS * tiles.num_parts(size) + 9,), torch.nan)
    stream = Stream(torch.zeros(num_rows, size), squares, tiles)
    linear_into(numbers(num_rows, 64), numbers(size, 64) * 9, None, stream)
    return stream


def close(ours: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(ours.double(), expected.double(), rtol=3e-3, atol=3e-3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("to", [ITEM, torch.float32])
def test_products_agree_with_the_twin(size: tuple[int, int, int], with_bias: bool, to: torch.dtype) -> None:
    num_rows, num_outputs, depth = size
    x, weight, bias = numbers(num_rows, depth), numbers(num_outputs, depth), numbers(num_outputs) if with_bias else None
    out = torch.full((num_rows, num_outputs), torch.nan, dtype=to)

    thin_linear(x, weight, bias, out, NARROW.plain)

    close(out, thin_linear_reference(x, weight, bias))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_products_of_a_norm_agree_with_the_twin(size: tuple[int, int, int], with_bias: bool, gated: bool) -> None:
    num_rows, num_outputs, depth = size
    stream, norm = stream_of(num_rows, depth), Norm(numbers(depth), EPS)
    weight = numbers(num_outputs * (2 if gated else 1), depth)
    bias = numbers(len(weight)) if with_bias else None
    out = torch.full((num_rows, num_outputs), torch.nan, dtype=ITEM)
    before = stream.hidden.clone()

    normed_linear(stream, norm, weight, bias, out, gated=gated)

    close(out, thin_linear_reference(before, weight, bias, norm, gated=gated))
    assert torch.equal(stream.hidden, before)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("with_bias", [False, True])
def test_what_is_added_to_the_stream_is_known_to_the_next_norm(size: tuple[int, int, int], with_bias: bool) -> None:
    num_rows, num_outputs, depth = size
    stream, before = stream_of(num_rows, num_outputs), torch.empty(num_rows, num_outputs)
    before.copy_(stream.hidden)
    x, weight, bias = numbers(num_rows, depth), numbers(num_outputs, depth), numbers(num_outputs) if with_bias else None

    linear_into(x, weight, bias, stream)

    close(stream.hidden, before + thin_linear_reference(x, weight, bias))
    torch.testing.assert_close(stream.squares.sum(1), stream.hidden.square().sum(1))


def test_a_norm_is_that_of_the_norms_kernel() -> None:
    """To the bit, but for the order in which squares are summed: the other way to compute a step has it."""
    stream, weight = stream_of(4, 128), numbers(128)
    normed, identity, out = torch.empty(4, 128, dtype=ITEM), torch.eye(128, dtype=ITEM), torch.empty(4, 128, dtype=ITEM)
    rms_norm(stream.hidden, None, weight, EPS, normed)

    normed_linear(stream, Norm(weight, EPS), identity, None, out)

    torch.testing.assert_close(out, normed, rtol=1e-3, atol=0)


def test_nothing_is_written_for_no_rows() -> None:
    thin_linear(numbers(0, 32), numbers(8, 32), None, torch.empty(0, 8), NARROW.plain)


@pytest.mark.parametrize("tiles", [WIDE, Tiles(*(Tile(64, depth, 2, 3) for depth in (256, 64, 32)))])
def test_products_in_other_tiles_agree(tiles: Tiles) -> None:
    stream, norm, weight = stream_of(2, 200, tiles), Norm(numbers(200), EPS), numbers(60, 200)
    out, plain = torch.empty(2, 30, dtype=ITEM), torch.empty(2, 60, dtype=ITEM)

    normed_linear(stream, norm, weight, None, out, gated=True)
    normed_linear(stream, norm, weight, None, plain)

    close(out, thin_linear_reference(stream.hidden, weight, None, norm, gated=True))
    close(plain, thin_linear_reference(stream.hidden, weight, None, norm))


def test_more_rows_than_a_tile_has_are_refused() -> None:
    with pytest.raises(AssertionError):
        thin_linear(numbers(MOST_ROWS + 1, 32), numbers(8, 32), None, torch.empty(MOST_ROWS + 1, 8), NARROW.plain)
