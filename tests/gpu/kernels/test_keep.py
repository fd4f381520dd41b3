"""Masks of tokens against their twin, and the CPU's kernel."""

import numpy as np
import pytest
import torch

from engine.kernels.gpu.keep import keep, keep_reference
from engine.kernels.keep import keep as keep_on_cpu


@pytest.mark.parametrize(("size", "words"), [(1, 1), (31, 1), (1500, 47), (2048, 80)])
def test_masks_agree_with_their_twins(size: int, words: int) -> None:
    rng = np.random.default_rng(size)
    rows = np.array([3, 0, 4], np.int64)
    masks = rng.integers(0, 2**32, (3, words), np.uint32)
    masks[1] = 0
    logits = torch.randn(5, size)
    twin, on_cpu = logits.clone(), logits.cpu().clone()
    columns = torch.tensor(rows), torch.tensor(masks.view(np.int32))

    keep(logits, *columns)

    keep_reference(twin, *columns)
    keep_on_cpu(on_cpu.numpy(), rows, masks)
    assert torch.equal(logits, twin)
    assert torch.equal(logits.cpu(), on_cpu)


def test_nobody_is_held_to_anything() -> None:
    logits = torch.randn(2, 40)
    before = logits.clone()
    keep(logits, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2, dtype=torch.int32))
    assert torch.equal(logits, before)
