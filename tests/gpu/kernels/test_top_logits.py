"""Log-probabilities against their twin and the CPU's kernel."""

import numpy as np
import pytest
import torch

from engine.kernels import logprobs as cpu
from engine.kernels.gpu.top_logits import MAX_COUNT, num_parts, top_logits, top_logits_reference


def taken(logits: torch.Tensor, chosen: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    num_rows, size = logits.shape
    parts = num_parts(size)
    scratch = (
        torch.full((num_rows, parts, MAX_COUNT), -1),
        torch.full((num_rows, parts), float("nan")),
        torch.full((num_rows, parts), float("nan"), dtype=torch.float64),
    )
    of_chosen, values = torch.empty(num_rows), torch.empty(num_rows, count)
    ids = torch.empty(num_rows, count, dtype=torch.int64)
    top_logits(logits, chosen, scratch, of_chosen, values, ids)
    return of_chosen, values, ids


@pytest.mark.parametrize(
    ("num_rows", "size", "count"), [(0, 9, 1), (1, 1, 1), (3, 50, 0), (2, 5000, 20), (2, 9000, 32)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_agree_with_the_twin(num_rows: int, size: int, count: int, dtype: torch.dtype) -> None:
    logits = (torch.randn(num_rows, size) * 3).to(dtype)  # bfloat16 has many equals
    chosen = torch.randint(0, size, (num_rows,))

    of_chosen, values, ids = taken(logits, chosen, count)

    expected_of_chosen, expected_values, expected_ids = top_logits_reference(logits, chosen, count)
    torch.testing.assert_close(of_chosen.double(), expected_of_chosen, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(values.double(), expected_values, rtol=1e-6, atol=1e-5)
    assert torch.equal(ids, expected_ids)


def test_rows_agree_with_the_cpu() -> None:
    logits, chosen = torch.randn(3, 4500) * 5, torch.tensor([0, 4499, 17])

    of_chosen, values, ids = taken(logits, chosen, 5)

    log_totals, cpu_values, cpu_ids = cpu.logprobs(logits.cpu().numpy(), 5)
    assert np.array_equal(ids.cpu().numpy(), cpu_ids)
    np.testing.assert_allclose(values.cpu().numpy(), cpu_values, atol=1e-5)
    raw = logits.cpu().numpy()[range(3), chosen.cpu()]
    np.testing.assert_allclose(of_chosen.cpu().numpy(), raw - log_totals, atol=1e-5)


def test_logits_of_minus_infinity_come_last_lowest_id_first() -> None:
    logits = torch.full((1, 8200), float("-inf"))
    logits[0, [5000, 3]] = 0.0

    of_chosen, values, ids = taken(logits, torch.tensor([5000]), 4)

    assert of_chosen[0].item() == pytest.approx(-np.log(2))
    assert ids.tolist() == [[3, 5000, 0, 1]]
    assert values[0, 2:].tolist() == [float("-inf")] * 2


def test_zeros_of_both_signs_are_equal() -> None:
    _, _, ids = taken(torch.tensor([[-0.0, 0.0, -0.0]]), torch.tensor([0]), 3)

    assert ids.tolist() == [[0, 1, 2]]
