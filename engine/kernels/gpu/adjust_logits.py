"""What a request does to its logits before a token is drawn, in this order, as `engine/sampler.py` has it:

    x_i <- x_i + bias_i
    x_i <- x_i / r if x_i > 0 else x_i * r                      for every token of the prompt and of the answer
    x_i <- x_i - (presence + frequency * times in the answer)   for every token of the answer
    x_i <- -inf                                                 for every token that is banned for now

A request with penalties has a row of `history` `[S, V]` int32: twice the times that a token was sampled, plus one if it
is in the prompt. Adding a token is one atomic instruction. Tokens come from the host, or from the step before, whose
tokens the host need not know for that.
"""

import torch
import triton
import triton.language as tl

from engine.kernels.gpu.compiled import Compiled

_BLOCK = 1024
_FEW = 256
CONFIGS = tuple(triton.Config({"BLOCK": block}, num_warps=warps) for block in (1024, 2048, 4096) for warps in (4, 8))
"""For the bench of `penalise` to try."""


def add_bias_reference(logits: torch.Tensor, starts: torch.Tensor, ids: torch.Tensor, values: torch.Tensor) -> None:
    for row in range(len(logits)):
        for entry in range(int(starts[row]), int(starts[row + 1])):
            if ids[entry] < logits.shape[1]:
                logits[row, ids[entry]] += values[entry]


def ban_reference(logits: torch.Tensor, starts: torch.Tensor, ids: torch.Tensor) -> None:
    add_bias_reference(logits, starts, ids, torch.full(ids.shape, float("-inf")))


def penalise_reference(
    logits: torch.Tensor,
    history: torch.Tensor,
    slots: torch.Tensor,
    repetitions: torch.Tensor,
    presences: torch.Tensor,
    frequencies: torch.Tensor,
) -> None:
    for row in torch.nonzero(slots >= 0)[:, 0].tolist():
        seen, times = history[slots[row]], history[slots[row]] >> 1
        x, repetition = logits[row].double(), repetitions[row].double()
        x = torch.where(seen > 0, torch.where(x > 0, x / repetition, x * repetition), x)
        logits[row] = x - (times > 0) * (presences[row].double() + frequencies[row].double() * times)


def note_tokens_reference(
    history: torch.Tensor,
    slots: torch.Tensor,
    tokens: torch.Tensor,
    is_prompt: bool,
    rows: torch.Tensor | None = None,
) -> None:
    taken = tokens if rows is None else tokens[rows]
    for slot, token in zip(slots.tolist(), taken.tolist(), strict=True):
        if slot >= 0:
            history[slot, token] = history[slot, token] | 1 if is_prompt else history[slot, token] + 2


@triton.jit
def _at_ids(logits, starts, ids, values, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    end = tl.load(starts + row + 1)
    for start in range(tl.load(starts + row), end, BLOCK):
        entries = start + tl.arange(0, BLOCK)
        tokens = tl.load(ids + entries, entries < end, size)
        to = logits + row * size + tokens
        changed = (entries < end) & (tokens < size)
        if values is None:
            tl.store(to, float("-inf"), changed)
        else:
            tl.store(to, tl.load(to, changed, 0.0) + tl.load(values + entries, changed, 0.0), changed)


@triton.jit
def _penalise(  # type: ignore[no-untyped-def]
    logits, history, slots, repetitions, presences, frequencies, size, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row).to(tl.int64)
    if slot >= 0:
        columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = columns < size
        seen = tl.load(history + slot * size + columns, inside, 0)
        repetition = tl.load(repetitions + row)
        x = tl.load(logits + row * size + columns, inside, 0.0)
        x = tl.where(seen > 0, tl.where(x > 0, tl.div_rn(x, repetition), x * repetition), x)
        times = (seen >> 1).to(tl.float32)
        penalty = tl.load(presences + row) + tl.load(frequencies + row) * times
        tl.store(logits + row * size + columns, tl.where(times > 0, x - penalty, x), inside & (seen > 0))


@triton.jit(do_not_specialize=["count"])
def _note_tokens(  # type: ignore[no-untyped-def]
    history, slots, tokens, rows, count, size, IS_PROMPT: tl.constexpr, BLOCK: tl.constexpr
):
    entries = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.load(slots + entries, entries < count, -1).to(tl.int64)
    if rows is not None:
        entries = tl.load(rows + entries, slot >= 0, 0)
    token = tl.load(tokens + entries, slot >= 0, 0)
    if IS_PROMPT:
        tl.atomic_or(history + slot * size + token, 1, slot >= 0)
    else:
        tl.atomic_add(history + slot * size + token, 2, slot >= 0)


def add_bias(logits: torch.Tensor, starts: torch.Tensor, ids: torch.Tensor, values: torch.Tensor) -> None:
    """Add `values` to row r of `logits` `[R, V]` float32 at the `ids` from `starts[r]` to `starts[r + 1]`.

    `starts` is `[R + 1]` int32, `ids` int64 and `values` float32 are as long as there may ever be entries; the ids of
    one row differ, those past the vocabulary are left out.
    """
    _launch_at_ids(logits, starts, ids, values)


def ban(logits: torch.Tensor, starts: torch.Tensor, ids: torch.Tensor) -> None:
    """Set logits to -inf; arguments as for `add_bias`, but ids may be equal."""
    _launch_at_ids(logits, starts, ids, None)


def _launch_at_ids(logits: torch.Tensor, starts: torch.Tensor, ids: torch.Tensor, values: torch.Tensor | None) -> None:
    num_rows, size = logits.shape
    assert logits.dtype is torch.float32
    assert logits.is_contiguous()
    assert starts.shape == (num_rows + 1,)
    if num_rows:
        _at_ids[(num_rows,)](logits, starts, ids, values, size, BLOCK=_FEW, num_warps=4)


def penalise(
    logits: torch.Tensor,
    history: torch.Tensor,
    slots: torch.Tensor,
    repetitions: torch.Tensor,
    presences: torch.Tensor,
    frequencies: torch.Tensor,
) -> None:
    """Apply three penalties to `logits` `[R, V]` float32 in place.

    `slots` `[R]` int64 are rows of `history` `[S, V]`, below 0 for requests without penalties; the penalties are
    `[R]` float32, 1 for no repetition penalty and 0 for none of the others.
    """
    num_rows, size = logits.shape
    assert logits.dtype is torch.float32
    assert history.shape[1] == size
    assert all(column.shape == (num_rows,) for column in (slots, repetitions, presences, frequencies))
    assert all(tensor.is_contiguous() for tensor in (logits, history, slots, repetitions, presences, frequencies))
    if num_rows:
        columns = (logits, history, slots, repetitions, presences, frequencies)
        # Each product is rounded, as on a CPU: made one instruction with its sum, it would not be.
        _penalise[(num_rows, triton.cdiv(size, _BLOCK))](
            *columns, size, BLOCK=_BLOCK, num_warps=4, enable_fp_fusion=False
        )


def note_tokens(
    history: torch.Tensor,
    slots: torch.Tensor,
    tokens: torch.Tensor,
    is_prompt: bool,
    rows: torch.Tensor | None = None,
) -> None:
    """Add `tokens` `[n]` int64 of a prompt, or of an answer, to the rows `slots` `[n]` int64 of `history`; or, with
    `rows` `[n]` int64, those of `tokens` that they are the numbers of.

    Slots below 0 are passed over. The row of a new request is set to zero by its owner first.
    """
    count = len(slots)
    assert slots.shape == (tokens if rows is None else rows).shape
    assert all(tensor is None or tensor.is_contiguous() for tensor in (history, slots, tokens, rows))
    if count:
        _note_tokens[(triton.cdiv(count, _FEW),)](
            history, slots, tokens, rows, count, history.shape[1], IS_PROMPT=is_prompt, BLOCK=_FEW, num_warps=4
        )


_IDS = {"logits": "*fp32", "starts": "*i32", "ids": "*i64", "size": "i32:16"}
_PENALTIES = dict.fromkeys(("logits", "repetitions", "presences", "frequencies"), "*fp32")
_NOTED = {"history": "*i32", "slots": "*i64", "tokens": "*i64", "count": "i32", "size": "i32:16"}
COMPILED = (
    Compiled(_at_ids, {**_IDS, "values": "*fp32"}, {"BLOCK": _FEW}),
    Compiled(_at_ids, _IDS, {"BLOCK": _FEW, "values": None}),
    Compiled(_penalise, {**_PENALTIES, "history": "*i32", "slots": "*i64", "size": "i32:16"}, {"BLOCK": _BLOCK}),
    Compiled(_note_tokens, _NOTED, {"BLOCK": _FEW, "IS_PROMPT": True, "rows": None}),
    Compiled(_note_tokens, _NOTED, {"BLOCK": _FEW, "IS_PROMPT": False, "rows": None}),
    Compiled(_note_tokens, {**_NOTED, "rows": "*i64"}, {"BLOCK": _FEW, "IS_PROMPT": False}),
)
