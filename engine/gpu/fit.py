"""What fits on a GPU, tried and measured before a worker serves: the largest step that its limits allow is run, and
the pool gets what is left, or is refused if it was asked for and is larger.

Whatever is short of memory before then is a ConfigError with the arithmetic. Afterwards nothing grows: buffers are
there, and what a step allocates is what the largest one did.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from engine.batch import Batch
from engine.config import WorkerConfig
from engine.errors import ConfigError
from engine.gpu.cache import GpuCache, block_size_bytes
from engine.gpu.decoder import GpuDecoder
from engine.gpu.memory import MIB, Measured, blocks_that_fit, mib, reserve_bytes
from engine.gpu.runner import GpuRunner, StepLimits, largest_step
from engine.gpu.sampler import GpuSampler

log = logging.getLogger(__name__)


@contextmanager
def fitting(device: torch.device, what: str, advice: str) -> Iterator[None]:
    """What is allocated within is `what`; raises ConfigError with the arithmetic if there is no room for it."""
    free, total = _memory(device)
    try:
        yield
    except torch.OutOfMemoryError as error:
        own = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        asked = str(error).partition("Tried to allocate ")[2].split(". ")[0]
        raise ConfigError(
            f"{what} do not fit on the GPU: of {mib(total)}, {mib(free)} were free before; this worker has taken "
            f"{mib(own)} by now, {mib(_memory(device)[0])} are free{f', and {asked} more were needed' * bool(asked)}. "
            f"{advice}",
            field="device",
        ) from error


def num_blocks_of(
    config: WorkerConfig, decoder: GpuDecoder, sampler: GpuSampler, limits: StepLimits, kv_dtype: torch.dtype
) -> int:
    """As many as were asked for, if there is room for them on a GPU; else as many as fit. Ranks agree on it. Raises
    ConfigError with the arithmetic."""
    asked = None
    if config.num_blocks:
        asked = config.num_blocks
    elif "kv_memory_mb" in config.model_fields_set:
        asked = config.kv_memory_mb * MIB // block_size_bytes(decoder.spec, config.block_tokens, kv_dtype)
    if asked is not None and decoder.device.type != "cuda":
        return asked
    block_bytes = block_size_bytes(decoder.part, config.block_tokens, kv_dtype)  # as much of one as is here
    try:
        rows = f"the buffers of a step of {limits.max_step_tokens} prompt tokens and {limits.max_sequences} sequences"
        with fitting(decoder.device, rows, "Fewer --max-step-tokens or --max-sequences take less."):
            measured = _measure(decoder, sampler, limits, config.block_tokens, kv_dtype)
        fit = blocks_that_fit(
            measured,
            block_bytes,
            config.block_tokens,
            reserve_bytes=reserve_bytes(config.device_reserve_mb, config.kv_groups),
            min_tokens=max(config.max_context, 2),
            share=config.device_memory_share if asked is None else 1.0,
            asked=asked,
        )
    except ConfigError:
        decoder.ranks.least(0)  # the others wait for word
        raise
    if not (least := decoder.ranks.least(fit)):
        raise ConfigError("on another rank's GPU too few KV blocks fit, as its log says", field="max_context")
    log.info("%d KV blocks fit beside the weights, of which %d bytes each are here", least, block_bytes)
    return least


def run_largest(runner: GpuRunner, sampler: GpuSampler, batch: Batch) -> None:
    """Of several ranks, rank 0 alone has logits to draw from."""
    logits = runner(batch)
    if runner.decoder.ranks.rank == 0:
        sampler(logits, batch.sampled)


def _measure(
    decoder: GpuDecoder, sampler: GpuSampler, limits: StepLimits, block_tokens: int, kv_dtype: torch.dtype
) -> Measured:
    """Run the largest step on a pool of one block, and draw what can be asked for."""
    device = decoder.device
    pool = GpuCache(decoder.spec, 1, block_tokens, device, kv_dtype, decoder.part.num_kv_heads)
    trial = GpuRunner(decoder, pool, limits)
    batch = largest_step(limits, len(decoder.rope), block_tokens)
    run_largest(trial, sampler, batch)  # compiles, which takes memory of its own
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run_largest(trial, sampler, batch)
    torch.cuda.synchronize(device)
    activations = torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()
    free, total = _memory(device)
    return Measured(total, free, torch.cuda.memory_reserved(device), activations)


def _memory(device: torch.device) -> tuple[int, int]:
    """Free and all bytes of the GPU."""
    return torch.cuda.mem_get_info(device) if device.type == "cuda" else (0, 0)
