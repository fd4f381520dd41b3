"""A model made ready on a GPU: what cannot be served there is refused, and the pool takes what memory is left.

Imported only for a worker whose device is a GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from engine.batch import Batch
from engine.checkpoint import ModelFolder, load_weights
from engine.config import WorkerConfig
from engine.errors import ConfigError
from engine.gpu.cache import GpuCache, block_size_bytes
from engine.gpu.decoder import GpuDecoder
from engine.gpu.fit import fitting, num_blocks_of
from engine.gpu.runner import GpuRunner, StepLimits
from engine.gpu.sampler import GpuSampler
from engine.kernels.gpu import norm, quantize
from engine.kernels.gpu.fp8_linear import CAPABILITY, MULTIPLE, why_not
from engine.kernels.gpu.paged import E4M3, check_heads
from engine.masks import Masks
from engine.models.families import model_spec
from engine.models.spec import ModelSpec
from engine.tp.ranks import ALONE, DeviceRanks
from engine.tp.split import Split

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
    kv_dtype = E4M3 if config.kv_cache_dtype == "fp8" else dtype
    split = Split.of(spec, ranks.rank, ranks.size)
    _refuse(config, split.part, device, dtype)
    _check_shapes(split.part, config, dtype, kv_dtype)
    if config.max_context > spec.max_context:
        raise ConfigError(f"a context of {config.max_context}: the model's is {spec.max_context}", field="max_context")
    max_context = config.max_context or spec.max_context
    weights, quantized = load_weights(folder, spec, dtype, split), _QUANTIZED[config.quantization]
    numbers = f"the weights ({split.part.num_parameters:,} numbers, --quantization {config.quantization})"
    with fitting(device, numbers, "--quantization int8 or fp8, and --tensor-parallel on more GPUs, take less."):
        decoder = GpuDecoder(spec, weights, max_context, device=device, dtype=dtype, quantized=quantized, ranks=ranks)
    join()
    limits = StepLimits(config.max_sequences, config.max_step_tokens)
    with fitting(
        device, f"the sampler's rows for {config.max_sequences} sequences", "Fewer --max-sequences take less."
    ):
        sampler = GpuSampler(spec.vocab_size, config.max_sequences, device, Masks())
    num_blocks = num_blocks_of(config, decoder, sampler, limits, kv_dtype)
    capacity = num_blocks * config.block_tokens
    if config.max_context > capacity or capacity < 2:
        block_bytes = block_size_bytes(spec, config.block_tokens, kv_dtype)
        raise ConfigError(
            f"a context of {config.max_context or 2} tokens does not fit: {num_blocks} KV blocks of "
            f"{config.block_tokens} tokens ({block_bytes} bytes each) hold {capacity}",
            field="max_context",
        )
    # There was room a moment ago: this is for another process that took it meanwhile.
    with fitting(
        device, f"{num_blocks} KV blocks and captured steps", "A larger --device-reserve-mb leaves more free."
    ):
        cache = GpuCache(spec, num_blocks, config.block_tokens, device, kv_dtype, split.part.num_kv_heads)
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
        sizes = {"hidden_size": spec.hidden_size, "intermediate_size": spec.mlp_size}
        sizes |= {"width of all heads": spec.query_size, "width of queries, keys and values": _qkv_size(spec)}
        for what, size in sizes.items():
            if size % MULTIPLE:
                why = f"they need multiples of {MULTIPLE}, and the model's {what} is {size}"
        if why := why or why_not(device):
            raise ConfigError(f"--quantization fp8: products of float8 are not there: {why}", field="quantization")
    if config.kv_cache_dtype == "fp8":
        if dtype is torch.float32:
            raise ConfigError("--kv-cache-dtype fp8 is for models in bfloat16 or float16", field="kv_cache_dtype")
        if device.type == "cuda" and torch.cuda.get_device_capability(device) < CAPABILITY:
            raise ConfigError(
                "--kv-cache-dtype fp8: this GPU has no float8; it is there from compute capability 8.9 on",
                field="kv_cache_dtype",
            )
    elif config.kv_cache_dtype not in ("auto", name):
        raise ConfigError(
            f"--kv-cache-dtype {config.kv_cache_dtype} is not there on a GPU: keys and values are of the type that "
            f"the model computes in, here {name}, or fp8",
            field="kv_cache_dtype",
        )


def _qkv_size(spec: ModelSpec) -> int:
    return spec.query_size + 2 * spec.kv_size


def _check_shapes(spec: ModelSpec, config: WorkerConfig, dtype: torch.dtype, kv_dtype: torch.dtype) -> None:
    """Refuse by name the shapes that kernels were not made for, before anything is loaded."""
    if spec.hidden_size > norm.WIDEST:
        raise ConfigError(f"hidden_size is {spec.hidden_size}, and norms on a GPU have {norm.WIDEST} at most")
    widest = max(spec.hidden_size, spec.query_size, spec.mlp_size)
    if config.quantization != "none" and widest > quantize.WIDEST:
        message = f"--quantization {config.quantization}: rows of {widest} numbers are not quantized on a GPU, but of"
        raise ConfigError(f"{message} {quantize.WIDEST} at most; more --tensor-parallel", field="quantization")
    pool = torch.empty(1, 1, 2, spec.num_kv_heads, config.block_tokens, spec.head_dim, dtype=kv_dtype, device="cpu")
    queries = torch.empty(1, spec.num_heads, spec.head_dim, dtype=dtype, device="cpu")
    check_heads(queries, pool, queries)
