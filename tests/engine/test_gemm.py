"""Our own matrix products against torch's, in float32 and in int8."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernels import amx, gemm
from engine.kernels.linear import INT8, Int8Linear, LinearStack, has_byte_products, linear_int8_twin, linear_twin
from engine.kernels.threads import share_cores

pytestmark = pytest.mark.skipif(not gemm.runs_here(INT8), reason="the kernels are for processors with AVX-512 and VNNI")


@pytest.fixture(autouse=True, scope="module")
def _threads() -> None:
    share_cores()


def panels(
    weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype, *, vectors: bool = False
) -> gemm.Panels:
    """For AMX where there is any, or else, and with `vectors`, for AVX-512."""
    packed = gemm.allocate((), *weight.shape, dtype)
    gemm.pack(weight, bias, packed)
    return packed._replace(tiles=False) if vectors else packed


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    num_rows=st.one_of(st.integers(0, 70), st.sampled_from([97, 300])),
    num_outputs=st.sampled_from([32, 64, 320]),
    depth=st.sampled_from([4, 20, 96, 512]),
    has_bias=st.booleans(),
    vectors=st.booleans(),
)
def test_products_are_torchs(
    seed: int, num_rows: int, num_outputs: int, depth: int, has_bias: bool, vectors: bool
) -> None:
    torch.manual_seed(seed)
    x, weight = torch.randn(num_rows, depth), torch.randn(num_outputs, depth)
    bias = torch.randn(num_outputs) if has_bias else None

    exact = gemm.gemm(x, panels(weight, bias, torch.float32, vectors=vectors))
    narrow = gemm.gemm(x, panels(weight, bias, INT8, vectors=vectors))

    torch.testing.assert_close(exact, linear_twin(x, weight, bias), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(narrow, linear_int8_twin(x, weight, bias), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, INT8])
def test_a_row_does_not_depend_on_the_rows_beside_it(dtype: torch.dtype, vectors: bool) -> None:
    x, packed = torch.randn(40, 768), panels(torch.randn(64, 768), None, dtype, vectors=vectors)

    together = gemm.gemm(x, packed)

    for row in range(40):
        assert torch.equal(gemm.gemm(x[row : row + 1], packed)[0], together[row])


def test_nor_on_how_many_they_are_and_how_the_depth_is_cut() -> None:
    x, packed = torch.randn(530, 4096), panels(torch.randn(96, 4096), torch.randn(96), torch.float32)

    together = gemm.gemm(x, packed)

    for few in (1, 16, 17, 33, 300):
        assert torch.equal(gemm.gemm(x[-few:], packed), together[-few:])


@pytest.mark.skipif(not amx.runs_here(), reason="needs AMX")
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e15])
def test_float32_by_tiles_is_as_exact_as_by_float32_instructions(scale: float) -> None:
    x, weight = torch.randn(64, 768) * scale, torch.randn(320, 768)
    truth = x.double() @ weight.double().T

    ours, theirs = (
        (y.double() - truth).norm() for y in (gemm.gemm(x, panels(weight, None, torch.float32)), x @ weight.T)
    )

    assert ours <= 1.1 * theirs


@pytest.mark.skipif(not amx.runs_here(), reason="needs AMX")
def test_int8_is_the_same_number_either_way() -> None:
    x, weight, bias = torch.randn(100, 256), torch.randn(64, 256), torch.randn(64)

    tiles, vectors = (gemm.gemm(x, panels(weight, bias, INT8, vectors=vectors)) for vectors in (False, True))

    assert torch.equal(tiles, vectors)


def test_int8_of_zeros_and_of_extremes() -> None:
    weight = torch.randn(32, 8)
    weight[3] = 0
    x = torch.tensor([[0.0] * 8, [1e-30] * 8, [1e30, *[0.0] * 7]])

    y = gemm.gemm(x, panels(weight, None, INT8))

    assert torch.isfinite(y).all()
    assert not y[0].any()
    assert not y[:, 3].any()
    torch.testing.assert_close(y[2], 1e30 * weight[:, 0], rtol=0.02, atol=1e28)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("num_rows", [0, 1, 16, 200])
def test_int8_through_onednn_is_the_same(num_rows: int, has_bias: bool) -> None:
    x, weight = torch.randn(num_rows, 256), torch.randn(72, 256)
    bias = torch.randn(72) if has_bias else None

    y = Int8Linear(weight, bias, None)(x)

    torch.testing.assert_close(y, linear_int8_twin(x, weight, bias), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("has_bias", [False, True])
def test_int8_where_bytes_cannot_be_multiplied_is_the_same(has_bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.kernels.linear.has_byte_products", lambda: False)
    x, weight = torch.randn(30, 256), torch.randn(72, 256)
    bias = torch.randn(72) if has_bias else None

    y = Int8Linear(weight, bias, None)(x)

    torch.testing.assert_close(y, linear_int8_twin(x, weight, bias), atol=1e-3, rtol=1e-3)


@pytest.mark.skipif(not has_byte_products(), reason="this processor has no sums of products of bytes")
def test_onednn_has_a_kernel_for_int8() -> None:
    """Its reference code takes seconds where a kernel takes a millisecond."""
    program = "import torch; from engine.kernels.linear import Int8Linear; "
    program += "Int8Linear(torch.randn(72, 256), None, None)(torch.randn(40, 256))"
    environment = {**os.environ, "ONEDNN_VERBOSE": "1"}
    done = subprocess.run((sys.executable, "-c", program), env=environment, capture_output=True, text=True, check=True)
    products = [line for line in done.stdout.splitlines() if ",exec," in line and "matmul" in line]
    assert products, done.stdout
    assert not [line for line in products if "ref" in line.split("matmul")[1].split(":")[0]]


@pytest.mark.parametrize("dtype", [torch.float32, INT8])
def test_outputs_that_only_fill_a_panel_are_left_out(dtype: torch.dtype) -> None:
    stack = LinearStack(1, 64, 16, dtype)
    weight, x = torch.randn(37, 16), torch.randn(5, 16)

    y = stack.put(0, weight)(x)

    twin = linear_twin if dtype is torch.float32 else linear_int8_twin
    torch.testing.assert_close(y, twin(x, weight, None), atol=1e-3, rtol=1e-3)


def test_int8_is_near_what_it_stands_for() -> None:
    x, weight = torch.randn(10, 768), torch.randn(96, 768)

    y, exact = gemm.gemm(x, panels(weight, None, INT8)), x @ weight.T

    assert (y - exact).norm() / exact.norm() < 0.02
    assert np.corrcoef(y.flatten(), exact.flatten())[0, 1] > 0.999
