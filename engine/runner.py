"""Batches to logits: one model and its KV cache on one device.

Knows how they are built and warmed up. Does not know schedulers or sampling.
"""

import logging
import time
from array import array
from collections.abc import Callable

import torch

from engine.batch import Batch, Chunk
from engine.cache import KVCache
from engine.checkpoint import ModelFolder, load_weights
from engine.errors import ConfigError
from engine.kernels.threads import share_cores
from engine.models.decoder import Decoder
from engine.models.families import model_spec
from engine.models.spec import ModelSpec
from engine.scoring import Scoring
from engine.sequence import SamplingParams, Sequence, SequenceId
from engine.tp.ranks import ALONE, Ranks
from engine.tp.split import Split

logger = logging.getLogger(__name__)

_WARM_UP_TOKENS = 35
"""Enough rows for the products that only long prompts use."""


class Runner:
    """The device's half of a step: `batch` in, logits `[R, V]` out."""

    def __init__(self, decoder: Decoder, cache: KVCache, announce: Callable[[Batch], None] | None = None) -> None:
        """`announce` hears of each batch before it is computed: other ranks must compute it, too."""
        self.decoder = decoder
        self.cache = cache
        self._announce = announce

    @property
    def spec(self) -> ModelSpec:
        return self.decoder.spec

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Compute `batch`, write its keys and values into the cache, return the logits of its sample rows."""
        if self._announce:
            self._announce(batch)
        share_cores()
        return self.decoder(batch, self.cache)

    def warm_up(self) -> None:
        """Compile every kernel on a few made-up tokens; touches only block 0, which must not be in use."""
        logger.info("compiling kernels; the first start on a machine takes about half a minute")
        began = time.perf_counter()
        end = min(_WARM_UP_TOKENS, len(self.decoder.rope))
        sequence = Sequence.of(SequenceId("warm-up"), [0] * end, SamplingParams(max_tokens=1, seed=0))
        sequence.blocks = array("i", [0] * end)
        sequence.scoring = Scoring(1)
        spans = (0, max(1, end - 3)), (max(0, end - 3), max(1, end - 1)), (end - 1, end)
        first, later, decode = (Chunk(sequence, *span) for span in spans)
        for chunks in ([first], [later], [decode], [later, decode]):
            self(Batch.build(chunks, self.cache.block_tokens))
        self.cache.array[0] = 0
        logger.info("kernels ready in %.1f s", time.perf_counter() - began)


def load_decoder(
    folder: ModelFolder,
    dtype: str = "auto",
    max_context: int | None = None,
    *,
    quantize: bool = False,
    ranks: Ranks = ALONE,
) -> Decoder:
    """Read, check and pack the model of `folder`, its matrices as int8 with `quantize`; of several `ranks`, the part of
    the one that this is."""
    spec = model_spec(folder.config)
    began = time.perf_counter()
    split = Split.of(spec, ranks.rank, ranks.size)
    weights = load_weights(folder, spec, compute_dtype(dtype), split)
    decoder = Decoder(spec, weights, max_context, quantize=quantize, ranks=ranks)
    logger.info("%s ready in %.1f s", spec.architecture, time.perf_counter() - began)
    return decoder


def compute_dtype(name: str) -> torch.dtype:
    """The type of matrix products. `auto` is float32: exact, and as fast as any on most CPUs."""
    match name:
        case "auto" | "float32":
            return torch.float32
        case "bfloat16":
            return torch.bfloat16
        case "float16":
            return torch.float16
        case unknown:
            raise ConfigError(f"dtype is {unknown!r}; supported: auto, float32, bfloat16, float16", field="dtype")
