"""float8 products: what is multiplied is the rounded numbers, exactly; and what lacks them says so."""

import pytest
import torch

from engine.kernels.eight_bits import product_reference, quantize_outputs
from engine.kernels.gpu.fp8_linear import fp8_linear, scaled_product, why_not
from engine.kernels.gpu.quantize import quantize_rows

E4M3 = torch.float8_e4m3fn


def random_product(
    num_rows: int, with_bias: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Rows and their scales, 48 outputs and theirs, a bias."""
    x, weight = (torch.randn(size, 96).to(E4M3) for size in (num_rows, 48))
    return x, torch.rand(num_rows), weight, torch.rand(48), torch.randn(48).bfloat16() if with_bias else None


@pytest.mark.parametrize("num_rows", [0, 1, 5, 40])
@pytest.mark.parametrize("with_bias", [False, True])
def test_rows_agree_with_the_twin(num_rows: int, with_bias: bool) -> None:
    product, y = random_product(num_rows, with_bias), torch.full((num_rows, 48), torch.nan, dtype=torch.bfloat16)

    fp8_linear(*product, y)

    expected = product_reference(*product, torch.bfloat16)
    torch.testing.assert_close(y, expected, rtol=8e-3, atol=8e-3)


@pytest.mark.parametrize("num_rows", [1, 5])
@pytest.mark.parametrize("with_bias", [False, True])
def test_torch_s_product_takes_what_it_is_given_on_a_gpu(num_rows: int, with_bias: bool) -> None:
    """This torch has the operation on a CPU, too: the same arguments, in the same layout."""
    product, y = random_product(num_rows, with_bias), torch.full((num_rows, 48), torch.nan, dtype=torch.bfloat16)

    scaled_product(*product, y)

    expected = product_reference(*product, torch.bfloat16)
    torch.testing.assert_close(y, expected, rtol=1.6e-2, atol=3e-2)


@pytest.mark.parametrize("num_rows", [1, 5])
@pytest.mark.parametrize("with_bias", [False, True])
def test_sizes_that_cublas_refuses_are_scaled_behind_the_product(
    monkeypatch: pytest.MonkeyPatch, num_rows: int, with_bias: bool
) -> None:
    taken = torch._scaled_mm

    def refuse(*args: torch.Tensor, scale_a: torch.Tensor, **options: object) -> torch.Tensor:
        if scale_a.dim() == 2:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling cublasLtMatmul")
        return taken(*args, scale_a=scale_a, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(torch, "_scaled_mm", refuse)
    product, y = random_product(num_rows, with_bias), torch.full((num_rows, 48), torch.nan, dtype=torch.bfloat16)

    scaled_product(*product, y)

    expected = product_reference(*product, torch.bfloat16)
    torch.testing.assert_close(y, expected, rtol=8e-3, atol=8e-3)


def test_another_error_of_a_product_is_none_of_its_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch, "_scaled_mm", fail)

    x, y = torch.zeros(16, 16).to(E4M3), torch.empty(16, 16)
    with pytest.raises(RuntimeError, match="illegal"):
        scaled_product(x, torch.ones(16), x, torch.ones(16), None, y)


def test_a_product_is_near_to_that_of_the_numbers_before_they_were_rounded() -> None:
    x, weight = torch.randn(20, 512), torch.randn(64, 512)
    values, scales = torch.empty(x.shape, dtype=E4M3), torch.empty(20)
    quantize_rows(x, values, scales)
    y = torch.empty(20, 64, dtype=torch.bfloat16)

    fp8_linear(values, scales, *quantize_outputs(weight, E4M3), None, y)

    exact = x @ weight.T
    error = (y.float() - exact).norm() / exact.norm()
    assert error < 0.05  # three bits of mantissa: at most 1/16 of each number, and seldom that


@pytest.mark.parametrize(("num_outputs", "depth", "words"), [(16, 40, "40 inputs"), (24, 32, "24 outputs")])
def test_sizes_that_are_no_multiples_of_16_are_refused(num_outputs: int, depth: int, words: str) -> None:
    x, weight = torch.zeros(1, depth).to(E4M3), torch.zeros(num_outputs, depth).to(E4M3)

    with pytest.raises(AssertionError, match=words):
        fp8_linear(x, torch.ones(1), weight, torch.ones(num_outputs), None, torch.empty(1, num_outputs))


def test_a_gpu_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))

    assert "8.9 or newer, and this one has 8.0" in (why_not(torch.device("cuda")) or "")
    assert why_not(torch.device("cpu")) is None
