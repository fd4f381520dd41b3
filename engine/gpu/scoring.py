"""What logits on a GPU say of tokens that are known: log-probabilities, ranks, the likeliest ones in their place."""

from collections.abc import Sequence as Rows

import numpy as np
import torch

from engine.kernels.gpu.top_logits import MAX_COUNT, num_parts, top_logits
from engine.scoring import PromptScores


def find_likely(raw: torch.Tensor, chosen: torch.Tensor, into: Rows[torch.Tensor]) -> None:
    """As `top_logits`, with scratch of its own."""
    num_rows, parts = len(raw), num_parts(raw.shape[1])
    scratch = (
        torch.empty(num_rows, parts, MAX_COUNT, dtype=torch.int64, device=raw.device),
        torch.empty(num_rows, parts, dtype=torch.float32, device=raw.device),
        torch.empty(num_rows, parts, dtype=torch.float64, device=raw.device),
    )
    chosen_logprobs, logprobs, ids = into
    top_logits(raw, chosen, scratch, chosen_logprobs, logprobs, ids)


def scores_of(logits: torch.Tensor, ids: np.ndarray, count: int) -> PromptScores:
    """Of the tokens `ids` `[R]` that follow rows of `logits` `[R, V]`, with the `count` likeliest in each place. Waits
    for the device."""
    num_rows, device = len(ids), logits.device
    chosen = torch.from_numpy(ids).to(device)
    num_top = min(max(count, 1), logits.shape[1])
    logprobs = torch.empty(num_rows, device=device)
    top, top_ids = (torch.empty(num_rows, num_top, dtype=kind, device=device) for kind in (torch.float32, torch.int64))
    find_likely(logits, chosen, (logprobs, top, top_ids))
    ranks = 1 + (logits > logits.gather(1, chosen[:, None])).sum(1, dtype=torch.int32)
    of_top = (top_ids.to(torch.int32)[:, :count], top[:, :count])
    return PromptScores(1, *(column.cpu().numpy() for column in (logprobs, ranks, *of_top)))
