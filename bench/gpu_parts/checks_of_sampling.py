"""Checks of the kernels that change logits, draw from them and say how likely tokens were."""

from collections.abc import Iterator
from functools import partial

import torch

from bench.gpu_parts.bench import Bench, Task
from bench.gpu_parts.errors import SHORT, judge, share_unequal, worst_row_error
from engine.kernels.gpu import adjust_logits, keep, sample, take_tokens, top_logits
from engine.kernels.gpu.candidates import Scratch

VOCAB = 128_256
_MASK = 0xFFFFFFFF


def tasks(bench: Bench) -> Iterator[Task]:
    checks = {"add_bias, ban": _bias, "penalise, note_tokens": _penalise, "keep": _keep, "take_tokens": _take_tokens}
    for name, check in checks.items():
        yield Task(name, partial(check, bench, name))
    for dtype in (torch.float32, torch.bfloat16):
        yield Task(f"sample {SHORT[dtype]}", partial(_sample, bench, dtype))
        yield Task(f"top_logits {SHORT[dtype]}", partial(_top_logits, bench, dtype))


def peaked(num_rows: int, size: int, dtype: torch.dtype) -> torch.Tensor:
    """Logits as models have them: some hundred tokens are likely."""
    return 5 * torch.randn(num_rows, size, dtype=torch.float32).to(dtype)


def _bias(bench: Bench, name: str) -> None:
    rows, size = bench.size(16, 2), bench.size(VOCAB, 300)
    logits, count = torch.randn(rows, size), bench.size(300, 5)
    starts = (torch.arange(rows + 1) * count).to(torch.int32)
    ids = torch.cat([torch.randperm(size)[:count] for _ in range(rows)])
    values = torch.randn(rows * count)
    expected = logits.clone()
    adjust_logits.add_bias(logits, starts, ids, values)
    adjust_logits.ban(logits, starts, ids[: rows * count] // 2)
    _add(expected, ids, values, count)
    _add(expected, ids // 2, torch.full_like(values, -torch.inf), count)
    judge(bench, name, share_unequal(logits, expected), 0.0, "share of values unequal")


def _add(logits: torch.Tensor, ids: torch.Tensor, values: torch.Tensor, count: int) -> None:
    """As the references do, which go from number to number."""
    rows = torch.arange(len(ids)) // count
    if bool(values.isinf().all()):
        logits[rows, ids] = -torch.inf
    else:
        logits[rows, ids] += values


def _penalise(bench: Bench, name: str) -> None:
    rows, size = bench.size(8, 2), bench.size(VOCAB, 300)
    logits, history = torch.randn(rows, size), torch.zeros(rows + 1, size, dtype=torch.int32)
    expected, expected_history = logits.clone(), history.clone()
    slots = torch.randperm(rows + 1)[:rows]
    owners, tokens = slots.repeat_interleave(20), torch.randint(0, size, (20 * rows,))
    owners[3] = -1
    for is_prompt in (True, False):
        adjust_logits.note_tokens(history, owners, tokens, is_prompt)
        adjust_logits.note_tokens_reference(expected_history, owners, tokens, is_prompt)
    drawn, samples = torch.randint(0, size, (rows,)), torch.randperm(rows)
    adjust_logits.note_tokens(history, slots, drawn, is_prompt=False, rows=samples)
    adjust_logits.note_tokens_reference(expected_history, slots, drawn, is_prompt=False, rows=samples)
    slots[0] = -1
    penalties = 1 + torch.rand(rows), torch.rand(rows), torch.rand(rows)
    adjust_logits.penalise(logits, history, slots, *penalties)
    adjust_logits.penalise_reference(expected, expected_history, slots, *penalties)
    judge(bench, f"{name}: history", share_unequal(history, expected_history), 0.0, "share of values unequal")
    judge(bench, name, float((logits - expected).abs().max()), 1e-5, "largest error")


def _keep(bench: Bench, name: str) -> None:
    rows, size = bench.size(64, 3), bench.size(VOCAB, 300)
    logits, chosen = torch.randn(rows, size), torch.randperm(rows)[: rows // 2 + 1]
    masks = torch.randint(-(2**31), 2**31 - 1, (len(chosen), -(-size // 32)), dtype=torch.int32)
    expected = logits.clone()
    keep.keep(logits, chosen, masks)
    keep.keep_reference(expected, chosen, masks)
    judge(bench, name, share_unequal(logits, expected), 0.0, "share of values unequal")


def _take_tokens(bench: Bench, name: str) -> None:
    count = bench.size(1000, 9)
    tokens = torch.randint(0, VOCAB, (count,), dtype=torch.int32)
    before, continues = torch.randint(0, VOCAB, (count,)), torch.randint(-1, count, (count,), dtype=torch.int32)
    expected = take_tokens.take_tokens_reference(tokens, continues, before)
    take_tokens.take_tokens(tokens, continues, before)
    judge(bench, name, share_unequal(tokens, expected), 0.0, "share of tokens unequal")


def _sample(bench: Bench, dtype: torch.dtype) -> None:
    rows, size = bench.size(128, 12), bench.size(VOCAB, 300)
    logits = peaked(rows, size, dtype)
    filters = [
        ((0.0, 0.7, 1.0)[row % 3], (0, 1, 50)[row // 3 % 3], (1.0, 0.9, 0.5)[row // 9 % 3], (0.0, 0.05)[row % 2])
        for row in range(rows)
    ]
    temperatures, top_ks, top_ps, min_ps = (torch.tensor(column) for column in zip(*filters, strict=True))
    seeds, indices = torch.randint(0, 1 << 62, (rows,)), torch.randint(0, 1 << 40, (rows,))
    out, scratch = torch.full((rows,), -1), Scratch.of(rows, size, bench.device)
    for tensor in (scratch.maxima, scratch.scales, scratch.masses, scratch.weights):
        tensor.fill_(torch.nan)
    # fmt: off
    sample.sample(
        logits, temperatures.double(), top_ks, top_ps.double(), min_ps.double(), seeds, indices, scratch, out
    )
    # fmt: on
    expected = [
        sample.sample_reference(logits[row].float(), *filters[row], _uniform(int(seeds[row]), int(indices[row])))
        for row in range(rows)
    ]
    judge(bench, bench.task, share_unequal(out, torch.tensor(expected)), 0.02, "share of tokens unequal")


def _uniform(seed: int, index: int) -> float:
    """Of [0, 1), from Philox4x32-10 (Salmon et al., 2011), as the kernel has it."""
    x0, x1, x2, x3 = index & _MASK, index >> 32, 0, 0
    key0, key1 = seed & _MASK, seed >> 32
    for _ in range(10):
        low, high = 0xD2511F53 * x0, 0xCD9E8D57 * x2
        x0, x1, x2, x3 = (high >> 32) ^ x1 ^ key0, high & _MASK, (low >> 32) ^ x3 ^ key1, low & _MASK
        key0, key1 = (key0 + 0x9E3779B9) & _MASK, (key1 + 0xBB67AE85) & _MASK
    return ((x0 << 21) | (x1 >> 11)) * 2.0**-53


def _top_logits(bench: Bench, dtype: torch.dtype) -> None:
    rows, size, count = bench.size(64, 2), bench.size(VOCAB, 300), 20
    logits, chosen = peaked(rows, size, dtype), torch.randint(0, size, (rows,))
    of_chosen, values = torch.full((rows,), torch.nan), torch.full((rows, count), torch.nan)
    ids = torch.full((rows, count), -1)
    top_logits.top_logits(logits, chosen, scratch_of_top(rows, size), of_chosen, values, ids)
    theirs = top_logits.top_logits_reference(logits, chosen, count)
    judge(bench, f"{bench.task}: ids", share_unequal(ids, theirs[2]), 0.0, "share of ids unequal")
    error = max(worst_row_error(values, theirs[1]), worst_row_error(of_chosen[:, None], theirs[0][:, None]))
    judge(bench, bench.task, error, 1e-5)


def scratch_of_top(rows: int, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    parts = top_logits.num_parts(size)
    keys = torch.empty(rows, parts, top_logits.MAX_COUNT, dtype=torch.int64)
    return keys, torch.empty(rows, parts), torch.empty(rows, parts, dtype=torch.float64)
