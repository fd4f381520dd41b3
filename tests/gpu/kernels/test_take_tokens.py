"""Tokens that are taken from the step before against the twin."""

import pytest
import torch

from engine.kernels.gpu.take_tokens import take_tokens, take_tokens_reference


@pytest.mark.parametrize("num_rows", [0, 1, 5, 300])
def test_rows_agree_with_the_twin(num_rows: int) -> None:
    before = torch.randint(0, 128_000, (7,))
    token_ids = torch.randint(0, 128_000, (num_rows,), dtype=torch.int32)
    continues = torch.randint(-1, len(before), (num_rows,), dtype=torch.int32)
    expected = take_tokens_reference(token_ids, continues, before)

    take_tokens(token_ids, continues, before)

    assert torch.equal(token_ids, expected)


def test_nothing_is_taken_where_all_is_known() -> None:
    token_ids = torch.tensor([3, 4], dtype=torch.int32)

    take_tokens(token_ids, torch.full((2,), -1, dtype=torch.int32), torch.empty(0, dtype=torch.int64))

    assert token_ids.tolist() == [3, 4]
