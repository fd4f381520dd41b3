"""A model made ready on a GPU: what cannot be served there is refused, and the pool takes what memory is left.

Imported only for a worker whose device is a GPU.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from engine.batch import Batch
from engine.checkpoint import ModelFolder, load_weights
from engine.config import WorkerConfig
from engine.errors import ConfigError
from engine.gpu.cache import GpuCache, block_size_bytes
from engine.gpu.decoder import GpuDecoder
from engine.gpu.memory import MIB, Measured, blocks_that_fit
from engine.gpu.runner import GpuRunner, StepLimits, largest_step
from engine.gpu.sampler import GpuSampler
from engine.kernels.gpu.fp8_linear import MULTIPLE, why_not
from engine.kernels.gpu.paged import check_heads
from engine.masks import Masks
from engine.models.families import model_spec
from engine.models.spec import ModelSpec
from engine.tp.ranks import ALONE, DeviceRanks
from engine.tp.split import Split

log = logging.getLogger(__name__)

_DTYPES = {"auto": torch.bfloat16, "bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_QUANTIZED = {"none": None, "int8": torch.int8, "fp8": torch.float8_e4m3fn}


@dataclass(frozen=True, slots=True)
class GpuModel:
    """A model that is ready to compute on a GPU."""

    runner: GpuRunner
    sampler: GpuSampler
    max_context: int


def open_gpu(
    config: WorkerConfig,
    folder: ModelFolder,
    device: torch.device,
    ranks: DeviceRanks = ALONE,
    join: Callable[[], None] = lambda: None,
    announce: Callable[[Batch], None] | None = None,
) -> GpuModel:
    """Load, try the largest step, size the pool, compile and capture; of several `ranks`, the part of the one that this
    is, after which `join` returns when all have loaded theirs. `announce` is rank 0's (`GpuRunner`).

    Raises ConfigError with the arithmetic when it cannot fit, and by name for what the GPU's engine does not have.
    """
    spec, dtype = model_spec(folder.config), _DTYPES[config.dtype]
    split = Split.of(spec, ranks.rank, ranks.size)
    _refuse(config, split.part, device, dtype)
    _check_shapes(split.part, config.block_tokens, dtype)
    if config.max_context > spec.max_context:
        raise ConfigError(f"a context of {config.max_context}: the model's is {spec.max_context}", field="max_context")
    max_context = config.max_context or spec.max_context
    weights, quantized = load_weights(folder, spec, dtype, split), _QUANTIZED[config.quantization]
    decoder = GpuDecoder(spec, weights, max_context, device=device, dtype=dtype, quantized=quantized, ranks=ranks)
    join()
    limits = StepLimits(config.max_sequences, config.max_step_tokens)
    sampler = GpuSampler(spec.vocab_size, config.max_sequences, device, Masks())
    num_blocks = _num_blocks(config, decoder, sampler, limits)
    capacity = num_blocks * config.block_tokens
    if config.max_context > capacity or capacity < 2:
        block_bytes = block_size_bytes(spec, config.block_tokens, dtype)
        raise ConfigError(
            f"a context of {config.max_context or 2} tokens does not fit: {num_blocks} KV blocks of "
            f"{config.block_tokens} tokens ({block_bytes} bytes each) hold {capacity}",
            field="max_context",
        )
    cache = GpuCache(spec, num_blocks, config.block_tokens, device, dtype, split.part.num_kv_heads)
    runner = GpuRunner(decoder, cache, limits, announce)
    runner.warm_up()
    if ranks.rank == 0:  # the others have nothing to draw from
        sampler.warm_up()
    return GpuModel(runner, sampler, min(max_context, capacity))


def _refuse(config: WorkerConfig, spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> None:
    """What the GPU's engine has not, or this GPU. `spec` is of the part of the model that is computed here."""
    name = str(dtype).removeprefix("torch.")
    if config.quantization == "fp8":
        why = None if dtype is torch.bfloat16 else f"they give bfloat16, and the model computes in {name}"
        for field, size in (("hidden_size", spec.hidden_size), ("intermediate_size", spec.mlp_size)):
            if size % MULTIPLE:
                why = f"they need multiples of {MULTIPLE}, and the model's {field} is {size}"
        if why := why or why_not(device):
            raise ConfigError(f"--quantization fp8: products of float8 are not there: {why}", field="quantization")
    if config.kv_cache_dtype not in ("auto", name):
        raise ConfigError(
            f"--kv-cache-dtype {config.kv_cache_dtype} is not there on a GPU yet: keys and values are of the type that "
            f"the model computes in, here {name}",
            field="kv_cache_dtype",
        )


def _check_shapes(spec: ModelSpec, block_tokens: int, dtype: torch.dtype) -> None:
    """Refuse by name the shapes that attention was not made for, before anything is loaded."""
    pool = torch.empty(1, 1, 2, spec.num_kv_heads, block_tokens, spec.head_dim, dtype=dtype, device="cpu")
    queries = torch.empty(1, spec.num_heads, spec.head_dim, dtype=dtype, device="cpu")
    check_heads(queries, pool, queries)


def _num_blocks(config: WorkerConfig, decoder: GpuDecoder, sampler: GpuSampler, limits: StepLimits) -> int:
    """As many as were asked for; else as many as fit."""
    if config.num_blocks:
        return config.num_blocks
    if "kv_memory_mb" in config.model_fields_set:
        return config.kv_memory_mb * MIB // block_size_bytes(decoder.spec, config.block_tokens, decoder.dtype)
    block_bytes = block_size_bytes(decoder.part, config.block_tokens, decoder.dtype)  # as much of one as is here
    measured = _measure(decoder, sampler, limits, config.block_tokens)
    reserve = config.device_reserve_mb * MIB
    try:
        fit = blocks_that_fit(
            measured,
            block_bytes,
            config.block_tokens,
            reserve_bytes=reserve,
            min_tokens=max(config.max_context, 2),
            share=config.device_memory_share,
        )
    except ConfigError:
        decoder.ranks.least(0)  # the others wait for word
        raise
    if not (least := decoder.ranks.least(fit)):
        raise ConfigError("on another rank's GPU too few KV blocks fit, as its log says", field="max_context")
    log.info("%d KV blocks fit beside the weights, of which %d bytes each are here", least, block_bytes)
    return least


def _measure(decoder: GpuDecoder, sampler: GpuSampler, limits: StepLimits, block_tokens: int) -> Measured:
    """Run the largest step on a pool of one block, and draw what can be asked for."""
    device = decoder.device
    pool = GpuCache(decoder.spec, 1, block_tokens, device, decoder.dtype, decoder.part.num_kv_heads)
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
    free, total = torch.cuda.mem_get_info(device)
    return Measured(total, free, torch.cuda.memory_reserved(device), activations)


def run_largest(runner: GpuRunner, sampler: GpuSampler, batch: Batch) -> None:
    """Of several ranks, rank 0 alone has logits to draw from."""
    logits = runner(batch)
    if runner.decoder.ranks.rank == 0:
        sampler(logits, batch.sampled)
