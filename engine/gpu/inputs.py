"""The device tensors of a batch: parts of one buffer, filled by one copy from the host.

A part lies where the step's sizes put it, and so at the same addresses for all steps of the same sizes: a captured
graph reads what the latest step of its size brought. Every part begins at a multiple of 16 bytes, for Triton compiles a
kernel anew for a pointer that does not. Numbers are int32, for which all counts and slots are small enough.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from engine.batch import Batch

_ALIGNED_ITEMS = 4
_NOWHERE = -1
"""In a row of padding: its key and value are stored nowhere, and its token is nobody's."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the parts of one step are; what a bucket of steps has in common."""

    rows: int
    sequences: int
    num_decode: int
    table_blocks: int
    samples: int | None
    """None: every row is sampled."""
    pooled: int = 0
    """Or scored"""
    tiles: int = 0
    """Of prefill attention."""

    @classmethod
    def of_decode(cls, bucket: int, table_blocks: int) -> "Sizes":
        """A step in which everybody decodes, filled up to `bucket` rows."""
        return cls(bucket, bucket, bucket, table_blocks, None)

    def parts(self) -> dict[str, tuple[int, ...]]:
        """The shape of each part, in the order in which they lie."""
        return {
            "token_ids": (self.rows,),
            "continues": (self.rows,),
            "positions": (self.rows,),
            "slots": (self.rows,),
            "query_starts": (self.sequences + 1,),
            "context_lens": (self.sequences,),
            "kept_rows": ((self.samples or 0) + self.pooled,),
            "tiles": (self.tiles, 2),
            "block_tables": (self.sequences, self.table_blocks),
        }

    @property
    def num_items(self) -> int:
        return sum(_aligned(prod(shape)) for shape in self.parts().values())


@dataclass(frozen=True, slots=True)
class Inputs:
    """A batch on the device, all int32. T rows of S sequences, padding included."""

    token_ids: torch.Tensor
    """[T]"""
    continues: torch.Tensor
    """[T], as in `Batch`; anything where every token is known"""
    positions: torch.Tensor
    """[T]"""
    slots: torch.Tensor
    """[T], below 0 for padding"""
    query_starts: torch.Tensor
    """[S + 1]"""
    context_lens: torch.Tensor
    """[S], 0 for padding"""
    kept_rows: torch.Tensor | None
    """[R + P + Q], those that sample, are pooled, are scored; None when every row is sampled, and none anything else"""
    num_sampled: int
    """R"""
    tiles: torch.Tensor
    """[tiles, 2], as `prefill_attention` takes them"""
    block_tables: torch.Tensor
    """[S, max blocks]; what lies past a sequence's last block is anything, and not read"""
    num_decode: int
    """The first so many sequences have one row each"""


class InputBuffer:
    """Where the inputs of every step lie on the device."""

    def __init__(self, num_items: int, device: torch.device) -> None:
        """Room for steps whose `Sizes.num_items` are no more than `num_items`."""
        self._buffer = torch.zeros(num_items, dtype=torch.int32, device=device)
        self._is_pinned = device.type == "cuda"

    def inputs(self, sizes: Sizes) -> Inputs:
        """The tensors that a step of these sizes has."""
        views = {name: self._buffer[first:end].view(shape) for name, shape, first, end in _places(sizes)}
        rows = views.pop("kept_rows")
        sampled = sizes.rows if sizes.samples is None else sizes.samples
        kept_rows = None if sizes.samples is None else rows
        return Inputs(**views, kept_rows=kept_rows, num_sampled=sampled, num_decode=sizes.num_decode)

    def clear(self) -> None:
        """Make every number 0: whatever the sizes of a step, it then attends to nothing, and writes slot 0."""
        self._buffer.zero_()

    def fill(self, sizes: Sizes, batch: Batch, tiles: np.ndarray | None = None) -> None:
        """Bring `batch` to the device, padded to `sizes`; does not wait for it."""
        count = sizes.num_items
        # Of a step's own: torch gives pinned memory to nobody else before what was copied from it has arrived.
        staged = torch.empty(count, dtype=torch.int32, device="cpu", pin_memory=self._is_pinned)
        array = staged.numpy()
        views = {name: array[first:end].reshape(shape) for name, shape, first, end in _places(sizes)}
        _pad(views["token_ids"], batch.token_ids, 0)
        if batch.continues is not None:
            _pad(views["continues"], batch.continues, _NOWHERE)
        _pad(views["positions"], batch.positions, 0)
        _pad(views["slots"], batch.slots, _NOWHERE)
        _pad(views["query_starts"], batch.query_starts, len(batch.token_ids))
        _pad(views["context_lens"], batch.context_lens, 0)
        if sizes.samples is not None:
            views["kept_rows"][:] = batch.kept_rows
        if tiles is not None:
            views["tiles"][:] = tiles
        num_sequences, width = batch.block_tables.shape
        views["block_tables"][:num_sequences, :width] = batch.block_tables
        self._buffer[:count].copy_(staged, non_blocking=True)


def _pad(to: np.ndarray, values: np.ndarray, padding: int) -> None:
    to[: len(values)] = values
    to[len(values) :] = padding


def _aligned(num_items: int) -> int:
    return -(-num_items // _ALIGNED_ITEMS) * _ALIGNED_ITEMS


def _places(sizes: Sizes) -> list[tuple[str, tuple[int, ...], int, int]]:
    """Name, shape, first item and end of each part."""
    places, first = [], 0
    for name, shape in sizes.parts().items():
        places.append((name, shape, first, first + prod(shape)))
        first += _aligned(prod(shape))
    return places
