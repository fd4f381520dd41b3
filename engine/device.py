"""Opens the model of a worker on its device: weights, KV pool, and the identity that follows from them."""

import importlib.util
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from engine.cache import KVCache, block_size_bytes, layout_fingerprint
from engine.checkpoint import ModelFolder, model_revision
from engine.config import WorkerConfig
from engine.cost import Costs
from engine.cpus import pin
from engine.errors import ConfigError
from engine.grammar import Grammars
from engine.hub import resolve_model
from engine.identity import Identity, board_name, default_worker_id, new_incarnation
from engine.lending import with_borrowed
from engine.models.families import model_spec
from engine.profile import Limits, measure
from engine.runner import Runner, load_decoder
from engine.sampler import Sampler
from engine.shared_memory import SharedMemory, can_share_memory
from engine.source import model_name
from engine.steps import Launch, StepRunner, StepSampler
from engine.tp.ranks import ALONE
from engine.tp.team import Team, check_parallel, num_rank_threads
from engine.tp.wire import Setup
from engine.turn import Turn
from protos import worker_pb2 as pb

if TYPE_CHECKING:
    from engine.gpu.cache import GpuCache

log = logging.getLogger(__name__)

MIB = 2**20
GPU_STEP_TOKENS = {pb.ROLE_PREFILL: 8192, pb.ROLE_DECODE: 2048}
"""Prompt tokens of a step on a GPU, where none are configured: what keeps the whole chip busy in every product, and
where streams wait for it, less."""
_OF_RANKS = {
    *("block_tokens", "device_memory_share", "device_reserve_mb", "dtype", "kv_cache_dtype", "kv_memory_mb"),
    *("max_context", "max_sequences", "max_step_tokens", "num_blocks", "quantization", "tensor_parallel"),
}
"""What of a worker's configuration its ranks on GPUs must know."""


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A model that is ready to compute."""

    runner: StepRunner
    sampler: StepSampler
    cache: "KVCache | GpuCache"
    """The pool whose blocks are moved."""
    who: Identity
    shared: SharedMemory | None = None
    """What the pool lives in, if another process may map it."""
    grammars: Grammars | None = None
    """What answers can be held to."""
    launch: Launch | None = None
    """Where a step need not be waited for: how the device is given one."""
    team: Team | None = None
    """The other ranks, of a worker that has any."""

    def close(self) -> None:
        """End what computes beside this process."""
        if self.team:
            self.team.close()


def open_model(config: WorkerConfig, role: "pb.Role") -> OpenModel:
    """Load, size the pool, compile and try out. Raises ConfigError with the arithmetic when it cannot fit."""
    device = choose_device(config.device)
    check_parallel(config, device)
    num_cpus = pin(config.cpus)
    if num_threads := num_rank_threads(config, num_cpus):
        torch.set_num_threads(num_threads)  # and Numba's, which follows torch
    if config.niceness:
        os.nice(config.niceness)
    # On a thread that ends, and OpenMP's threads of it with it. Were they left asleep, OpenMP would count more threads
    # than cores, and those of the step loop would sleep, not spin, between the hundred parallel parts of a step.
    with ThreadPoolExecutor(1, thread_name_prefix="open-model") as thread:
        if config.quantization == "fp8" and device.type == "cpu":
            raise ConfigError("--quantization fp8 needs a GPU (--device cuda); a CPU has int8", field="quantization")
        if config.kv_cache_dtype == "fp8" and device.type == "cpu":
            message = "--kv-cache-dtype fp8 needs a GPU (--device cuda); a CPU has float16 and int8"
            raise ConfigError(message, field="kv_cache_dtype")
        folder = ModelFolder.open(resolve_model(config.model))
        # On this thread: processes end with who started them.
        team = Team.start(config, model_spec(folder.config), device)
        try:
            if device.type == "cuda":
                return thread.submit(open_on_gpu, config, role, device, team).result()
            return thread.submit(_open_model, config, role, folder, team).result()
        except BaseException:
            if team:
                team.close()
            raise


def choose_device(name: str) -> torch.device:
    """The device that `name` (auto, cpu, cuda, cuda:N) stands for; ConfigError says what a GPU that was asked for
    lacks."""
    if name == "cpu":
        return torch.device("cpu")
    missing = None
    if not torch.cuda.is_available():
        missing = "this torch finds no CUDA device"
    elif importlib.util.find_spec("triton") is None:
        missing = "triton is not installed: pip install 'tandem-serve[gpu]'"
    elif (index := torch.device(name).index if name != "auto" else None) is not None:
        count = torch.cuda.device_count()
        missing = f"there are {count} CUDA devices" if index >= count else None
    if name == "auto":
        return torch.device("cpu") if missing else torch.device("cuda", 0)
    if missing:
        raise ConfigError(f"--device {name}: {missing}", field="device")
    device = torch.device(name)
    return torch.device("cuda", device.index or 0)


def configured_for(config: WorkerConfig, role: "pb.Role") -> WorkerConfig:
    """With what was not configured as the worker's device wants it. Raises ConfigError as `choose_device`."""
    if choose_device(config.device).type == "cpu" or "max_step_tokens" in config.model_fields_set:
        return config
    return config.model_copy(update={"max_step_tokens": GPU_STEP_TOKENS[role]})


def open_on_gpu(config: WorkerConfig, role: "pb.Role", device: torch.device, team: Team | None = None) -> OpenModel:
    """The GPU's engine on `device`, which may be the CPU where Triton interprets its kernels."""
    from engine.gpu.launch import GpuLaunch
    from engine.gpu.open import open_gpu  # imports Triton, which a worker on a CPU need not have

    if device.type == "cuda":
        torch.cuda.set_device(device)
    folder = ModelFolder.open(resolve_model(config.model))
    with Turn() as turn:
        if team:  # the other ranks load while this one does
            team.load(_setup_on_gpu(config, role, folder, device))
            model = open_gpu(config, folder, device, team.ranks, team.join, team.announce)
            team.hold(model.runner.cache.pool)
            team.limit(config.stall_limit_s)
        else:
            model = open_gpu(config, folder, device)
        runner, sampler = model.runner, model.sampler
        costs = None
        if config.profile_s:
            turn.wait()
            limits = Limits(model.max_context, config.max_step_tokens, config.max_sequences)
            costs = measure(runner, sampler, limits, config.profile_s)
    kv_dtype = str(runner.cache.pool.dtype).removeprefix("torch.")  # a CPU's blocks of the same type are the same bytes
    who = _identity(config, role, folder, runner.cache, model.max_context, kv_dtype, (costs, None))
    grammars = Grammars(folder.path, who.vocab_size, folder.eos_token_ids)
    launch = GpuLaunch(runner, sampler)
    return OpenModel(runner, sampler, runner.cache, who, grammars=grammars, launch=launch, team=team)


def _open_model(config: WorkerConfig, role: "pb.Role", folder: ModelFolder, team: Team | None) -> OpenModel:
    spec = model_spec(folder.config)
    kv_dtype = "float32" if config.kv_cache_dtype == "auto" else config.kv_cache_dtype
    block_bytes = block_size_bytes(spec, config.block_tokens, kv_dtype)
    num_blocks = config.num_blocks or config.kv_memory_mb * MIB // block_bytes
    capacity = num_blocks * config.block_tokens
    if config.max_context > min(spec.max_context, capacity) or capacity < 2:
        raise ConfigError(
            f"a context of {config.max_context or 2} tokens does not fit: the model's is {spec.max_context}, and "
            f"{num_blocks} KV blocks of {config.block_tokens} tokens ({block_bytes} bytes each) hold {capacity}",
            field="max_context",
        )
    max_context = config.max_context or min(spec.max_context, capacity)
    began = time.monotonic()
    with Turn() as turn:
        pool_bytes = num_blocks * block_bytes
        shared = None
        if team:  # the other ranks load while this one does
            shared = team.load(_setup(config, role, folder, max_context, num_blocks, kv_dtype), pool_bytes)
        quantize, ranks = config.quantization == "int8", team.ranks if team else ALONE
        decoder = load_decoder(folder, config.dtype, max_context, quantize=quantize, ranks=ranks)
        shared = shared or _share(config, role, pool_bytes)
        buffer, heads = shared.buffer if shared else None, decoder.split.kv_heads
        cache = KVCache(spec, num_blocks, config.block_tokens, buffer, dtype=kv_dtype, heads=heads)
        if team:
            team.join()
        runner, sampler = Runner(decoder, cache, team.announce if team else None), Sampler()
        runner.warm_up()
        sampler.warm_up()
        if team:
            team.limit(config.stall_limit_s)
        limits = Limits(max_context, config.max_step_tokens, config.max_sequences)
        costs = own_costs = None
        if config.profile_s:
            turn.wait()
            with with_borrowed(config):
                costs = measure(runner, sampler, limits, config.profile_s)
            if config.borrow_cpus:
                own_costs = measure(runner, sampler, limits, config.profile_s)
    log.info(
        "model ready in %.1f s: %d KV blocks, %d MiB", time.monotonic() - began, num_blocks, cache.size_bytes // MIB
    )
    who = _identity(config, role, folder, cache, max_context, kv_dtype, (costs, own_costs))
    grammars = Grammars(folder.path, spec.vocab_size, folder.eos_token_ids)
    offered = shared if config.shared_memory == "auto" else None
    return OpenModel(runner, sampler, cache, who, offered, grammars, team=team)


def _identity(
    config: WorkerConfig,
    role: "pb.Role",
    folder: ModelFolder,
    cache: "KVCache | GpuCache",
    max_context: int,
    kv_dtype: str,
    costs: tuple[Costs | None, Costs | None],
) -> Identity:
    """`costs` are those of a step, and those without borrowed CPUs."""
    spec = model_spec(folder.config)
    name = "prefill" if role == pb.ROLE_PREFILL else "decode"
    return Identity(
        worker_id=config.worker_id or default_worker_id(name),
        role=role,
        model=model_name(config.model, config.served_model_name),
        layout=layout_fingerprint(model_revision(folder), spec, config.block_tokens, dtype=kv_dtype),
        num_blocks=cache.num_blocks,
        block_tokens=config.block_tokens,
        block_bytes=cache.block_bytes,
        vocab_size=spec.vocab_size,
        max_context=max_context,
        max_sequences=config.max_sequences,
        lease_s=config.lease_s,
        incarnation=new_incarnation(),
        max_step_tokens=config.max_step_tokens,
        costs=costs[0],
        own_costs=costs[1],
        cpu_board=board_name(config.cpu_board),
    )


def _setup(
    config: WorkerConfig, role: "pb.Role", folder: ModelFolder, max_context: int, num_blocks: int, kv_dtype: str
) -> Setup:
    """What the ranks of this worker have in common."""
    return Setup(
        rank=0,
        size=config.tensor_parallel,
        service="prefill" if role == pb.ROLE_PREFILL else "decode",
        log_level=config.log_level,
        log_format=config.log_format,
        num_threads=torch.get_num_threads(),
        folder=str(folder.path),
        dtype=config.dtype,
        quantize=config.quantization == "int8",
        max_context=max_context,
        num_blocks=num_blocks,
        block_tokens=config.block_tokens,
        kv_dtype=kv_dtype,
    )


def _setup_on_gpu(config: WorkerConfig, role: "pb.Role", folder: ModelFolder, device: torch.device) -> Setup:
    """The same for ranks with a pool each: they find out for themselves how large it is."""
    setup = _setup(config, role, folder, config.max_context, config.num_blocks, config.kv_cache_dtype)
    asked = config.model_dump_json(include=_OF_RANKS, exclude_unset=True)
    return replace(setup, device=str(device), config=asked)


def _share(config: WorkerConfig, role: "pb.Role", size_bytes: int) -> SharedMemory | None:
    """Memory for a pool that decode workers copy out of, where there is such a thing."""
    if role != pb.ROLE_PREFILL or config.shared_memory == "off" or not can_share_memory():
        return None
    try:
        return SharedMemory(size_bytes)
    except ConfigError as error:
        log.warning("%s; blocks will travel through sockets", error.message)
        return None
