"""Batches to logits on a GPU: one model, its KV cache, and the buffers and graphs of its steps.

Knows how steps are sized, padded and replayed. Does not know schedulers or sampling.
"""

import logging
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from engine.batch import Batch, Chunk
from engine.gpu.cache import GpuCache
from engine.gpu.current import on
from engine.gpu.decoder import GpuDecoder, Space
from engine.gpu.graphs import DecodeGraphs, Step, buckets_up_to
from engine.gpu.inputs import InputBuffer, Inputs, Sizes
from engine.gpu.scoring import scores_of
from engine.gpu.thin import ThinStep
from engine.kernels.gpu import int4_linear, int8_linear
from engine.kernels.gpu.early import can_launch_early
from engine.kernels.gpu.prefill_attention import choose_tile, list_tiles
from engine.kernels.gpu.rope_cache import FEW_TOKENS
from engine.kernels.gpu.runs import choose_splits
from engine.kernels.gpu.take_tokens import take_tokens
from engine.kernels.gpu.thin_linear import MOST_ROWS
from engine.kernels.gpu.top_logits import MAX_COUNT
from engine.models.spec import ModelSpec
from engine.pooling import Pooled, Pooling
from engine.sequence import SamplingParams, Sequence, SequenceId

logger = logging.getLogger(__name__)

_SCORED_BYTES = 1 << 24
"""Of logits that are there at once for rows of a prompt that are scored; what is left free of the memory has room."""
_TILE_ROWS = sorted({FEW_TOKENS, *(most for most, _ in (*int4_linear.TILES, *int8_linear.TILES) if most)})
"""Up to so many rows a kernel takes another tile than for more, and so is another kernel."""
_MOST_ASKED = SamplingParams(max_tokens=1, seed=0, num_logprobs=MAX_COUNT)


_Compute = Callable[[Inputs, torch.Tensor, Space, int], torch.Tensor]
"""A decoder's step: inputs, pool, space, splits"""


@dataclass(frozen=True, slots=True)
class StepLimits:
    """The largest step that a worker runs."""

    max_sequences: int
    max_step_tokens: int
    """Of prompts"""

    @property
    def max_rows(self) -> int:
        """Each sequence may decode a token beside the prompts."""
        return self.max_sequences + self.max_step_tokens


class GpuRunner:
    """The device's half of a step: `batch` in, logits `[R, V]` on the device out."""

    def __init__(
        self,
        decoder: GpuDecoder,
        cache: GpuCache,
        limits: StepLimits,
        announce: Callable[[Batch], None] | None = None,
    ) -> None:
        """`announce` hears of each batch before it is computed, but in `warm_up`: other ranks must compute it, too."""
        self.decoder = decoder
        self.cache = cache
        self.limits = limits
        self._announce = announce
        self._table_blocks = -(-len(decoder.rope) // cache.block_tokens)
        self._group = decoder.part.num_heads // decoder.part.num_kv_heads
        self._tile_rows = choose_tile(cache.pool).block_m
        buckets = buckets_up_to(limits.max_sequences)
        self._splits = {bucket: self._splits_of(bucket) for bucket in buckets}
        runs = max(bucket * splits for bucket, splits in self._splits.items())
        self._space = Space.allocate(decoder, max(limits.max_rows, buckets[-1]), buckets[-1], runs)
        self._inputs = InputBuffer(max(self._most_items(), self._decode(buckets[-1]).num_items), decoder.device)
        self._thin = ThinStep.all_of(decoder)
        self.graphs = DecodeGraphs(self._ways, limits.max_sequences, decoder.device)

    @property
    def spec(self) -> ModelSpec:
        return self.decoder.spec

    def __call__(self, batch: Batch, before: torch.Tensor | None = None) -> torch.Tensor:
        """Compute `batch`, write its keys and values into the cache, return the logits of its sample rows.

        `before` are the tokens of the step that it continues, `[R]` int64 on the device, if it does; rank 0 has them.

        Nothing is waited for, unless rows are pooled or scored: the logits are there when work of the same stream that
        follows runs. They lie in a buffer that the next step writes.
        """
        # Kernels do not check bounds.
        assert int(batch.positions.max()) < len(self.decoder.rope), "a position lies past the context"
        assert int(batch.slots.max()) < self.cache.num_blocks * self.cache.block_tokens, "a slot lies past the pool"
        rows = len(batch.token_ids)
        assert rows <= self.limits.max_rows, "more rows than the worker was started for"
        assert len(batch.context_lens) <= self.limits.max_sequences, "more sequences than the worker was started for"
        if batch.continues is not None and self.decoder.ranks.rank == 0:
            assert before is not None, "what it continues is not there"
            assert int(batch.continues.max()) < len(before), "it continues what was not drawn"
        if self._announce:
            self._announce(batch)
        with on(self.decoder.device):
            return self._run(batch, before, rows)

    def _run(self, batch: Batch, before: torch.Tensor | None, rows: int) -> torch.Tensor:
        if rows == batch.num_decode == len(batch.sample_rows) and not len(batch.pooled_rows):
            bucket = self.graphs.bucket(rows)
            self._bring(self._decode(bucket), batch, before)
            return self.graphs(bucket)[:rows]
        tiles = list_tiles(batch.query_starts, batch.context_lens, batch.num_decode, self._group, self._tile_rows)
        num_sequences, width = batch.block_tables.shape
        num_sampled, num_pooled, num_scored = len(batch.sample_rows), len(batch.pooled_rows), len(batch.scored_rows)
        num_kept = num_sampled + num_pooled + num_scored
        assert num_kept <= self.limits.max_rows, "more rows are kept than the worker was started for"
        sizes = Sizes(rows, num_sequences, batch.num_decode, width, num_sampled, num_pooled + num_scored, len(tiles))
        logits = self._compute(self._bring(sizes, batch, before, tiles))
        if batch.pooled:
            batch.pool(self._space.normed[num_sampled : num_sampled + num_pooled].float().cpu().numpy())
        if num_scored:
            first = num_sampled + num_pooled
            self._score(self._space.normed[first : first + num_scored], batch)
        return logits

    def _score(self, normed: torch.Tensor, batch: Batch) -> None:
        """A few rows at a time; every rank computes its part of them, and rank 0 alone knows whose they are."""
        at_once = max(_SCORED_BYTES // (4 * self.spec.vocab_size), 1)
        for begin in range(0, len(normed), at_once):
            logits = self.decoder.logits(normed[begin : begin + at_once])
            if batch.scored:
                batch.score(begin, scores_of(logits, batch.scored_ids[begin : begin + at_once], batch.num_top))

    def _bring(
        self, sizes: Sizes, batch: Batch, before: torch.Tensor | None, tiles: np.ndarray | None = None
    ) -> Inputs:
        """Bring `batch` to the device, and there the tokens that only the step before knows, to all ranks."""
        self._inputs.fill(sizes, batch, tiles)
        inputs = self._inputs.inputs(sizes)
        if batch.continues is not None:
            if before is not None:
                take_tokens(inputs.token_ids, inputs.continues, before)
            self.decoder.ranks.spread(inputs.token_ids)
        return inputs

    def warm_up(self) -> None:
        """Compile every kernel, also on the largest step; writes only block 0, which must be free."""
        logger.info("compiling kernels for the GPU")
        began = time.perf_counter()
        with on(self.decoder.device):
            for limits in (self.limits, *self._steps_of_other_tiles()):
                batch = largest_step(limits, len(self.decoder.rope), self.cache.block_tokens)
                self._run(batch, None, len(batch.token_ids))
            self._inputs.clear()  # what lies there are the parts of a step of other sizes
            self.graphs.capture()
            inputs = self._inputs.inputs(self._decode(1))
            take_tokens(inputs.token_ids, inputs.continues, torch.zeros_like(inputs.token_ids, dtype=torch.int64))
        self.cache.clear(1)
        logger.info("kernels ready in %.1f s", time.perf_counter() - began)

    def _steps_of_other_tiles(self) -> list[StepLimits]:
        """Smaller steps than the largest, whose kernels no bucket has: else a prompt would wait for a compiler."""
        least, context = self.graphs.buckets[-1], len(self.decoder.rope)
        most = min(self.limits.max_step_tokens, self.limits.max_sequences * context)
        return [StepLimits(-(-rows // context), rows) for rows in _TILE_ROWS if least < rows < most]

    def _decode(self, bucket: int) -> Sizes:
        return Sizes.of_decode(bucket, self._table_blocks)

    def _ways(self, bucket: int) -> dict[str, Step]:
        """To compute a step in which everybody decodes."""
        ways: dict[str, _Compute] = {"torch's products": self.decoder}
        if can_launch_early(self.decoder.device) and self.decoder.ranks.size == 1:
            ways["torch's products, attention launched early"] = partial(self.decoder, is_early=True)
        if bucket <= MOST_ROWS:
            ways |= self._thin
        return {name: partial(self._decode_step, compute) for name, compute in ways.items()}

    def _decode_step(self, compute: _Compute, bucket: int) -> torch.Tensor:
        return compute(self._inputs.inputs(self._decode(bucket)), self.cache.pool, self._space, self._splits[bucket])

    def _compute(self, inputs: Inputs) -> torch.Tensor:
        splits = self._splits[self.graphs.bucket(max(inputs.num_decode, 1))]
        return self.decoder(inputs, self.cache.pool, self._space, splits)

    def _splits_of(self, bucket: int) -> int:
        device = self.decoder.device
        num_cores = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
        return choose_splits(bucket, self.decoder.part.num_kv_heads, len(self.decoder.rope), num_cores)

    def _most_items(self) -> int:
        """Of the inputs of any step within the limits that is no captured one."""
        rows, sequences = self.limits.max_rows, self.limits.max_sequences
        tiles = -(-rows * self._group // self._tile_rows) + sequences
        return Sizes(rows, sequences, 0, self._table_blocks, sequences, rows, tiles).num_items


def largest_step(limits: StepLimits, max_context: int, block_tokens: int) -> Batch:
    """Of made-up tokens in block 0: prompts of `max_step_tokens` together, and a token of all who are left. All sample
    and ask for the most log-probabilities, and the prompts are pooled."""
    left, chunks = limits.max_step_tokens, []
    for index in range(limits.max_sequences):
        length = max(1, min(left, max_context))
        sequence = Sequence.of(SequenceId(f"made-up-{index}"), [0] * length, _MOST_ASKED)
        sequence.pooled = Pooled(Pooling.LAST) if left > 0 else None
        sequence.blocks = array("i", [0] * -(-length // block_tokens))
        chunks.append(Chunk(sequence, 0, length))
        left -= length if left > 0 else 0
    return Batch.build(chunks, block_tokens)
